"""Logging of a training to TensorBoard and other services."""

import importlib.util
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import VISUALIZERS
from mmengine.visualization import Visualizer  # noqa: F401 -- registers it

from compactdet.config.log_services import set_log_services
from compactdet.errors import UserError


def test_a_missing_package_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(UserError, match='--log wandb needs the package wandb; run `python -m pip install'):
        set_log_services(Config(), ['wandb'])


def test_backends_are_added_once_to_those_of_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: name)
    cfg = Config(dict(visualizer=dict(type='Visualizer', vis_backends=[dict(type='MLflowVisBackend')])))
    set_log_services(cfg, ['mlflow', 'tensorboard'])
    types = [backend['type'] for backend in cfg.visualizer.vis_backends]
    assert types == ['MLflowVisBackend', 'TensorboardVisBackend']


def test_scalars_are_in_the_files_of_tensorboard(tmp_path: Path) -> None:
    reader = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    cfg = Config()
    set_log_services(cfg, ['tensorboard'])
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, name=str(tmp_path), save_dir=str(tmp_path)))
    visualizer.add_scalars({'loss': 0.5}, step=3)
    visualizer.close()
    (events,) = tmp_path.rglob('events.out.tfevents.*')
    log = reader.EventAccumulator(str(events)).Reload()
    assert [(event.step, event.value) for event in log.Scalars('loss')] == [(3, 0.5)]
