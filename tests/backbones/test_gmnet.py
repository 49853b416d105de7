"""GM-Net: Table 1 by count, the sums by hand, the whole network against a plain reading of the table."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import StageHead, build_backbone, build_classifier, get_arch, list_archs
from backbones.networks.gmnet import AdaptionUnit, BasicUnit, Paths
from compactdet.costs import arch_costs

from peers import layers_in_order, randomize_bn


@pytest.mark.parametrize(
    ('name', 'params', 'mmacs'),
    [
        ('gmnet_a_cifar', 1_547_338, 385.7),
        ('gmnet_b_cifar', 1_547_338, 385.7),
        ('gmnet_baseline_cifar', 659_786, 159.0),
        ('gmnet_a', 1_547_338 + 990 * 385, 1197.8),  # 990 classes more
        ('gmnet_b', 1_547_338 + 990 * 385, 1197.8),
        ('gmnet_baseline', 659_786 + 990 * 385, 503.5),
    ],
)
def test_costs_are_those_of_table_1_read_literally(name: str, params: int, mmacs: float) -> None:
    costs = arch_costs(name)
    assert costs['params'] == params
    assert costs['macs'] / 1e6 == pytest.approx(mmacs, abs=0.05)
    assert costs['size'] == (32 if name.endswith('cifar') else 224)


@pytest.mark.parametrize(('name', 'layers'), [('gmnet_a_cifar', 27), ('gmnet_baseline_cifar', 23)])
def test_number_of_layers(name: str, layers: int) -> None:
    network = build_classifier(name)
    assert sum(isinstance(m, nn.Conv2d | nn.Linear) for m in network.modules()) == layers


def by_hand(
    blocks: tuple[int, ...],
    adaption: tuple[int, ...] = (4, 4, 4),
    *,
    full_and_single: bool = False,
    pointwise: bool = True,
) -> tuple[int, int]:
    """Parameters and multiply-adds of Table 1's network: equation (1) for each of its convolutions.

    ``blocks`` has the groups of BU_i, BU_m (unused with ``full_and_single``: BU_f and BU_s) and BU_e.
    """
    params, macs = 3850, 3840  # the classifier: 384 x 10 and a bias

    def conv(side: int, kernel: int, in_channels: int, out_channels: int, groups: int) -> None:
        nonlocal params, macs
        weights = kernel**2 * in_channels * out_channels // groups
        params, macs = params + weights + 2 * out_channels, macs + side**2 * weights

    def unit(side: int, in_channels: int, out_channels: int, groups: int) -> None:
        for channels in (in_channels, out_channels, out_channels):
            if pointwise:
                conv(side, 1, channels, out_channels // 2, groups)
            conv(side, 3, out_channels // 2 if pointwise else channels, out_channels, groups)

    conv(32, 3, 3, 64, 1)
    unit(32, 64, 128, blocks[0])
    conv(32, 3, 128, 128, adaption[0])
    if full_and_single:
        unit(16, 128, 256, 1)
        conv(16, 1, 128, 256, 1)
        for _ in range(3):
            conv(16, 3, 256, 256, 256)
    else:
        unit(16, 128, 256, blocks[1])
    conv(16, 3, 256, 256, adaption[1])
    unit(8, 256, 384, blocks[2])
    conv(8, 1, 384, 384, adaption[2])
    return params, macs


@pytest.mark.parametrize(
    ('name', 'costs', 'params'),
    [
        ('gmnet_a_cifar', by_hand((8, 0, 8), full_and_single=True), 1_547_338),
        ('gmnet_a_cifar_nogroups', by_hand((1, 0, 1), (1, 4, 1), full_and_single=True), 3_893_834),
        ('gmnet_a_cifar_block1', by_hand((8, 0, 1), (4, 4, 1), full_and_single=True), 3_571_786),
        ('gmnet_a_cifar_block3', by_hand((1, 0, 8), (1, 4, 4), full_and_single=True), 1_869_386),
        ('gmnet_baseline_cifar', by_hand((8, 8, 8)), 659_786),
        ('gmnet_baseline_cifar_8_2', by_hand((8, 8, 8), (2, 2, 4)), 844_106),
        ('gmnet_baseline_cifar_8_4_16_8', by_hand((8, 16, 8), (4, 8, 4)), 525_642),
        ('gmnet_baseline_cifar_4_4', by_hand((4, 4, 8)), 810_826),
        ('gmnet_baseline_cifar_nopointwise', by_hand((8, 8, 8), pointwise=False), 905_802),
        ('gmnet_baseline_cifar_nosum', by_hand((8, 8, 8)), 659_786),
    ],
)
def test_costs_of_the_ablations_by_hand(name: str, costs: tuple[int, int], params: int) -> None:
    measured = arch_costs(name)
    assert (measured['params'], measured['macs']) == costs
    assert measured['params'] == params


def test_costs_of_the_concatenating_network_by_hand() -> None:
    """Growth 20, 40, 60 from 64, 124 and 244 channels; only BU_s has groups."""
    params, macs, channels = 424 * 10 + 10, 4240, 64

    def conv(side: int, kernel: int, in_channels: int, out_channels: int, groups: int = 1) -> None:
        nonlocal params, macs
        weights = kernel**2 * in_channels * out_channels // groups
        params, macs = params + weights + 2 * out_channels, macs + side**2 * weights

    conv(32, 3, 3, 64)
    for side, growth, kernel in ((32, 20, 3), (16, 40, 3), (8, 60, 1)):
        if growth == 40:
            conv(side, 1, 124, 244)
            for _ in range(3):
                conv(side, 3, 244, 244, 244)
        for _ in range(3):
            conv(side, 1, channels, channels // 2)
            conv(side, 3, channels // 2, growth)
            channels += growth
        conv(side, kernel, channels, channels)
    measured = arch_costs('gmnet_a_cifar_concat')
    assert (measured['params'], measured['macs']) == (params, macs)
    assert params == 1_455_478  # "in a same level" as 1,547,338


def table_1(network: nn.Module, x: Tensor) -> Tensor:
    """Table 1, row by row, on the network's weights in order of use, with the groups of its row."""
    arch = network.arch
    layers = iter(layers_in_order(network))

    def conv_bn_relu(x: Tensor, groups: int) -> Tensor:
        weight, bn = next(layers)['weight'], next(layers)
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=groups)
        return F.batch_norm(x, bn['running_mean'], bn['running_var'], bn['weight'], bn['bias']).relu()

    def basic_unit(x: Tensor, groups: int) -> Tensor:
        outputs: list[Tensor] = []
        single = groups > 200
        merging = 'dense' if single and arch.merging == 'concat' else arch.merging
        for i in range(3):
            inputs = x
            if single and i == 0:
                x = conv_bn_relu(x, 1)
            elif not single and arch.pointwise:
                x = conv_bn_relu(x, groups)
            outputs.append(conv_bn_relu(x, groups))
            if merging == 'concat':
                x = torch.cat([inputs, outputs[-1]], 1)
            else:
                x = sum(outputs) if merging == 'dense' else outputs[-1]
        return outputs[0] + outputs[2] if merging == 'straight' else x

    block1, middle, block3 = arch.groups
    x = basic_unit(conv_bn_relu(x, 1), *block1)
    x = F.avg_pool2d(conv_bn_relu(x, arch.adaption_groups[0]), 2)
    x = sum(basic_unit(x, groups) for groups in middle)
    x = F.avg_pool2d(conv_bn_relu(x, arch.adaption_groups[1]), 2)
    x = conv_bn_relu(basic_unit(x, *block3), arch.adaption_groups[2])
    return F.linear(x.mean((2, 3)), **next(layers))


@torch.no_grad()
@pytest.mark.parametrize('name', list_archs('gmnet_*_cifar*'))
def test_network_is_table_1(name: str) -> None:
    torch.manual_seed(0)
    network = build_classifier(name).eval()
    randomize_bn(network)
    x = torch.randn(2, 3, 8, 8)
    expected = table_1(network, x)
    close = {'rtol': 0, 'atol': 1e-5 * expected.abs().max().item()}
    torch.testing.assert_close(network(x), expected, **close)


class Times(nn.Module):
    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


# 2, then BU_A: 3 * 2 and 5 * (2 + 6), all summed; BU_B: 3 * 2 and 5 * 6, plus the first; without: 5 * 6
@pytest.mark.parametrize(('merging', 'factor'), [('dense', 2 + 6 + 40), ('straight', 2 + 30), ('none', 30)])
def test_merging_by_hand(merging: str, factor: float) -> None:
    unit = BasicUnit(8, 16, groups=8, merging=merging)
    unit.units = nn.ModuleList(map(Times, (2, 3, 5)))
    assert unit(torch.ones(1)) == factor
    assert Paths([unit, unit])(torch.ones(1)) == 2 * factor


@torch.no_grad()
@pytest.mark.parametrize('merging', ['dense', 'straight'])
def test_a_group_runs_through_a_basic_unit_uninterrupted(merging: str) -> None:
    """Section 3.1; it is what grouping the 1x1 convolutions means."""
    unit = BasicUnit(64, 128, groups=8, merging=merging).eval()
    x = torch.randn(1, 64, 5, 5)
    changed = x.clone()
    changed[:, 8:16] += 1  # group 1 of 8
    differs = (unit(x) != unit(changed)).any(-1).any(-1).flatten()
    assert differs[16:32].any()
    assert not differs[:16].any()
    assert not differs[32:].any()


def test_dropout_in_the_first_and_the_last_basic_unit() -> None:
    names = {
        name: [f'{i}.{m.p}' for i, m in enumerate(getattr(backbone, name)) if isinstance(m, nn.Dropout)]
        for backbone in [build_backbone('gmnet_a')]
        for name in ('stage4', 'stage8', 'stage16', 'stage32')
    }
    assert names == {'stage4': ['1.0.2'], 'stage8': [], 'stage16': ['2.0.2'], 'stage32': []}


def test_frozen_stage_drops_nothing() -> None:
    x = torch.randn(1, 3, 32, 32)
    free = build_backbone('gmnet_baseline', out_strides=(4,), bn_policy='eval').train()
    frozen = build_backbone('gmnet_baseline', out_strides=(4,), frozen_stages=1).train()
    assert not torch.equal(*free(x), *free(x))
    assert torch.equal(*frozen(x), *frozen(x))


@torch.no_grad()
def test_adaption_unit_pools_the_pixels_there_are() -> None:
    unit = AdaptionUnit(8, 1, groups=4, stride=2).eval()
    unit.conv = nn.Identity()
    x = torch.arange(9.0).expand(1, 8, 9).reshape(1, 8, 3, 3)
    assert unit(x)[0, 0].tolist() == [[2, 3.5], [6.5, 8]]
    assert torch.equal(unit(x[..., :2, :2]), F.avg_pool2d(x[..., :2, :2], 2))


@torch.no_grad()
def test_stage_head_after_stride_8_holds_the_last_basic_unit() -> None:
    head = StageHead('gmnet_a', in_stride=8).eval()
    assert head(torch.randn(2, 256, 7, 7)).shape == (2, 384, 7, 7)
    assert any(isinstance(m, BasicUnit) for m in head.modules())
    assert not any(isinstance(m, BasicUnit) for m in StageHead('gmnet_a', in_stride=16).modules())


def test_pyramid_maps_are_the_basic_units() -> None:
    for name in ('gmnet_a', 'gmnet_b', 'gmnet_baseline'):
        assert get_arch(name).strides == {4: 128, 8: 256, 16: 384, 32: 384}
    assert len(list_archs('gmnet_*')) == 15


@torch.no_grad()
def test_mnist_images() -> None:
    gray = torch.rand(2, 1, 28, 28)
    maps = build_backbone('gmnet_baseline_cifar', out_strides=(1, 2, 4)).eval()(gray.expand(-1, 3, -1, -1))
    assert [tuple(m.shape[1:]) for m in maps] == [(128, 28, 28), (256, 14, 14), (384, 7, 7)]
