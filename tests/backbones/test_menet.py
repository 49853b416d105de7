"""ME module and ShuffleNet's unit against their equations; the rules of their rows."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import build_backbone, get_arch, list_archs
from backbones.networks.menet import MEModule
from backbones.networks.shufflenet import ShuffleUnit

from peers import randomize_bn


def conv_bn(layer: nn.Module, x: Tensor, **options: int) -> Tensor:
    """Convolution and BN of a ``ConvBN``, without its activation."""
    conv, bn = (m for m in layer.modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d))
    x = F.conv2d(x, conv.weight, padding=conv.weight.shape[-1] // 2, **options)
    return F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias)


def shuffled(x: Tensor, groups: int) -> Tensor:
    """Channel j of group i becomes channel j * groups + i."""
    size = x.shape[1] // groups
    return torch.cat([x[:, i * size + j : i * size + j + 1] for j in range(size) for i in range(groups)], 1)


def combined(residual: Tensor, x: Tensor, stride: int) -> Tensor:
    if stride == 1:
        return (residual + x).relu()
    return torch.cat([residual, F.avg_pool2d(x, 3, 2, 1)], 1).relu()


@torch.no_grad()
@pytest.mark.parametrize('combine', ['product', 'add'])
@pytest.mark.parametrize(('in_channels', 'stride'), [(48, 1), (24, 2)])
def test_module_follows_the_equations(in_channels: int, stride: int, combine: str) -> None:
    """Equations (4) to (7) of arXiv:1803.09127 and Fig. 3; the ablation of Table VII."""
    torch.manual_seed(0)
    module = MEModule(
        in_channels, 48, stride=stride, groups=3, first_groups=3, fusion_channels=5, combine=combine
    ).eval()
    randomize_bn(module)
    x = torch.randn(2, in_channels, 8, 8)
    reduced = shuffled(conv_bn(module.reduce, x, groups=3).relu(), 3)
    merged = conv_bn(module.merge, reduced).relu()
    evolved = conv_bn(module.evolve, merged, stride=stride).relu()
    matched = conv_bn(module.match, evolved)
    features = conv_bn(module.depthwise, reduced, stride=stride, groups=12)
    fused = features * matched.sigmoid() if combine == 'product' else features + matched
    residual = conv_bn(module.expand, fused, groups=3)
    torch.testing.assert_close(module(x.clone()), combined(residual, x, stride), rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize('shuffle', [True, False])
@pytest.mark.parametrize(('in_channels', 'stride'), [(48, 1), (24, 2)])
def test_shuffle_unit_follows_figure_2(in_channels: int, stride: int, shuffle: bool) -> None:
    """Fig. 2 b and c of arXiv:1707.01083; without shuffle, the ablation of its Table 3."""
    torch.manual_seed(0)
    unit = ShuffleUnit(
        in_channels, 48, stride=stride, groups=3, first_groups=3, shuffle=shuffle, se=False
    ).eval()
    randomize_bn(unit)
    x = torch.randn(2, in_channels, 8, 8)
    reduced = conv_bn(unit.reduce, x, groups=3).relu()
    reduced = shuffled(reduced, 3) if shuffle else reduced
    features = conv_bn(unit.depthwise, reduced, stride=stride, groups=12)
    residual = conv_bn(unit.expand, features, groups=3)
    torch.testing.assert_close(unit(x.clone()), combined(residual, x, stride), rtol=0, atol=1e-5)


def test_rows_follow_the_rules() -> None:
    """Section III-C: widths, depths, groups, fusion channels alpha^(i-2) k. ShuffleNet has 50 layers."""
    for name in list_archs('menet_*'):
        arch = get_arch(name)
        _, width, fusion, *_ = name.split('_')
        k, alpha = (float(number) for number in fusion.split('x'))
        assert [stage.channels for stage in arch.stages] == [int(width) * 2**i for i in range(3)]
        assert [stage.depth for stage in arch.stages] == [4, 8, 4]
        assert arch.fusion == tuple(int(k * alpha**i) for i in range(3))
        assert arch.groups in (3, 4, 8)
        assert f'_g{arch.groups}' in name
    assert 3 * sum(stage.depth for stage in get_arch('shufflenet_1x_g3').stages) + 2 == 50


def test_bottleneck_and_first_convolution() -> None:
    """A quarter of the module's output; groups everywhere but in the first pointwise convolution."""
    with torch.device('meta'):
        network = build_backbone('menet_228_12x1_g3', out_strides=(16,))
    modules = [m for m in network.modules() if isinstance(m, MEModule)]
    assert len(modules) == 12
    for i, module in enumerate(modules):
        width = 57 if i < 4 else 114
        reduce, expand = (
            next(m for m in part.modules() if isinstance(m, nn.Conv2d))
            for part in (module.reduce, module.expand)
        )
        assert (reduce.out_channels, expand.in_channels) == (width, width)
        assert (reduce.groups, expand.groups) == (1 if i == 0 else 3, 3)
