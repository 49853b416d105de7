"""Every golden cost has a second source: another library's count, or figures found elsewhere.

``golden/second_sources.json`` names it for each network: ``peer`` is a network of torchvision, timm or
pytorchcv, whose parameters and multiply-adds must be the same to the unit (but for ``bias_params``, a
bias that only the peer's classifier has), after timm's own merge of branches where ``reparameterized`` says
so; else ``source`` says whose figures the others are, to the
digits given.
"""

import importlib
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from backbones import get_arch, list_archs
from compactdet.layer_costs import count, num_params

FOLDER = Path(__file__).parent / 'golden'
GOLDEN = {row['arch']: row for row in json.loads((FOLDER / 'complexity.json').read_text())}
SOURCES: dict[str, dict[str, Any]] = json.loads((FOLDER / 'second_sources.json').read_text())
FIGURES = {
    'mflops': 'macs',
    'params_m': 'params',
    'training_mflops': 'training_macs',
    'training_params_m': 'training_params',
    'paper_mflops_counted': 'paper_size_macs',
}


def test_every_network_has_a_source() -> None:
    assert [*SOURCES] == list_archs()
    assert all(('peer' in source) != ('source' in source) for source in SOURCES.values())


def make_peer(name: str) -> nn.Module:
    """``library:network?argument=number``."""
    library, _, name = name.partition(':')
    name, _, argument = name.partition('?')
    key, _, value = argument.partition('=')
    arguments = {key: float(value)} if key else {}
    if library == 'pytorchcv':
        return pytest.importorskip('pytorchcv.model_provider').get_model(name, **arguments)
    if library == 'timm':
        return pytest.importorskip('timm').create_model(name, **arguments)
    return pytest.importorskip('torchvision').models.get_model(name, weights=None, **arguments)


@pytest.mark.filterwarnings('ignore:The default weight initialization:FutureWarning')
@pytest.mark.parametrize('name', [name for name, source in SOURCES.items() if 'peer' in source])
def test_the_peer_costs_the_same(name: str) -> None:
    source, ours = SOURCES[name], GOLDEN[name]
    with torch.device('meta'):
        peer = make_peer(source['peer']).eval()
        if source.get('reparameterized'):
            peer = importlib.import_module('timm.utils').reparameterize_model(peer)
        macs = count(peer, torch.empty(1, 3, ours['size'], ours['size'])).macs
    aux = sum(num_params(m.parameters()) for n, m in peer.named_children() if n.startswith('aux'))
    assert macs == ours['macs']
    assert num_params(peer.parameters()) - aux - source.get('bias_params', 0) == ours['params']


@pytest.mark.parametrize('name', [name for name, source in SOURCES.items() if 'source' in source])
def test_the_source_says_the_same(name: str) -> None:
    figures = {key: SOURCES[name][key] for key in FIGURES if key in SOURCES[name]}
    assert (
        figures or name in CLOSED_FORM or name in ABLATIONS or name == 'ghostnet_1.1x'
    )  # its own test: tests/test_ghostnet.py
    for key, printed in figures.items():
        digits = len(printed.partition('.')[2])
        assert f'{GOLDEN[name][FIGURES[key]] / 1e6:.{digits}f}' == printed


ABLATIONS = [*list_archs('condensenetv2_110_cifar_sfr_*'), 'condensenetv2_a_sfr']


@pytest.mark.parametrize('name', ABLATIONS[:-1])
def test_reactivation_in_closed_form(name: str) -> None:
    """A layer with c old and k new features has c k / S connections, whatever G is."""
    arch, base = get_arch(name), GOLDEN['condensenetv2_110_cifar']
    dense, params, channels = 0, 0, 16
    for k, side in ((8, 32), (16, 16), (32, 8)):
        for _ in range(12):
            dense, params, channels = dense + side**2 * channels * k, params + channels * k, channels + k
    change = 1 / arch.sfr_factor - 1 / 4
    assert GOLDEN[name]['macs'] == base['macs'] + dense * change
    assert GOLDEN[name]['params'] == base['params'] + params * change
    assert GOLDEN[name]['training_macs'] == base['training_macs']


def test_condensenetv2_a_without_attention_in_closed_form() -> None:
    """6 layers with 32 and 8 with 64 new features lose two square matrices each; the head loses two."""
    ours, base = GOLDEN['condensenetv2_a_sfr'], GOLDEN['condensenetv2_a']
    weights = 6 * 2 * 32**2 + 8 * 2 * 64**2 + 2 * 800 * 50
    assert base['macs'] - ours['macs'] == base['params'] - ours['params'] == weights


CLOSED_FORM = [n for n in list_archs('shufflenet_*') if not get_arch(n).se]


@pytest.mark.parametrize('name', CLOSED_FORM)
def test_shufflenets_in_closed_form(name: str) -> None:
    """Section 3.2: hw(2cm/g + 9m) a unit, its stride-2 form less the concatenated input."""
    arch = get_arch(name)
    groups, c_in, size = arch.groups, arch.stem_channels, 56
    macs = 112 * 112 * 27 * c_in
    for stage in arch.stages:
        c = stage.channels
        m = math.ceil(c / 4 / groups) * groups
        first_groups = 1 if stage is arch.stages[0] else groups
        macs += size**2 * c_in * m // first_groups
        size //= 2
        macs += size**2 * (9 * m + m * (c - c_in) // groups)
        macs += (stage.depth - 1) * size**2 * (2 * c * m // groups + 9 * m)
        c_in = c
    assert macs + c_in * 1000 == GOLDEN[name]['macs']
