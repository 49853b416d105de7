"""Random numbers that a training can stop and go on with, bit for bit.

Two sources are kept apart. What the network draws (a RoI sampler, dropout) comes from the process's main
generators, whose state is in the checkpoint. What happens to an image on its way (flips, crops) depends on
the seed, the epoch and the image alone: not on the worker that loads it, nor on what was loaded before.
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


def get_state(gpu: bool = True) -> dict[str, Any]:
    """The state of the generators of Python, NumPy, PyTorch and, with ``gpu``, this process's GPU."""
    numpy_state: Any = np.random.get_state()
    kind, key, *rest = numpy_state
    state = {
        'python': random.getstate(),
        'numpy': (kind, key.tolist(), *rest),  # plain numbers: all that a checkpoint may hold
        'torch': torch.get_rng_state(),
    }
    if gpu and torch.cuda.is_available() and torch.cuda.is_initialized():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_state(state: dict[str, Any]) -> None:
    """Puts the generators back; the GPU's too, where the state has one and there is a GPU."""
    random.setstate(state['python'])
    kind, key, *rest = state['numpy']
    np.random.set_state((kind, np.array(key, np.uint32), *rest))
    torch.set_rng_state(state['torch'])
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'])


@contextlib.contextmanager
def held(gpu: bool = True) -> Iterator[None]:
    """Leaves the generators as they are, whatever is drawn inside."""
    state = get_state(gpu)
    try:
        yield
    finally:
        set_state(state)


class SeededSamples(Dataset):
    """A data set whose sample is the same whoever loads it, and whenever.

    Its index is a tuple such as ``(seed, epoch, index)``, of which all seed the generators of Python, NumPy
    and PyTorch (CPU) while the sample is made; an integer is passed on. Else it stands for the data set
    that it wraps: every attribute is that one's.
    """

    def __init__(self, samples: Any):
        vars(self)['_samples'] = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, position: int | tuple[int, ...]) -> Any:
        if not isinstance(position, tuple):
            return self._samples[position]
        words = [int(word) for word in np.random.SeedSequence(position).generate_state(3)]
        with held(gpu=False):
            random.seed(words[0])
            np.random.seed(words[1])
            torch.default_generator.manual_seed(words[2])
            return self._samples[position[-1]]

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or '_samples' not in vars(self):  # asked of while it is unpickled
            raise AttributeError(name)
        return getattr(self._samples, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._samples, name, value)  # MMEngine's hooks change a pipeline like this


class Batches:
    """A batch sampler that can start at any batch and says of each sample what seeds it.

    The turn travels with the index, so it reaches workers that live longer than an epoch.

    Args:
        batches: The batch sampler whose batches they are: the order is its own business.
        seed: Of the run.
    """

    def __init__(self, batches: Any, seed: int):
        self.batches = batches
        self.seed = seed
        self.start(0)

    @property
    def sampler(self) -> Any:
        """The sampler inside."""
        return getattr(self.batches, 'sampler', None)

    def __len__(self) -> int:
        return len(self.batches)

    def start(self, turn: int, skip: int = 0, count_from: int | None = None) -> None:
        """What the next iterator begins with.

        Args:
            turn: The epoch. Samplers that shuffle are told.
            skip: Batches of it that were used already; they are not loaded.
            count_from: Number of its first batch, where each batch is a turn of its own: a sampler
                without end has no epochs.
        """
        self.turn, self.skip, self.count_from = turn, skip, count_from
        for sampler in (self.batches, self.sampler):
            if hasattr(sampler, 'set_epoch'):
                sampler.set_epoch(turn)

    def reseed(self, seed: int) -> None:
        """Takes another run's seed, for the order too."""
        self.seed = seed
        for sampler in (self.batches, self.sampler):
            if hasattr(sampler, 'seed'):
                sampler.seed = seed

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        seed, epoch, count_from = self.seed, self.turn, self.count_from
        for number, batch in itertools.islice(enumerate(self.batches, count_from or 0), self.skip, None):
            if count_from is None:
                yield [(seed, epoch, index) for index in batch]
            else:
                yield [(seed, number, place, index) for place, index in enumerate(batch)]


def make_resumable(loader: DataLoader, seed: int) -> Batches:
    """Seeds a loader's samples, and lets it start in the middle of an epoch.

    Its iterators draw from a generator of their own.

    Raises:
        UserError: Its samples have no index.
    """
    if isinstance(loader.batch_sampler, Batches):
        return loader.batch_sampler
    if loader.batch_sampler is None:
        raise UserError(
            f'train_dataloader: {type(loader.dataset).__name__} gives its samples in no batches by index, '
            'so a training could not go on in the middle of an epoch; use a map-style data set'
        )
    batches = Batches(loader.batch_sampler, seed)
    # PyTorch forbids to assign these to a loader that is built; nothing was derived from them yet.
    vars(loader).update(dataset=SeededSamples(loader.dataset), batch_sampler=batches)
    loader.generator = torch.Generator().manual_seed(seed)
    return batches
