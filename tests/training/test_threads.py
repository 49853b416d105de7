"""The number of threads of a training."""

import os

import pytest
import torch

from compactdet.training.threads import set_threads


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU machine with four cores, of which PyTorch would use all."""
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: {0, 1, 2, 3}, raising=False)
    number = [4]
    monkeypatch.setattr(torch, 'set_num_threads', lambda n: number.__setitem__(0, n))
    monkeypatch.setattr(torch, 'get_num_threads', lambda: number[0])


@pytest.mark.parametrize(
    ('load', 'threads', 'advice'),
    [(0.3, None, None), (1.0, None, 3), (2.4, None, 2), (9.0, None, 1), (2.4, 2, None), (9.0, 1, None)],
)
def test_a_note_where_threads_have_no_core(
    load: float,
    threads: int | None,
    advice: int | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(os, 'getloadavg', lambda: (load, 0, 0), raising=False)
    set_threads(threads)
    assert torch.get_num_threads() == (threads or 4)
    note = capsys.readouterr().err
    assert (f'--threads {advice} ' in note) if advice else note == ''
