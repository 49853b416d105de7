"""GhostNet against timm's, and against Table 1 counted by hand."""

import pytest
import torch

from backbones import StageHead, build_classifier, get_arch, list_archs
from backbones.networks.ghostnet import GhostBottleneck, GhostModule
from compactdet.costs import arch_costs
from compactdet.layer_costs import count, num_params

from peers import copy_by_shape, randomize_bn

ghostnet = pytest.importorskip('timm.models.ghostnet')

WIDTHS = {'ghostnet_1x': 1.0, 'ghostnet_1.1x': 1.1, 'ghostnet_1.3x': 1.3}


def timms(name: str) -> torch.nn.Module:
    """timm names no 1.1x; its factory takes any width."""
    return ghostnet._create_ghostnet('ghostnet_100', width=WIDTHS[name]).eval()


def test_rows_are_the_papers_three() -> None:
    assert list_archs('ghostnet_*') == [*WIDTHS]


@pytest.mark.parametrize('name', WIDTHS)
def test_costs_are_timms(name: str) -> None:
    peer, row = timms(name), arch_costs(name)
    assert row['params'] == num_params(peer.parameters())
    assert row['macs'] == count(peer, torch.empty(1, 3, 224, 224, device='meta')).macs


@pytest.mark.parametrize(('name', 'mflops'), [('ghostnet_1x', '141'), ('ghostnet_1.3x', '227.0')])
def test_costs_are_those_of_the_authors_code(name: str, mflops: str) -> None:
    digits = len(mflops.partition('.')[2])
    assert f'{arch_costs(name)["macs"] / 1e6:.{digits}f}' == mflops


def test_detections_printed_cost_leaves_out_what_follows_the_pooling() -> None:
    hidden = 1056 * 1280 + 1280 * 1000
    assert (
        round((arch_costs('ghostnet_1.1x')['macs'] - hidden) / 1e6)
        == get_arch('ghostnet_1.1x').paper_mflops
    )


@torch.no_grad()
@pytest.mark.parametrize('name', WIDTHS)
@pytest.mark.parametrize('size', [(96, 96), (75, 109)])
def test_outputs_are_timms(name: str, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    peer, network = timms(name), build_classifier(name).eval()
    randomize_bn(peer)
    copy_by_shape(peer, network)
    x = torch.randn(2, 3, *size)
    expected = peer(x)
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_ghost_module_by_hand() -> None:
    """Half the maps are a pointwise convolution's, the other half 3x3 neighborhoods of those."""
    module = GhostModule(3, 4, act=False).eval()
    assert num_params(module.parameters()) == 3 * 2 + 2 * 9 + 2 * (2 + 2)
    with torch.no_grad():
        module.primary.conv.weight.fill_(1)
        module.cheap.conv.weight.fill_(1)
        out = module(torch.ones(1, 3, 3, 3)) * (1 + 1e-5) ** 0.5  # BN's epsilon
    torch.testing.assert_close(out[0, :2], torch.full((2, 3, 3), 3.0))
    around = torch.tensor([[4.0, 6, 4], [6, 9, 6], [4, 6, 4]]) * 3
    torch.testing.assert_close(out[0, 2:], around.expand(2, 3, 3), rtol=1e-4, atol=0)


def test_table_1_by_hand() -> None:
    """Which units have SE, and of what width; which a stride; which a shortcut with convolutions."""
    network = build_classifier('ghostnet_1x')
    units = [m for m in network.modules() if isinstance(m, GhostBottleneck)]
    squeezed = [u.se.reduce.out_channels if hasattr(u.se, 'reduce') else 0 for u in units]
    assert squeezed == [0, 0, 0, 20, 32, 0, 0, 0, 0, 120, 168, 168, 0, 240, 0, 240]  # 72/4 = 18, 120/4 = 30
    strides = [u.depthwise.conv.stride[0] if hasattr(u.depthwise, 'conv') else 1 for u in units]
    assert strides == [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1]
    shortcuts = [i for i, u in enumerate(units) if len(list(u.shortcut.children()))]
    assert shortcuts == [1, 3, 5, 9, 11]
    assert [u.shortcut[0].conv.kernel_size[0] for u in units if len(list(u.shortcut.children()))] == [
        3,
        5,
        3,
        3,
        5,
    ]


def test_stage_on_a_roi_has_no_stride_left() -> None:
    head = StageHead('ghostnet_1x')
    assert {m.stride for m in head.modules() if isinstance(m, torch.nn.Conv2d)} == {(1, 1)}
