"""ShuffleNetV2, ShuffleNetV2+ and both with sparse feature reactivation."""

import copy
import functools
import re
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones import Preprocessing, build_backbone, build_classifier, get_arch, list_archs
from backbones.layers import channel_shuffle
from backbones.networks.shufflenetv2 import ShuffleV2Unit
from backbones.networks.shufflenetv2plus import XceptionBranch
from backbones.sparsity import SparseFeatureReactivation, converted_state_dict
from compactdet.costs import arch_costs
from compactdet.layer_costs import count
from compactdet.weights.verify import find_images, load_image

from peers import copy_by_shape, randomize_bn

CONVERTED = {'sparsity': 'converted'}
SFR = list_archs('sfr_shufflenetv2*')
costs_of = functools.cache(arch_costs)


def units(network: nn.Module) -> list[ShuffleV2Unit]:
    return [m for m in network.modules() if isinstance(m, ShuffleV2Unit)]


# --- the unit, by hand


def numbered(channels: int) -> Tensor:
    """A map of one pixel whose channels hold their numbers."""
    return torch.arange(float(channels)).view(1, channels, 1, 1)


def test_unit_passes_even_channels_on_and_works_on_odd_ones() -> None:
    unit = ShuffleV2Unit(8, 8, stride=1)
    unit.main = nn.Identity()
    assert unit(numbered(8)).flatten().tolist() == [0, 2, 4, 6, 1, 3, 5, 7]
    assert unit(unit(numbered(8))).flatten().tolist() == [0, 4, 1, 5, 2, 6, 3, 7]


def test_reactivation_reads_new_channels_and_updates_the_passed_on_before_concatenation() -> None:
    class TenTimes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 10 * x

    unit = ShuffleV2Unit(6, 6, stride=1, sfr='masked')
    unit.main, unit.sfr = nn.Identity(), TenTimes()
    assert unit(numbered(6)).flatten().tolist() == [0 + 10, 2 + 30, 4 + 50, 1, 3, 5]


def test_downsampling_unit_projects_all_channels_and_makes_the_rest_anew() -> None:
    """24 -> 58: projection 24 x 9 + 24 x 24, main 24 x 29 + 29 x 9 + 29 x 34; 4 pixels out of 16."""
    unit = ShuffleV2Unit(24, 58, stride=2, sfr='masked')
    assert unit.sfr is None
    proj, main = 24 * 9 + 24 * 24, 29 * 9 + 29 * 34
    assert count(unit, torch.empty(1, 24, 4, 4, device='meta')).macs == 4 * (proj + main) + 16 * 24 * 29
    assert unit.eval()(torch.rand(1, 24, 5, 4)).shape == (1, 58, 3, 2)


@torch.no_grad()
def test_plus_unit_is_convolutions_hard_swish_and_hard_gate() -> None:
    """With BN at its start, which then does almost nothing in evaluation."""
    torch.manual_seed(0)
    unit = ShuffleV2Unit(16, 16, stride=1, kernel_size=7, act='hswish', se=True).eval()
    reduce, depthwise, expand, squeeze, excite = (m.weight for m in unit.modules() if type(m) is nn.Conv2d)

    def hard_swish(x: Tensor) -> Tensor:
        return x * (x + 3).clamp(0, 6) / 6

    x = torch.randn(2, 16, 9, 9)
    new = F.conv2d(hard_swish(F.conv2d(x[:, 1::2], reduce)), depthwise, padding=3, groups=8)
    new = hard_swish(F.conv2d(new, expand))
    gate = F.conv2d(F.relu(F.conv2d(new.mean((2, 3), keepdim=True), squeeze)), excite)
    new = new * (gate + 3).clamp(0, 6) / 6
    torch.testing.assert_close(unit(x), torch.cat([x[:, ::2], new], 1), rtol=1e-3, atol=1e-3)
    assert squeeze.shape == (2, 8, 1, 1)


def test_xception_branch_ends_each_pair_with_the_activation() -> None:
    branch = XceptionBranch(4, 6, 8, kernel_size=3, stride=2, act='hswish')
    layers = [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0]) if type(m) is nn.Conv2d else 'hswish'
        for m in branch.modules()
        if isinstance(m, (nn.Conv2d, nn.Hardswish))
    ]
    pairs = [(4, 4, 3, 2), (4, 6, 1, 1)], [(6, 6, 3, 1), (6, 6, 1, 1)], [(6, 6, 3, 1), (6, 8, 1, 1)]
    assert layers == [layer for pair in pairs for layer in (*pair, 'hswish')]


# --- the same function as other libraries


def end_shuffled(network: nn.Module) -> None:
    """Gives the network the order of channels of libraries that shuffle at the end of every unit.

    Their next unit then splits the first half of the channels from the second. Ours splits even channels
    from odd ones, which a further shuffle makes the halves.
    """
    for unit in units(network):
        if unit.split:
            unit.register_forward_pre_hook(lambda _, x: channel_shuffle(channel_shuffle(x[0], 2), 2))
    for whole in (network.stage16[0], network.stage32[0], network.head):
        whole.register_forward_pre_hook(lambda _, x: channel_shuffle(x[0], 2))


def fill_from_torchvision(network: nn.Module, peer: nn.Module) -> None:
    stages = [*peer.stage2, *peer.stage3, *peer.stage4]
    for ours, theirs in zip(units(network), stages, strict=True):
        copy_by_shape(theirs.branch2, ours.main)
        if not ours.split:
            copy_by_shape(theirs.branch1, ours.proj)
    copy_by_shape(peer.conv1, network.stem)
    copy_by_shape(peer.conv5, network.head.conv)
    network.head.fc.weight.copy_(peer.fc.weight)
    nn.init.zeros_(peer.fc.bias)


def fill_from_pytorchcv(network: nn.Module, peer: nn.Module) -> None:
    peer.output.bias = None
    copy_by_shape(peer, network)


def torchvision_05() -> nn.Module:
    models = pytest.importorskip('torchvision.models')
    return models.shufflenet_v2_x0_5(weights=None, num_classes=10)


def pytorchcv(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        module = pytest.importorskip('pytorchcv.models.shufflenetv2b')
        peer = getattr(module, f'shufflenetv2b_{name}')(num_classes=10)
        peer.features.final_pool = nn.AdaptiveAvgPool2d(1)
        return peer

    return make


PEERS = {
    'torchvision 0.5x': ('shufflenetv2_0.5x', torchvision_05, fill_from_torchvision),
    'pytorchcv 0.5x': ('shufflenetv2_0.5x', pytorchcv('wd2'), fill_from_pytorchcv),
    'pytorchcv 1x': ('shufflenetv2_1x', pytorchcv('w1'), fill_from_pytorchcv),
}


@torch.no_grad()
@pytest.mark.parametrize(('name', 'make', 'fill'), PEERS.values(), ids=[*PEERS])
def test_logits_and_costs_are_the_peers(name: str, make: Callable, fill: Callable) -> None:
    torch.manual_seed(0)
    network, peer = build_classifier(name, num_classes=10).eval(), make().eval()
    randomize_bn(peer)
    fill(network, peer)
    x = torch.randn(2, 3, 64, 64)
    expected = peer(x)
    assert not torch.allclose(network(x), expected, rtol=0.01)
    end_shuffled(network)
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    image = torch.empty(1, 3, 224, 224, device='meta')
    assert count(network, image).macs == count(peer, image).macs


@pytest.mark.parametrize(('name', 'peer'), [('0.5x', 'wd2'), ('1x', 'w1')])
def test_parameters_are_pytorchcvs_without_its_bias(name: str, peer: str) -> None:
    module = pytest.importorskip('pytorchcv.models.shufflenetv2b')
    theirs = getattr(module, f'shufflenetv2b_{peer}')()
    num_params = sum(p.numel() for p in theirs.parameters())
    assert costs_of(f'shufflenetv2_{name}')['params'] == num_params - len(theirs.output.bias)


# --- published weights


def our_name(key: str) -> str:
    """The name of an entry of the authors' files, whose stages are 2 to 4 and whose layers are numbered."""
    layers = {
        'main': [
            'reduce.conv',
            'reduce.bn',
            '',
            'depthwise.conv',
            'depthwise.bn',
            'expand.conv',
            'expand.bn',
        ],
        'proj': ['depthwise.conv', 'depthwise.bn', 'pointwise.conv', 'pointwise.bn'],
    }
    key = key.replace('first_conv.0.', 'stem.0.conv.').replace('first_conv.1.', 'stem.0.bn.')
    return re.sub(
        r'stage(\d)\.(\d)\.branch_(main|proj)\.(\d)',
        lambda m: f'stage{2 ** (int(m[1]) + 1)}.{m[2]}.{m[3]}.{layers[m[3]][int(m[4])]}',
        key,
    )


@torch.no_grad()
@pytest.mark.shared
def test_published_weights_expect_the_statistics_that_images_have(shared) -> None:
    """Within a fraction of a standard deviation in every layer; not so with another order of channels."""
    file = shared / 'weights/shufflenetv2_0.5x_backbone.pth'
    published = torch.load(file, map_location='cpu', weights_only=True)
    network = build_backbone('shufflenetv2_0.5x', out_strides=(32,)).eval()
    network.load_state_dict({our_name(key): value for key, value in published.items()})
    bgr = Preprocessing('bgr', mean=(0, 0, 0), std=(255, 255, 255))
    paths = [path for path, _ in find_images(shared / 'data/imagenet_sample')]
    images = torch.stack([load_image(path, bgr) for path in paths[::16]])

    def shift(bn: nn.BatchNorm2d, x: Tensor) -> Tensor:
        return ((x.mean((0, 2, 3)) - bn.running_mean) / (bn.running_var + bn.eps).sqrt()).abs().median()

    def largest_shift(network: nn.Module) -> float:
        shifts = []
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.register_forward_pre_hook(lambda bn, x: shifts.append(shift(bn, x[0])))
        network(images)
        return max(shifts).item()

    other = copy.deepcopy(network)
    for unit in units(other):
        if unit.split:
            unit.register_forward_pre_hook(lambda _, x: channel_shuffle(x[0], 2))
    assert largest_shift(network) < 0.4
    assert largest_shift(other) > 2


# --- what is published about the costs


@pytest.mark.parametrize('name', list_archs('shufflenetv2*'))
def test_costs_are_the_authors_figures(name: str) -> None:
    """Multiply-adds rounded (40.48 up, to 41), parameters rounded or cut off."""
    arch, costs = get_arch(name), costs_of(name)
    assert costs['macs'] / 1e6 == pytest.approx(arch.paper_mflops, abs=0.53)
    tenths = costs['params'] / 1e5
    assert round(10 * arch.paper_params_m) in (int(tenths), round(tenths))


@pytest.mark.parametrize(
    ('name', 'counted', 'params_m'),
    [
        ('sfr_shufflenetv2_0.5x', 42.71, 1.373),
        ('sfr_shufflenetv2_1x', 150.65, 2.297),
        ('sfr_shufflenetv2_1.5x', 306.10, 3.535),
        ('sfr_shufflenetv2plus_small', 160.03, 5.154),
        ('sfr_shufflenetv2plus_medium', 227.56, 5.701),
    ],
)
def test_reactivation_costs_a_depthwise_convolution(name: str, counted: float, params_m: float) -> None:
    """Converted, 9 c / 2 for each position and unit that splits, as many weights, and a BN of c / 2.

    The totals are those of an independent count, ReLU and pooling included where the paper includes them.
    """
    arch, costs, plain = get_arch(name), costs_of(name), costs_of(name.removeprefix('sfr_'))
    macs = params = masked = 0
    for stage in arch.stages:
        half, pixels = stage.channels // 2, (224 // stage.stride) ** 2
        macs += (stage.depth - 1) * 9 * half * pixels
        params += (stage.depth - 1) * (9 + 2) * half
        masked += (stage.depth - 1) * (9 * half + 2) * half
    assert costs['macs'] - plain['macs'] == macs
    assert costs['params'] - plain['params'] == params
    assert costs['training_params'] - plain['params'] == masked
    assert costs['paper_size_macs'] / 1e6 == pytest.approx(counted, abs=0.005)
    assert costs['params'] / 1e6 == pytest.approx(params_m, abs=0.0005)
    assert costs['paper_mflops'] == pytest.approx(counted, rel=0.01)


# --- reactivation in the whole network


def reactivations(network: nn.Module) -> list[SparseFeatureReactivation]:
    return [m for m in network.modules() if isinstance(m, SparseFeatureReactivation)]


@torch.no_grad()
@pytest.mark.parametrize('name', SFR)
def test_reactivation_stands_in_units_that_split_and_changes_nothing_else(name: str) -> None:
    network = build_classifier(name, num_classes=10).eval()
    assert [unit.sfr is not None for unit in units(network)] == [unit.split for unit in units(network)]
    assert sum(unit.split for unit in units(network)) == sum(s.depth - 1 for s in network.arch.stages)
    plain = build_classifier(name.removeprefix('sfr_'), num_classes=10).eval()
    weights = network.state_dict()
    plain.load_state_dict({key: weights[key] for key in plain.state_dict()})
    x = torch.randn(2, 3, 64, 64)
    assert not torch.allclose(network(x), plain(x))
    for layer in reactivations(network):
        layer.conv.weight.zero_()
    assert torch.equal(network(x), plain(x))


@torch.no_grad()
def test_condensed_network_converts_to_the_same_function() -> None:
    torch.manual_seed(0)
    network = build_classifier('sfr_shufflenetv2_0.5x', num_classes=10).eval()
    randomize_bn(network)
    for layer in reactivations(network):
        layer.conv.condense(layer.out_channels - 1)
        assert layer.conv.mask.sum(1).tolist() == [1] * layer.out_channels  # one output for each input
    small = build_classifier('sfr_shufflenetv2_0.5x', num_classes=10, conventions=CONVERTED).eval()
    small.load_state_dict(converted_state_dict(network.state_dict()))
    x = torch.randn(2, 3, 64, 64)
    expected = network(x)
    torch.testing.assert_close(small(x), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


@pytest.mark.parametrize('name', ['shufflenetv2_1x', 'shufflenetv2plus_small'])
def test_form_without_reactivation_has_no_sparsity(name: str) -> None:
    masked, converted = (
        build_backbone(name, conventions=conventions).state_dict().keys() for conventions in ({}, CONVERTED)
    )
    assert masked == converted
    with pytest.raises(ValueError, match='has no form with padding'):
        build_backbone(name, conventions={'padding': 'same'})
