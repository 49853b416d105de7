from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tiny import REPO, TINY_CONFIG

# Before PyTorch is imported, here and in the processes that tests start: several workers whose threads wait
# for each other are far slower than one thread each.
os.environ.setdefault('OMP_NUM_THREADS', '1')

if TYPE_CHECKING:
    from torch import Tensor

    from backbones.weights import WeightsInfo


@pytest.fixture(autouse=True)
def no_default_scope_is_left() -> Iterator[None]:
    """A runner leaves MMEngine's default scope set, in which the next test would look classes up."""
    yield
    if 'mmengine' in sys.modules:
        from mmengine.registry import DefaultScope

        DefaultScope._instance_dict.clear()


@pytest.fixture(scope='session')
def shared() -> Path:
    """The folder of real data and weights beside the checkout; absent on a fresh machine."""
    folder = Path(__file__).parents[2] / 'shared'
    if not folder.is_dir():
        pytest.skip('needs ../shared')
    return folder


@pytest.fixture(scope='session')
def random_state() -> Callable[..., dict[str, Tensor]]:
    """Makes a classifier's entries, each (BN statistics too) unlike what a constructor gives."""
    import torch

    from backbones import build_classifier
    from backbones.weights import is_counter

    def make(arch: str, **kwargs: object) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(0)
        with torch.device('meta'):
            state = build_classifier(arch, **kwargs).state_dict()
        return {
            key: torch.rand(value.shape, generator=generator) + 0.5
            for key, value in state.items()
            if not is_counter(key)
        }

    return make


@pytest.fixture(scope='session')
def weights_info() -> WeightsInfo:
    from backbones.weights import Pretraining, WeightsInfo

    pretraining = Pretraining(data='noise', top1=0.1)
    return WeightsInfo(arch='menet_108_8x1_g3', pretraining=pretraining, source='a test')


@pytest.fixture(scope='session')
def state(random_state, weights_info) -> dict[str, Tensor]:
    return random_state(weights_info.arch)


@pytest.fixture(scope='session')
def weights_file(tmp_path_factory, state, weights_info) -> Path:
    """A weights file of ours that says it is ``weights_info``; tests only read it."""
    from backbones.weights import save_weights

    path = tmp_path_factory.mktemp('weights') / 'x.safetensors'
    save_weights(path, state, weights_info)
    return path


@pytest.fixture(scope='session')
def tiny_set(tmp_path_factory) -> Path:
    """Nine drawn images in VOC's format: 4 to train, 2 to validate, 3 to test."""
    from compactdet.data import shapes

    spec = shapes.Spec(images={'train': 4, 'val': 2, 'test': 3})
    return shapes.ensure(tmp_path_factory.mktemp('data') / 'tiny', spec)


@pytest.fixture(scope='session')
def tiny_config(tiny_set, tmp_path_factory) -> Path:
    """A small detector, trained on the tiny set in a few seconds."""
    from compactdet.data import shapes

    classes = tuple(shapes.CLASSES)
    dataset = f"type='VOCFormatDataset', data_root={str(tiny_set)!r}, metainfo=dict(classes={classes})"
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    path.write_text(TINY_CONFIG.format(configs=REPO / 'det_configs', dataset=dataset))
    return path


@pytest.fixture(scope='session')
def plain_config_text() -> Iterator[None]:
    """MMEngine formats the text of a config whenever it stores it: half the time of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('yapf.yapflib.yapf_api.FormatCode', lambda text, **_: (text, True))
        yield


@pytest.fixture(scope='session')
def tiny_run(plain_config_text, tiny_config, tmp_path_factory) -> Path:
    """The folder of a finished run of it, seed 3; tests only read it."""
    from compactdet.config.options import TrainOptions
    from compactdet.training.train import train

    folder = tmp_path_factory.mktemp('runs') / 'tiny'
    return train(TrainOptions(str(tiny_config), str(folder), seed=3)).parent


@pytest.fixture
def run_tool(monkeypatch, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs a tool by its name as its command does: (exit status, standard output, standard error)."""

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        path = REPO / 'tools' / f'{name}.py'
        monkeypatch.setattr(sys, 'argv', [str(path), *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(path), run_name='__main__')
        return (caught.value.code, *capsys.readouterr())

    return run


@pytest.fixture
def refused(run_tool, tmp_path) -> Callable[..., str]:
    """Runs a tool with a work dir; returns its one line. Nothing half-written may be left there."""

    def run(tool: str, *arguments: object, work_dir: Path = tmp_path / 'work', made: bool = False) -> str:
        status, out, err = run_tool(tool, *arguments, '--work-dir', work_dir)
        assert status == 1
        assert 'Traceback' not in out
        assert err.startswith('error: ')
        assert err.count('\n') == 1
        assert err.endswith('\n')
        assert work_dir.is_dir() == made
        left = [path.name for path in work_dir.rglob('*') if path.is_file()] if made else []
        assert [name for name in left if name.endswith(('.part', '.tmp')) or name == 'record.json'] == []
        return err.removeprefix('error: ').rstrip('\n')

    return run
