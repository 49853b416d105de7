"""The random transforms of a sample depend on the seed, the epoch and the sample only."""

import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from compactdet.errors import UserError
from compactdet.training.randomness import (
    ResumableBatchSampler,
    SeededDataset,
    get_generator_states,
    make_resumable,
    preserve_generators,
    set_generator_states,
)


class Draws(Dataset):
    """Sample i is i and a random number of each of the three generators."""

    name = 'draws'

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, random.random(), np.random.rand(), torch.rand(()).item()])


def drawn() -> list[float]:
    return [random.random(), np.random.rand(), torch.rand(()).item()]


def load(
    workers: int, epochs: list[int], skip: int = 0, order: Any = None, seed: int = 5, **kwargs: Any
) -> dict:
    """Return the random numbers of each epoch's samples by their index."""
    loader = DataLoader(Draws(), batch_size=2, num_workers=workers, sampler=order, **kwargs)
    batches = make_resumable(loader, seed)
    found = {}
    for epoch in epochs:
        batches.start(epoch, skip)
        rows = torch.cat(list(loader)).tolist()
        found[epoch] = {int(index): tuple(numbers) for index, *numbers in rows}
    return found


def test_samples_do_not_depend_on_workers_order_or_position() -> None:
    alone = load(0, [0, 1])
    assert load(2, [0, 1]) == alone
    assert load(2, [0, 1], persistent_workers=True) == alone
    assert load(0, [1, 0], order=[5, 3, 1, 0, 2, 4]) == alone
    rest = load(2, [1], skip=2)[1]
    assert rest == {index: alone[1][index] for index in (4, 5)}
    every = [number for epoch in alone.values() for sample in epoch.values() for number in sample]
    assert len({*every}) == len(every)
    assert load(0, [0], seed=6)[0].values() != alone[0].values()


def test_loading_does_not_change_the_main_generators() -> None:
    before = get_generator_states()
    load(0, [0])
    load(1, [0])
    after = drawn()
    set_generator_states(before)
    assert drawn() == after
    set_generator_states(before)
    with preserve_generators():
        drawn()
    assert drawn() == after


def test_a_state_is_restored_from_plain_values() -> None:
    state = get_generator_states()
    np.random.randn()  # NumPy keeps a second number for the next call
    half_used = get_generator_states()
    expected = np.random.randn()
    set_generator_states(half_used)
    assert np.random.randn() == expected
    assert {type(value) for value in state['numpy']} <= {str, list, int, float}


def test_attributes_are_those_of_the_wrapped_data_set() -> None:
    inner = Draws()
    samples = SeededDataset(inner)
    assert (samples.name, len(samples)) == ('draws', 6)
    samples.pipeline = 'other'  # as by MMEngine's PipelineSwitchHook
    assert inner.pipeline == 'other'
    assert pickle.loads(pickle.dumps(samples)).pipeline == 'other'
    assert samples[3][0] == 3
    with pytest.raises(AttributeError, match='absent'):
        samples.absent  # noqa: B018


def test_endless_batches_are_seeded_by_their_number() -> None:
    batches = ResumableBatchSampler([[0, 1], [1, 0]], seed=5)
    batches.start(0, skip=1, count_from=10)
    assert [*batches] == [[(5, 11, 0, 1), (5, 11, 1, 0)]]


def test_a_data_set_without_indices_is_an_error() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(UserError, match='Stream has no batches by sample index'):
        make_resumable(DataLoader(Stream(), batch_size=None), 0)
