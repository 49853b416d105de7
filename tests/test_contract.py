"""What every network keeps to, tomorrow's too: one test over ``list_archs()``."""

import copy
from typing import Any

import pytest
import torch
from networks import GOLDEN, archs, cheapest_of_each_family, is_slow
from torch import Tensor, nn

from backbones import StageHead, build_backbone, build_classifier, get_arch, list_archs
from backbones.base import BN_POLICIES, Classifier, CompactBackbone, family_of
from backbones.libraries.adapter import AdaptedArch
from backbones.libraries.aliases import ALIASES
from backbones.spec import Arch
from compactdet.costs import arch_costs

SIZES = ((96, 128), (75, 109))  # the second is divisible by no stride
GOLDEN_KEYS = (
    'params',
    'macs',
    'backbone_params',
    'backbone_macs',
    'strides',
    'stage_macs',
    'activations_read',
    'activations_written',
    'weights_read',
)


HEAVY_MACS, HEAVY_PARAMS = 200e6, 25e6  # beyond these, tests are slow ones, but for one network a family
CHEAPEST = {*cheapest_of_each_family().values()}


def weighed(names: list[str]) -> list[Any]:
    """Networks as parameters of a test, the heavy ones marked slow."""
    return [
        pytest.param(name, marks=pytest.mark.slow) if is_slow(name) or is_heavy(name) else name
        for name in names
    ]


def is_heavy(name: str) -> bool:
    row = GOLDEN.get(name)
    if row is None or name in CHEAPEST:
        return False
    return row['paper_size_macs'] > HEAVY_MACS or row['params'] > HEAVY_PARAMS


@pytest.fixture(scope='module', params=weighed(list_archs()))
def network(request: pytest.FixtureRequest) -> Classifier:
    """A classifier in evaluation mode; its BN has random affines and statistics measured on noise."""
    torch.manual_seed(0)
    model = build_classifier(request.param, num_classes=10)
    for layer in batch_norms(model):
        nn.init.uniform_(layer.weight, 0.5, 1.5)
        nn.init.normal_(layer.bias, 0, 0.1)
        layer.momentum = None  # the statistics become those of the batch
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 96, 96))
    return model.eval()


def batch_norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


def in_stride(arch: Arch) -> int:
    """Where the network is split into trunk and last stage."""
    split = arch.stages[-2].stride
    if arch.split_strides is not None and split not in arch.split_strides:
        pytest.skip(f'{arch.name} has no split at stride {split}, as its row says')
    return split


def trunk(network: Classifier, *strides: int) -> CompactBackbone:
    return filled(build_backbone(network.arch, out_strides=strides), network)


def filled(half: nn.Module, network: Classifier) -> nn.Module:
    """Takes the half's part of the classifier's weights, which must hold it whole."""
    weights = network.state_dict()
    half.load_state_dict({key: weights[key] for key in half.state_dict()})
    return half.eval()


def image(height: int, width: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def sizes(arch: Arch) -> tuple[tuple[int, int], ...]:
    """Sizes that a network takes: NASNet's branches, in its library, round odd sizes differently."""
    return SIZES[:1] if arch.name == 'nasnet_a_mobile' else SIZES


# AlexNet pads its pools by nothing: (side + 4 - 11) // 4 + 1, then twice (side - 3) // 2 + 1.
ALEXNET = {(96, 128): [(23, 31), (11, 15), (5, 7)], (75, 109): [(18, 26), (8, 12), (3, 5)]}


@torch.no_grad()
def test_declared_taps_are_the_outputs(network: Classifier) -> None:
    """Sides are rounded up; a library's network may round down, and leave out a border."""
    taps = network.arch.strides
    backbone = trunk(network, *taps)
    for size in sizes(network.arch):
        maps = backbone(image(*size))
        assert [tuple(m.shape[:2]) for m in maps] == [(1, channels) for channels in taps.values()]
        if network.arch.name == 'alexnet':
            assert [tuple(m.shape[2:]) for m in maps] == ALEXNET[size]
            continue
        for stride, got in zip(taps, maps, strict=True):
            if isinstance(network.arch, AdaptedArch):
                lost = [side - n * stride for side, n in zip(size, got.shape[2:], strict=True)]
                assert all(-stride < pixels <= stride + 6 for pixels in lost)
            else:
                assert got.shape[2:] == tuple(-(-side // stride) for side in size)


@torch.no_grad()
def test_trunk_and_stage_head_are_the_full_trunk(network: Classifier) -> None:
    split = in_stride(network.arch)
    first = trunk(network, split)
    second = filled(StageHead(network.arch, in_stride=split, stride=None), network)
    full = trunk(network, network.arch.stages[-1].stride)
    for size in sizes(network.arch):
        x = image(*size)
        torch.testing.assert_close(second(*first(x)), *full(x), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_stage_head_at_stride_1_keeps_the_roi_and_the_weights(network: Classifier) -> None:
    arch, split = network.arch, in_stride(network.arch)
    native = StageHead(arch, in_stride=split, stride=None).state_dict()
    head = filled(StageHead(arch, in_stride=split), network)
    assert {k: v.shape for k, v in head.state_dict().items()} == {k: v.shape for k, v in native.items()}
    rois = torch.rand(2, arch.channels(split), 7, 7)
    assert head(rois).shape == (2, arch.stages[-1].channels, 7, 7)


def test_halves_are_disjoint_parts_of_the_classifier(network: Classifier) -> None:
    split = in_stride(network.arch)
    with torch.device('meta'):
        first = build_backbone(network.arch, out_strides=(split,)).state_dict()
        second = StageHead(network.arch, in_stride=split).state_dict()
    assert not first.keys() & second.keys()
    rest = network.state_dict().keys() - first.keys() - second.keys()
    assert rest
    assert all(key.startswith('head.') for key in rest)
    assert len(rest) + len(first) + len(second) == len(network.state_dict())


@torch.no_grad()
def test_evaluation_knows_neither_batch_nor_memory_format(network: Classifier) -> None:
    """To 1e-5 in float32, or a few times what float32 rounds away; to 1e-10 in float64."""

    def difference(a: Tensor, b: Tensor) -> float:
        return ((a - b).norm() / b.norm()).item()

    exact = copy.deepcopy(network).double()
    x = image(64, 64, batch=2)
    exact_logits, logits = exact(x.double()), network(x)
    assert logits.shape == (2, 10)
    rounding = max(1e-5, 4 * difference(logits, exact_logits))
    assert rounding < 1e-3
    for model, inputs, expected, bound in (
        (network, x, logits, rounding),
        (exact, x.double(), exact_logits, 1e-10),
    ):
        assert difference(model(inputs[1:]), expected[1:]) <= bound
        assert difference(model(inputs.contiguous(memory_format=torch.channels_last)), expected) <= bound


def test_every_parameter_learns(network: Classifier) -> None:
    """A gradient on the first step, one that is not zero within five."""
    model = build_classifier(network.arch, num_classes=10)
    model.load_state_dict(network.state_dict())
    x, target = image(64, 64, batch=2), torch.tensor([0, 1])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    asleep = {name for name, _ in model.named_parameters()}
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), target).backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients.values())
        asleep -= {name for name in asleep if gradients[name].any()}
        if not asleep:
            break
        optimizer.step()
    assert not asleep


@torch.no_grad()
@pytest.mark.parametrize(
    'name',
    archs(
        [
            n
            for n in list_archs()
            if n not in ALIASES and 'padding' in family_of(get_arch(n)).takes_conventions
        ]
    ),
)
def test_conventions_hold_in_both_halves(name: str) -> None:
    torch.manual_seed(0)
    arch = get_arch(name)
    tensorflow = {'padding': 'same', 'activation': 'relu6', 'bn_eps': 1e-3}
    tensorflow = {key: tensorflow[key] for key in tensorflow if key in family_of(arch).takes_conventions}
    network = build_classifier(arch, num_classes=10, conventions=tensorflow).eval()
    split, last = in_stride(arch), arch.stages[-1].stride
    first = filled(build_backbone(arch, out_strides=(split,), conventions=tensorflow), network)
    second = filled(StageHead(arch, in_stride=split, stride=None, conventions=tensorflow), network)
    full = filled(build_backbone(arch, out_strides=(last,), conventions=tensorflow), network)
    plain = trunk(network, last)
    for size in SIZES:
        x = image(*size)
        torch.testing.assert_close(second(*first(x)), *full(x), rtol=1e-6, atol=1e-6)
        assert full(x)[0].shape == plain(x)[0].shape
        assert not torch.allclose(*full(x), *plain(x))
    for half in (first, second):
        assert {layer.eps for layer in batch_norms(half)} == {1e-3}
        if 'activation' in tensorflow:
            assert not any(isinstance(m, nn.ReLU) for m in half.modules())  # nn.ReLU6 is no nn.ReLU


def halves(name: str, **kwargs: object) -> tuple[nn.Module, nn.Module]:
    arch = get_arch(name)
    split = in_stride(arch)
    return build_backbone(arch, out_strides=(split,), **kwargs), StageHead(arch, in_stride=split, **kwargs)


@pytest.mark.parametrize('name', weighed(list_archs()))
def test_no_half_has_a_parameter_without_gradient(name: str) -> None:
    first, second = halves(name)
    (x,) = first.eval()(image(64, 64))
    second.eval()(x).sum().backward()
    for half in (first, second):
        assert [n for n, p in half.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize('policy', [*BN_POLICIES])
@pytest.mark.parametrize('name', weighed(list_archs()))
def test_bn_policy_survives_train(name: str, policy: str) -> None:
    with torch.device('meta'):
        both = halves(name, bn_policy=policy)
    for half in both:
        for mode in (False, True):
            half.train(mode)
            layers = batch_norms(half)
            assert layers or isinstance(
                get_arch(name), AdaptedArch
            )  # AlexNet, VGG and SqueezeNet have none
            assert all(layer.training == (mode and policy == 'train') for layer in layers)
            assert {p.requires_grad for layer in layers for p in layer.parameters()} <= {policy != 'frozen'}
        assert half.training
        assert all(m.weight.requires_grad for m in half.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1])
@pytest.mark.parametrize('name', weighed(list_archs()))
def test_freezing_survives_train(name: str, frozen_stages: int) -> None:
    arch = get_arch(name)
    with torch.device('meta'):
        model = build_backbone(arch, out_strides=(in_stride(arch),), frozen_stages=frozen_stages).train()
    parts = ['stem', *(f'stage{stage.stride}' for stage in arch.stages[:-1])]
    assert list(dict(model.named_children())) == parts
    for i, part in enumerate(parts):
        module = getattr(model, part)
        assert {p.requires_grad for p in module.parameters()} == {i > frozen_stages}
        assert {layer.training for layer in batch_norms(module)} <= {i > frozen_stages}  # if any


@pytest.mark.parametrize('name', archs())
def test_costs_are_the_golden_ones(name: str) -> None:
    row = arch_costs(name)
    assert {key: row[key] for key in GOLDEN_KEYS} == {key: GOLDEN[name][key] for key in GOLDEN_KEYS}


# Printed figures that no reading of the paper gives; each row's cost_note says what is known.
NOT_REPRODUCED = {
    'mobilenetv2_0.4x',
    'mobilenetv2_0.75x',
    'mobilenext_0.75x',
    'condensenetv2_110_cifar',
    'condensenetv2_146_cifar',
}


@pytest.mark.parametrize('name', archs())
def test_costs_are_the_papers_or_the_row_says_why(name: str) -> None:
    arch, measured = get_arch(name), GOLDEN[name]
    pairs = ((arch.paper_mflops, 'paper_size_macs'), (arch.paper_params_m, 'params'))
    worst = max((abs(measured[key] / 1e6 / printed - 1) for printed, key in pairs if printed), default=0)
    assert (worst > 0.1) == (name in NOT_REPRODUCED)
    assert worst <= 0.01 or arch.cost_note


def test_golden_file_has_these_networks_only() -> None:
    assert list(GOLDEN) == list_archs()


def test_an_image_below_the_last_stride_is_refused() -> None:
    backbone = build_backbone('shufflenetv2_0.5x', out_strides=(8, 32))
    message = (
        r'shufflenetv2_0\.5x: an image of 31x64 pixels is smaller than the last of out_strides=\(8, 32\)'
    )
    with pytest.raises(ValueError, match=message):
        backbone(image(31, 64))
