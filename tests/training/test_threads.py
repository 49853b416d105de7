"""The number of threads of a training."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from compactdet.config.options import TrainOptions
from compactdet.pretraining import train as pretraining_train
from compactdet.pretraining.options import PretrainOptions
from compactdet.training import train
from compactdet.training.threads import set_threads

ROOT = Path(__file__).parents[2]


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


class StopError(Exception):
    pass


@pytest.mark.parametrize(
    ('module', 'options', 'config'),
    [
        (train, TrainOptions, 'det_configs/menet_frcnn_shapes.py'),
        (pretraining_train, PretrainOptions, 'det_configs/pretrain/menet_cifar10.py'),
    ],
)
def test_a_training_sets_its_threads(
    module: Any, options: Any, config: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(threads: int | None) -> None:
        raise StopError(threads)

    monkeypatch.setattr(module, 'set_threads', stop)
    with pytest.raises(StopError, match='3'):
        module.train(options(config=str(ROOT / config), threads=3, work_dir=str(tmp_path / 'run')))
    assert not (tmp_path / 'run').exists()
