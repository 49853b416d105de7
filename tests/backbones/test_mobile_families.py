"""MobileNetV2, MobileNetV3, MobileNeXt and IGCV3-D against the libraries that hold them, and by hand."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from backbones import StageHead, build_backbone, build_classifier, get_arch
from backbones.base import config_type
from backbones.layers import ConvBN
from backbones.networks.igcv3 import InterleavedUnit, Unit
from compactdet.costs import arch_costs

from peers import copy_by_shape, randomize_bn

TENSORFLOW = dict(padding='same', bn_eps=1e-3)


def torchvision_network(name: str, **kwargs: float) -> nn.Module:
    models = pytest.importorskip('torchvision.models')
    return getattr(models, name)(**kwargs)


def timm_network(name: str) -> nn.Module:
    return pytest.importorskip('timm').create_model(name)


def pytorchcv_igcv3(width: float) -> nn.Module:
    igcv3 = pytest.importorskip('pytorchcv.models.igcv3')
    network = igcv3.get_igcv3(width_scale=width)
    network.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs fits images of 224 only
    return network


PEERS = [
    ('mobilenetv2_0.4x', partial(torchvision_network, 'mobilenet_v2', width_mult=0.4), {}),
    ('mobilenetv2_0.75x', partial(torchvision_network, 'mobilenet_v2', width_mult=0.75), {}),
    ('mobilenetv2_1x', partial(torchvision_network, 'mobilenet_v2'), {}),
    ('mobilenetv2_1x', partial(timm_network, 'mobilenetv2_100'), {}),
    ('mobilenetv3_large_1x', partial(torchvision_network, 'mobilenet_v3_large'), {'bn_eps': 1e-3}),
    ('mobilenetv3_small_1x', partial(torchvision_network, 'mobilenet_v3_small'), {'bn_eps': 1e-3}),
    ('mobilenetv3_large_1x', partial(timm_network, 'mobilenetv3_large_100'), {}),
    ('mobilenetv3_small_1x', partial(timm_network, 'mobilenetv3_small_100'), {}),
    ('mobilenetv3_large_0.75x', partial(timm_network, 'mobilenetv3_large_075'), {}),
    ('mobilenetv3_small_0.75x', partial(timm_network, 'mobilenetv3_small_075'), {}),
    ('mobilenetv3_large_1x', partial(timm_network, 'tf_mobilenetv3_large_100'), TENSORFLOW),
    ('mobilenetv3_small_0.75x', partial(timm_network, 'tf_mobilenetv3_small_075'), TENSORFLOW),
    ('igcv3d_0.7x', partial(pytorchcv_igcv3, 0.8), {}),
    ('igcv3d_1x', partial(pytorchcv_igcv3, 1.0), {}),
]


def num_params(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@torch.no_grad()
@pytest.mark.parametrize(('name', 'make_peer', 'conventions'), PEERS)
def test_peer_has_the_same_cost_and_outputs(name: str, make_peer: partial, conventions: dict) -> None:
    torch.manual_seed(0)
    peer = make_peer().eval()
    network = build_classifier(name, conventions=conventions).eval()
    assert num_params(network) == num_params(peer) == arch_costs(name)['params']

    randomize_bn(peer)
    copy_by_shape(peer, network)
    for size in ((96, 96), (75, 109)):
        x = torch.randn(2, 3, *size)
        expected = peer(x)
        assert (network(x) - expected).abs().max() <= 1e-5 * expected.abs().max()

    with FlopCounterMode(display=False) as counter:
        peer.to('meta')(torch.empty(1, 3, 224, 224, device='meta'))
    assert arch_costs(name)['macs'] == counter.get_total_flops() // 2


# Parameters and multiply-adds in millions, of the authors' published code run with an independent count.
AUTHORS = {
    'mobilenext_0.35x': (1.91, 75.1),
    'mobilenext_0.5x': (2.15, 103.3),
    'mobilenext_0.75x': (2.77, 207.9),
    'mobilenext_1x': (3.54, 311.3),
    'mobilenetv2_0.4x': (None, 80.70),
    'mobilenetv2_0.75x': (None, 209.07),
    'mobilenetv3_large_0.75x': (3.994, 154.56),
    'mobilenetv3_large_1x': (5.483, 216.59),
    'igcv3d_0.7x': (2.79, 214.5),
    'igcv3d_1x': (None, 312.97),
}


@pytest.mark.parametrize(('name', 'figures'), AUTHORS.items())
def test_costs_are_the_authors(name: str, figures: tuple[float | None, float]) -> None:
    row = arch_costs(name)
    for measured, figure in zip((row['params'], row['macs']), figures, strict=True):
        if figure is not None:
            digits = len(str(figure).partition('.')[2])
            assert round(measured / 1e6, digits) == pytest.approx(figure, abs=0.5 * 10**-digits)


def convolutions(module: nn.Module) -> list[tuple[int, int, int, int, int]]:
    """Input and output channels, kernel size, stride and groups of each."""
    return [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.groups)
        for m in module.modules()
        if isinstance(m, nn.Conv2d)
    ]


def activations(module: nn.Module) -> list[str]:
    """By the convolutions after which they stand: 'expand', ..."""
    return [name for name, m in module.named_children() if isinstance(m, ConvBN) and hasattr(m, 'act')]


def test_an_inverted_residual_is_linear_at_its_end_and_expands_only_if_told() -> None:
    network = build_classifier('mobilenetv2_1x', num_classes=10)
    first, second = network.stage2[0], network.stage4[0]
    assert convolutions(first) == [(32, 32, 3, 1, 32), (32, 16, 1, 1, 1)]
    assert convolutions(second) == [(16, 96, 1, 1, 1), (96, 96, 3, 2, 96), (96, 24, 1, 1, 1)]
    assert activations(first) == ['depthwise']
    assert activations(second) == ['expand', 'depthwise']


def test_a_bneck_is_its_line_of_the_table() -> None:
    network = build_classifier('mobilenetv3_small_1x', num_classes=10)
    first, fifth = (
        network.stage4[0],
        network.stage16[1],
    )  # 3x3, 16, 16, SE, RE, 2 and 5x5, 240, 40, SE, HS, 1
    assert convolutions(first) == [
        (16, 16, 3, 2, 16),
        (16, 8, 1, 1, 1),  # a quarter is 4: at least 8
        (8, 16, 1, 1, 1),
        (16, 16, 1, 1, 1),
    ]
    assert convolutions(fifth)[1:4] == [(240, 240, 5, 1, 240), (240, 64, 1, 1, 1), (64, 240, 1, 1, 1)]
    assert isinstance(first.depthwise.act, nn.ReLU)
    assert isinstance(fifth.depthwise.act, nn.Hardswish)
    assert isinstance(fifth.se.act, nn.ReLU)
    assert isinstance(fifth.se.gate, nn.Hardsigmoid)


def test_a_sandglass_has_two_one_or_no_depthwise_convolutions() -> None:
    network = build_classifier('mobilenext_1x', num_classes=10)
    first, last_only, none, whole = (
        network.stage4[0],
        network.stage8[0],
        network.stage16[3],
        network.stage16[4],
    )
    assert convolutions(first) == [
        (32, 32, 3, 1, 32),
        (32, 16, 1, 1, 1),
        (16, 96, 1, 1, 1),
        (96, 96, 3, 2, 96),
    ]
    # 144 / 6 = 24 is less than a sixth of 192, 32, which is a multiple of 16
    assert convolutions(last_only) == [(144, 32, 1, 1, 1), (32, 192, 1, 1, 1), (192, 192, 3, 2, 192)]
    assert convolutions(none) == [(288, 64, 1, 1, 1), (64, 384, 1, 1, 1)]
    assert len(convolutions(whole)) == 4
    assert activations(whole) == ['depthwise1', 'expand']


@torch.no_grad()
def test_the_groups_of_an_interleaved_unit_are_mixed_before_its_depthwise_convolution() -> None:
    """Without the shuffle no output of the first half would see an input of the second."""
    torch.manual_seed(0)
    unit = InterleavedUnit(8, Unit(6, 8), stride=1, identity=False).eval()
    x = torch.rand(1, 8, 5, 5)
    changed = x.clone()
    changed[:, 4:] += 1
    assert all((unit(x) - unit(changed)).abs().amax((0, 2, 3)) > 0)
    assert activations(unit) == ['depthwise']


@torch.no_grad()
@pytest.mark.parametrize(
    ('unit', 'silenced'),
    [
        (('mobilenetv2_1x', 'stage32', 1), 'project'),
        (('mobilenetv3_large_1x', 'stage2', 0), 'project'),  # keeps size and width though it is a first one
        (('mobilenetv3_large_1x', 'stage8', 2), 'project'),
        (('mobilenext_1x', 'stage8', 1), 'depthwise2'),
        (('igcv3d_1x', 'stage4', 3), 'project'),
    ],
)
def test_identity(unit: tuple[str, str, int], silenced: str) -> None:
    name, stage, index = unit
    arch = get_arch(name)
    backbone = build_backbone(arch, out_strides=(arch.stages[-1].stride,)).eval()
    module = getattr(backbone, stage)[index]
    getattr(module, silenced).bn.weight.zero_()
    channels = convolutions(module)[0][0]
    x = torch.randn(1, channels, 6, 6)
    assert torch.equal(module(x), x)


@pytest.mark.parametrize(
    ('name', 'identities'),
    [
        ('mobilenetv2_1x', [0, 0, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 0, 1, 1, 0]),
        ('mobilenetv3_large_1x', [1, 0, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 0, 1, 1]),
        ('mobilenetv3_small_1x', [0, 0, 1, 0, 1, 1, 0, 1, 0, 1, 1]),
        ('mobilenext_1x', [0, 0, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 1, 1, 1, 0, 1, 1, 0]),
    ],
)
def test_units_with_an_identity(name: str, identities: list[int]) -> None:
    network = build_classifier(name, num_classes=10)
    found = [m.identity for m in network.modules() if hasattr(m, 'identity')]
    assert found == [bool(i) for i in identities]


@torch.no_grad()
def test_a_downsampling_unit_has_no_identity_on_a_roi_either() -> None:
    """MobileNetV3-small's first unit keeps the width: with stride 1 it is still the same function."""
    head = StageHead('mobilenetv3_small_1x', in_stride=2).eval()
    unit = head.stage4[0]
    unit.project.bn.weight.zero_()
    assert not unit(torch.rand(1, 16, 7, 7)).any()


def test_head_of_the_classifier_is_no_tap() -> None:
    assert get_arch('mobilenetv2_0.4x').strides == {2: 8, 4: 16, 8: 16, 16: 40, 32: 128}
    assert get_arch('mobilenetv3_large_1x').strides == {2: 16, 4: 24, 8: 40, 16: 112, 32: 160}
    assert get_arch('mobilenetv3_small_1x').strides == {2: 16, 4: 16, 8: 24, 16: 48, 32: 96}
    assert get_arch('mobilenext_0.5x').strides == {2: 16, 4: 72, 8: 96, 16: 192, 32: 1280}
    assert get_arch('igcv3d_1x').strides == {2: 16, 4: 24, 8: 32, 16: 96, 32: 320}


def test_mobilenetv2_leaves_mmdetections_class_alone() -> None:
    assert config_type(get_arch('mobilenetv2_1x')) == 'CompactBackbone'
    assert config_type(get_arch('mobilenetv3_large_1x')) == 'MobileNetV3'
