"""What happens to a sample depends on the seed, the epoch and the sample, and on nothing else."""

import pickle
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from compactdet.errors import UserError
from compactdet.training.randomness import (
    Batches,
    SeededSamples,
    get_state,
    held,
    make_resumable,
    set_state,
)


class Draws(Dataset):
    """Sample i is i and what each of the three generators gives."""

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
    """Samples of each epoch by their index."""
    loader = DataLoader(Draws(), batch_size=2, num_workers=workers, sampler=order, **kwargs)
    batches = make_resumable(loader, seed)
    found = {}
    for epoch in epochs:
        batches.start(epoch, skip)
        rows = torch.cat(list(loader)).tolist()
        found[epoch] = {int(index): tuple(numbers) for index, *numbers in rows}
    return found


def test_neither_workers_nor_order_nor_place_count() -> None:
    alone = load(0, [0, 1])
    assert load(2, [0, 1]) == alone
    assert load(2, [0, 1], persistent_workers=True) == alone
    assert load(0, [1, 0], order=[5, 3, 1, 0, 2, 4]) == alone
    rest = load(2, [1], skip=2)[1]
    assert rest == {index: alone[1][index] for index in (4, 5)}
    every = [number for epoch in alone.values() for sample in epoch.values() for number in sample]
    assert len({*every}) == len(every)
    assert load(0, [0], seed=6)[0].values() != alone[0].values()


def test_the_main_generators_are_left_alone() -> None:
    before = get_state()
    load(0, [0])
    load(1, [0])
    after = drawn()
    set_state(before)
    assert drawn() == after
    set_state(before)
    with held():
        drawn()
    assert drawn() == after


def test_a_state_is_restored_from_plain_values() -> None:
    state = get_state()
    np.random.randn()  # leaves a second number for the next call
    half_used = get_state()
    expected = np.random.randn()
    set_state(half_used)
    assert np.random.randn() == expected
    assert {type(value) for value in state['numpy']} <= {str, list, int, float}


def test_it_stands_for_the_data_set() -> None:
    inner = Draws()
    samples = SeededSamples(inner)
    assert (samples.name, len(samples)) == ('draws', 6)
    samples.pipeline = 'other'  # as MMEngine's PipelineSwitchHook does
    assert inner.pipeline == 'other'
    assert pickle.loads(pickle.dumps(samples)).pipeline == 'other'
    assert samples[3][0] == 3
    with pytest.raises(AttributeError, match='absent'):
        samples.absent  # noqa: B018


def test_an_endless_order_goes_on_by_its_number() -> None:
    batches = Batches([[0, 1], [1, 0]], seed=5)
    batches.start(0, skip=1, count_from=10)
    assert [*batches] == [[(5, 11, 0, 1), (5, 11, 1, 0)]]


def test_samples_without_index_are_refused() -> None:
    class Stream(IterableDataset):
        def __iter__(self) -> Any:
            return iter(())

    with pytest.raises(UserError, match='Stream gives its samples in no batches by index'):
        make_resumable(DataLoader(Stream(), batch_size=None), 0)
