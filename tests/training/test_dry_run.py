"""Parts of a config that do not fit together are found before the first step, in one line."""

import copy
from pathlib import Path
from typing import Any

import pytest

from compactdet.config.options import TrainOptions, config_from_options
from compactdet.errors import UserError
from compactdet.training.train import train

pytestmark = pytest.mark.usefixtures('plain_config_text')


def refusal(tiny_config: Path, folder: Path, **changes: Any) -> str:
    """Return the error of a training with these values of the config; nothing may be left of it."""
    options = {key.replace('__', '.'): value for key, value in changes.items()}
    with pytest.raises(UserError) as caught:
        train(TrainOptions(str(tiny_config), str(folder), cfg_options=options))
    assert not [*folder.rglob('*.pth'), *folder.rglob('*record.json')]
    prefix, _, text = str(caught.value).partition(': ')
    assert prefix == str(tiny_config)
    assert '\n' not in text
    return text


def steps(cfg: Any, split: str, *without: str) -> list[Any]:
    """Return a pipeline of a config without some steps."""
    pipeline = copy.deepcopy(cfg[f'{split}_dataloader'].dataset.pipeline)
    return [dict(step) for step in pipeline if step['type'] not in without]


def test_pipelines_and_evaluators(tiny_config: Path, tmp_path: Path) -> None:
    cfg = config_from_options(TrainOptions(str(tiny_config)))
    wrong = {'train_dataloader__dataset__pipeline': [*steps(cfg, 'train')[1:]]}
    assert refusal(tiny_config, tmp_path / 'a', **wrong).startswith(
        'train_dataloader.dataset.pipeline fails: '
    )
    wrong = {'test_dataloader__dataset__pipeline': steps(cfg, 'test', 'Resize')}
    text = refusal(tiny_config, tmp_path / 'b', **wrong)
    assert text.startswith('test_dataloader.dataset.pipeline sets no scale_factor')
    wrong = {'val_dataloader__dataset__pipeline': steps(cfg, 'val', 'LoadAnnotations')}
    assert refusal(tiny_config, tmp_path / 'c', **wrong).startswith('val_evaluator fails: ')


def test_a_first_step_that_fails(tiny_config: Path, tmp_path: Path) -> None:
    wrong = {'model__train_cfg__rcnn__sampler__num': 'eight'}
    text = refusal(tiny_config, tmp_path / 'run', **wrong)
    assert text.startswith('the first training step fails: ')
    (log,) = (tmp_path / 'run').rglob('*.log')
    assert 'Traceback' in log.read_text()
    assert text.endswith(f'change these parts of the config (traceback: {log.parent})')
