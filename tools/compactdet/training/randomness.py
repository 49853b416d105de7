"""Random numbers that are identical, bit for bit, after training was stopped and resumed.

There are two sources. The model (RoI sampler, dropout) draws from the main generators of the process, whose
states are in the checkpoint. Image transforms (flips, crops) depend only on the seed, the epoch and the
image: not on the worker process that loads the image, nor on the images loaded before.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from compactdet.errors import UserError


def get_generator_states(gpu: bool = True) -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy and PyTorch.

    Args:
        gpu: Whether to include the generator of this process's GPU, if the process uses one.
    """
    numpy_state: Any = np.random.get_state()
    kind, key, *rest = numpy_state
    state = {
        'python': random.getstate(),
        'numpy': (kind, key.tolist(), *rest),  # a checkpoint holds tensors and plain values only
        'torch': torch.get_rng_state(),
    }
    if gpu and torch.cuda.is_available() and torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_generator_states(state: dict[str, Any]) -> None:
    """Restore the generators' states; the GPU's only if ``state`` has one and there is a GPU."""
    random.setstate(state['python'])
    kind, key, *rest = state['numpy']
    np.random.set_state((kind, np.array(key, np.uint32), *rest))
    torch.set_rng_state(state['torch'])
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'])


@contextlib.contextmanager
def preserve_generators(gpu: bool = True) -> Iterator[None]:
    """Restore the generators' states on exit."""
    state = get_generator_states(gpu)
    try:
        yield
    finally:
        set_generator_states(state)


class SeededDataset(Dataset):
    """A data set whose random transforms depend only on the index of the sample.

    An index is a tuple such as ``(seed, epoch, index)``: all its numbers seed the generators of Python,
    NumPy and PyTorch (CPU) while the sample is made. An integer index is passed to the wrapped data set
    unchanged. All attributes are those of the wrapped data set.
    """

    def __init__(self, dataset: Any):
        vars(self)['_dataset'] = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int | tuple[int, ...]) -> Any:
        if not isinstance(index, tuple):
            return self._dataset[index]
        seeds = [int(number) for number in np.random.SeedSequence(index).generate_state(3)]
        with preserve_generators(gpu=False):
            random.seed(seeds[0])
            np.random.seed(seeds[1])
            torch.default_generator.manual_seed(seeds[2])
            return self._dataset[index[-1]]

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or '_dataset' not in vars(self):  # unpickling looks attributes up
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._dataset, name, value)  # MMEngine's hooks replace a pipeline this way


class ResumableBatchSampler:
    """A batch sampler that can start at any batch, and gives each sample the index of a `SeededDataset`.

    The epoch is part of the index, so persistent worker processes receive it too.

    Args:
        batch_sampler: The batch sampler that determines the order.
        seed: Seed of the run.
    """

    def __init__(self, batch_sampler: Any, seed: int):
        self.batch_sampler = batch_sampler
        self.seed = seed
        self.start(0)

    @property
    def sampler(self) -> Any:
        """The sampler of the wrapped batch sampler."""
        return getattr(self.batch_sampler, 'sampler', None)

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def start(self, epoch: int, skip: int = 0, count_from: int | None = None) -> None:
        """Set the position of the next iterator.

        Args:
            epoch: Epoch number, passed to samplers that shuffle.
            skip: Number of batches of the epoch that were used already; they are not loaded.
            count_from: Number of the epoch's first batch if samples are seeded by the batch number instead
                of the epoch, since a sampler without end has no epochs.
        """
        self.epoch, self.skip, self.count_from = epoch, skip, count_from
        for sampler in (self.batch_sampler, self.sampler):
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(epoch)

    def set_seed(self, seed: int) -> None:
        """Set the seed of the samples and of their order."""
        self.seed = seed
        for sampler in (self.batch_sampler, self.sampler):
            if hasattr(sampler, 'seed'):
                sampler.seed = seed

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        seed, epoch, count_from = self.seed, self.epoch, self.count_from
        numbered = enumerate(self.batch_sampler, count_from or 0)
        for number, batch in itertools.islice(numbered, self.skip, None):
            if count_from is None:
                yield [(seed, epoch, index) for index in batch]
            else:
                yield [(seed, number, place, index) for place, index in enumerate(batch)]


def make_resumable(loader: DataLoader, seed: int) -> ResumableBatchSampler:
    """Change a data loader so that it seeds its samples and can start in the middle of an epoch.

    The loader gets a generator of its own.

    Args:
        loader: A training data loader; changed in place.
        seed: Seed of the run.

    Raises:
        UserError: The loader's data set has no sample indices.
    """
    if isinstance(loader.batch_sampler, ResumableBatchSampler):
        return loader.batch_sampler
    if loader.batch_sampler is None:
        raise UserError(
            f'train_dataloader: {type(loader.dataset).__name__} has no batches by sample index, so '
            'training could not resume in the middle of an epoch; use a map-style data set'
        )
    batch_sampler = ResumableBatchSampler(loader.batch_sampler, seed)
    # PyTorch forbids assigning these attributes; no iterator depends on them yet.
    vars(loader).update(dataset=SeededDataset(loader.dataset), batch_sampler=batch_sampler)
    loader.generator = torch.Generator().manual_seed(seed)
    return batch_sampler
