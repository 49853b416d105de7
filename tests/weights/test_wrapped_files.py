"""Published weights in the wrappers of training programs, and values beside them."""

import argparse
import datetime
from pathlib import Path, PurePosixPath

import pytest
import torch

from backbones import get_arch
from compactdet.weights.convert import convert
from compactdet.weights.formats import FORMATS, NOT_STATED

ARCH = 'menet_108_8x1_g3'


@pytest.fixture(scope='module')
def published(random_state) -> dict[str, torch.Tensor]:
    """Entries in the format of the MENet authors."""
    layers = {ours: name for name, ours in FORMATS[0].layer_names(get_arch(ARCH)).items()}
    parts = ((key.rpartition('.'), value) for key, value in random_state(ARCH).items())
    return {f'{layers[layer]}.{leaf}': value for (layer, _, leaf), value in parts}


@pytest.mark.parametrize(
    ('key', 'prefix'),
    [('net', 'module.'), ('state_dict', 'model.'), ('model', '_orig_mod.module.'), ('', 'backbone.')],
)
def test_wrapped_weights(published, tmp_path: Path, key: str, prefix: str) -> None:
    entries = {prefix + name: value for name, value in published.items()}
    beside = {
        'args': argparse.Namespace(lr=0.1, out=Path('x')),
        'time': datetime.datetime.now(datetime.timezone.utc),
        'folder': PurePosixPath('x'),
    }
    torch.save({key: entries, **beside} if key else entries, tmp_path / 'x.pth')
    state_dict, info = convert(tmp_path / 'x.pth', ARCH)
    assert len(state_dict) == len(published)
    assert 'moving average' not in info.source
    assert info.pretraining.recipe is None  # not a published file, though it has the format of one


def test_a_moving_average_and_a_trunk_without_classifier(published, tmp_path: Path) -> None:
    trunk = {name: value for name, value in published.items() if name.startswith('features.')}
    assert len(trunk) < len(published)
    torch.save({'state_dict': published, 'model_ema': trunk}, tmp_path / 'x.pth')
    state_dict, _ = convert(tmp_path / 'x.pth', ARCH)
    assert len(state_dict) == len(published)  # the preferred key
    torch.save({'state_dict': published, 'state_dict_ema': trunk}, tmp_path / 'x.pth')
    state_dict, info = convert(tmp_path / 'x.pth', ARCH)
    assert len(state_dict) == len(trunk)
    assert ', moving average of the weights, file x.pth' in info.source
    assert info.pretraining.data == NOT_STATED
