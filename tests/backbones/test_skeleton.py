"""Skeleton nets: the budgets by count, the units against torchvision's, Xception against ShuffleNet."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet

from backbones import build_classifier
from backbones.layers import ConvBN
from backbones.networks import skeleton
from backbones.networks.skeleton import Bottleneck, VGGUnit
from compactdet.costs import arch_costs

from peers import copy_by_shape, randomize_bn

MMACS = {
    'vgg15_38m': 37.58,
    'vgg15_140m': 142.08,
    'resnet15_13m': 12.85,
    'resnet15_38m': 38.13,
    'resnet15_140m': 143.99,
    'resnext15_38m': 38.92,
    'resnext15_140m': 143.08,
    'xception15_13m': 13.16,
    'xception15_38m': 38.52,
    'xception15_140m': 143.08,
}


@pytest.mark.parametrize('name', skeleton.ARCHS)
def test_costs_fit_the_budget(name: str) -> None:
    costs = arch_costs(name)
    assert costs['macs'] / 1e6 == pytest.approx(MMACS[name], abs=0.0051)
    budget = float(name.rpartition('_')[2].removesuffix('m'))
    assert costs['paper_mflops'] == budget
    assert costs['macs'] / 1e6 == pytest.approx(budget, rel=0.03)


def test_vgg_by_hand() -> None:
    # one 3x3 in the stem; at each stride one 3x3 from the width before, the others from their own
    stem = 112**2 * 9 * 3 * 12
    stage8 = 28**2 * 9 * 8 * 12 * 12
    stage16 = 14**2 * 9 * (12 * 25 + 15 * 25 * 25)
    stage32 = 7**2 * 9 * (25 * 50 + 7 * 50 * 50)
    assert arch_costs('vgg15_38m')['macs'] == stem + stage8 + stage16 + stage32 + 50 * 1000


@pytest.mark.parametrize(('name', 'other_mmacs'), [('resnet15_38m', 35.30), ('resnext15_38m', 42.30)])
def test_the_other_shortcut_is_further_from_the_budget(
    name: str, other_mmacs: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = arch_costs(name)['macs'] / 1e6

    class Other(Bottleneck):
        def __init__(self, *args: int, concat: bool, **kwargs: int):
            super().__init__(*args, concat=not concat, **kwargs)

    monkeypatch.setattr(skeleton, 'Bottleneck', Other)
    other = arch_costs(name)['macs'] / 1e6
    assert other == pytest.approx(other_mmacs, abs=0.0051)
    assert abs(other - 38) > abs(chosen - 38)


@torch.no_grad()
@pytest.mark.parametrize('stride', [1, 2])
def test_downsampling_resnet_unit_is_torchvisions(stride: int) -> None:
    torch.manual_seed(0)
    ours = Bottleneck(12, 48, stride=stride, ratio=4, groups=1, concat=False).eval()
    shortcut = nn.Sequential(nn.Conv2d(12, 48, 1, stride=stride, bias=False), nn.BatchNorm2d(48))
    theirs = resnet.Bottleneck(12, 12, stride=stride, downsample=shortcut).eval()
    randomize_bn(theirs)
    copy_by_shape(theirs, ours)
    for size in (8, 7):
        x = torch.randn(2, 12, size, size)
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(('ratio', 'groups', 'base_width'), [(4, 1, 64), (2, 16, 8)])
def test_standard_unit_is_torchvisions(ratio: int, groups: int, base_width: int) -> None:
    torch.manual_seed(0)
    ours = Bottleneck(192, 192, stride=1, ratio=ratio, groups=groups, concat=ratio == 2).eval()
    theirs = resnet.Bottleneck(192, 48, groups=groups, base_width=base_width).eval()
    randomize_bn(theirs)
    copy_by_shape(theirs, ours)
    x = torch.randn(2, 192, 6, 5)
    torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize('stride', [1, 2])
def test_resnext_concatenates_its_pooled_input(stride: int) -> None:
    unit = Bottleneck(12, 48, stride=stride, ratio=2, groups=8, concat=True).eval()
    x = torch.randn(2, 12, 6, 6)
    pooled = nn.functional.avg_pool2d(x, 3, stride, 1)
    out = unit(x)
    assert out.shape == (2, 48, 6 // stride, 6 // stride)
    torch.testing.assert_close(out[:, 36:], pooled.relu())
    assert isinstance(unit.shortcut, nn.AvgPool2d)
    assert unit.conv.conv.groups == 8


def test_vgg_unit_has_no_shortcut() -> None:
    unit = VGGUnit(12, 12, stride=2)
    assert [type(layer) for layer in unit] == [ConvBN, ConvBN]
    assert [layer.conv.stride for layer in unit] == [(2, 2), (1, 1)]
    assert all(isinstance(layer[-1], nn.ReLU) for layer in unit)


@pytest.mark.parametrize(('stride', 'groups'), [(8, 8), (16, 16), (32, 16)])
def test_cardinality_at_38m(stride: int, groups: int) -> None:
    stage = getattr(build_classifier('resnext15_38m'), f'stage{stride}')
    assert {unit.conv.conv.groups for unit in stage} == {groups}


@torch.no_grad()
@pytest.mark.parametrize(('budget', 'scale'), [('13m', '0.25x'), ('38m', '0.5x'), ('140m', '1x')])
def test_xception_is_shufflenet_without_groups(budget: str, scale: str) -> None:
    torch.manual_seed(0)
    shufflenet = build_classifier(f'shufflenet_{scale}_g1').eval()
    xception = build_classifier(f'xception15_{budget}').eval()
    xception.load_state_dict(shufflenet.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(xception(x), shufflenet(x))
