from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from backbones.weights import WeightsInfo


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
