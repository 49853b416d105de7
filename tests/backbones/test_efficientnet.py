"""EfficientNet against torchvision's and timm's, and compound scaling by hand."""

import pytest
import torch
from torch import nn

from backbones import StageHead, build_backbone, build_classifier, get_arch, list_archs
from backbones.base import config_type
from compactdet.costs import arch_costs
from compactdet.layer_costs import count, num_params

from peers import copy_by_shape, randomize_bn

torchvision = pytest.importorskip('torchvision.models.efficientnet')

NAMES = [f'efficientnet_b{i}' for i in range(8)]
TENSORFLOW = {'padding': 'same', 'bn_eps': 1e-3}


def test_rows_are_b0_to_b7() -> None:
    assert list_archs('efficientnet_*') == NAMES


@pytest.mark.parametrize('name', NAMES)
def test_costs_are_torchvisions(name: str) -> None:
    arch, row = get_arch(name), arch_costs(name)
    with torch.device('meta'):
        peer = getattr(torchvision, name)()
        macs = count(peer, torch.empty(1, 3, arch.input_size, arch.input_size)).macs
    assert row['params'] == num_params(peer.parameters())
    assert row['paper_size_macs'] == macs


def test_costs_of_b0_are_those_of_the_authors_code() -> None:
    assert f'{arch_costs("efficientnet_b0")["macs"] / 1e6:.1f}' == '385.8'


@torch.no_grad()
@pytest.mark.parametrize('size', [(96, 96), (75, 109)])
def test_outputs_are_torchvisions(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    peer, network = torchvision.efficientnet_b0().eval(), build_classifier('efficientnet_b0').eval()
    randomize_bn(peer)
    copy_by_shape(peer, network)
    x = torch.randn(2, 3, *size)
    expected = peer(x)
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize('size', [(96, 96), (75, 109)])
def test_outputs_under_tensorflows_conventions_are_timms(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    timm = pytest.importorskip('timm')
    peer = timm.create_model('tf_efficientnet_b0').eval()
    network = build_classifier('efficientnet_b0', conventions=TENSORFLOW).eval()
    randomize_bn(peer)
    copy_by_shape(peer, network)
    x = torch.randn(2, 3, *size)
    expected = peer(x)
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    plain = build_classifier('efficientnet_b0').eval()
    plain.load_state_dict(network.state_dict())
    assert not torch.allclose(plain(x), expected, atol=1e-3 * expected.abs().max().item())


def test_compound_scaling_by_hand() -> None:
    """B4: widths 1.4 times, to multiples of 8; depths 1.8 times, up: 5.4 + 5.4 at 16."""
    arch = get_arch('efficientnet_b4')
    assert arch.stem_channels == 48  # 44.8
    assert arch.strides == {2: 24, 4: 32, 8: 56, 16: 160, 32: 448}  # 22.4, 33.6, 56, 156.8, 448
    assert [stage.depth for stage in arch.stages] == [
        2,
        4,
        4,
        12,
        10,
    ]
    with torch.device('meta'):
        assert build_classifier(arch).head.fc.in_features == 1792


def test_units_of_b0_by_hand() -> None:
    """Strides, kernels, identities and SE widths (a quarter of a unit's input) of Table 1."""
    with torch.device('meta'):
        network = build_backbone('efficientnet_b0', out_strides=(32,))
    units = [unit for s in (2, 4, 8, 16, 32) for unit in getattr(network, f'stage{s}')]
    depthwise = [unit.depthwise.conv for unit in units]
    assert [conv.stride[0] for conv in depthwise] == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    assert [conv.kernel_size[0] for conv in depthwise] == [3, 3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3]
    assert [i for i, unit in enumerate(units) if not unit.identity] == [0, 1, 3, 5, 8, 11, 15]
    squeezed = [unit.se.reduce.out_channels for unit in units]
    assert squeezed == [8, 4, 6, 6, 10, 10, 20, 20, 20, 28, 28, 28, 48, 48, 48, 48]
    assert not hasattr(units[0], 'expand')
    assert [unit.expand.conv.out_channels for unit in units[1:3]] == [96, 144]


def test_stage_on_a_roi_has_no_stride_left() -> None:
    with torch.device('meta'):
        head = StageHead('efficientnet_b0')
    assert {m.stride for m in head.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}


def test_a_config_does_not_get_mmdetections_class_of_the_same_name() -> None:
    assert config_type(get_arch('efficientnet_b0')) == 'CompactBackbone'


def test_dropout_is_each_rows_own() -> None:
    with torch.device('meta'):
        rates = [build_classifier(name).head.dropout.p for name in NAMES]
    assert rates == [0.2, 0.2, 0.3, 0.3, 0.4, 0.4, 0.5, 0.5]
