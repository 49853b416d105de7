"""CondenseNet and CondenseNetV2: the authors' figures, pytorchcv's network, both forms, taps."""

import functools
from typing import Any

import pytest
import torch
from torch import nn

from backbones import StageHead, build_backbone, build_classifier, get_arch
from backbones.networks.condensenet import halved_classifier
from backbones.sparsity import CondensingError, converted_state_dict, masked_convs
from backbones.wiring import frcnn_c4, frcnn_fpn, retinanet_fpn
from compactdet.costs import arch_costs
from compactdet.layer_costs import count, num_params

from peers import copy_by_shape, randomize_bn
from sparse_networks import CONVERTED, SPARSE, assert_same, converted, image, masked

# Costs: the authors' code, their counting tool, and a count of conv + fc. All in millions.

# test-time form with half a classifier (CondenseNet) or a whole one: multiply-adds of conv + fc
CONV_FC = {
    'condensenet_a': '51.01',
    'condensenet_b': '125.83',
    'condensenet_c': '261.55',
    'condensenet_86_cifar': '62.38',
    'condensenetv2_a': '43.14',
    'condensenetv2_b': '140.47',
    'condensenetv2_c': '295.79',
    'condensenetv2_110_cifar': '56.1',
    'condensenetv2_146_cifar': '89.1',
}
# the authors' tool, classifiers as printed: operations, parameters
TOOL = {
    'condensenet_a': ('56.05', '0.916'),
    'condensenet_b': ('131.79', '2.109'),
    'condensenet_c': ('274.23', '2.935'),
    'condensenet_86_cifar': ('65.82', '0.52'),
    'condensenetv2_a': ('45.874', '2.038'),
    'condensenetv2_b': ('146.469', '3.593'),
    'condensenetv2_c': ('309.741', '6.178'),
}
# training form: multiply-adds of conv + fc, parameters
TRAINING = {
    'condensenetv2_a': ('150.3', '3.350'),
    'condensenetv2_b': ('457.5', '6.311'),
    'condensenetv2_c': ('1389.9', '15.098'),
}


@functools.cache
def costs_of(name: str) -> dict[str, Any]:
    return arch_costs(name)


def millions(number: int, like: str) -> str:
    """Rounds to as many digits as the given figure has."""
    return f'{number / 1e6:.{len(like.partition(".")[2])}f}'


@pytest.mark.parametrize('name', CONV_FC)
def test_multiply_adds_of_the_converted_form(name: str) -> None:
    arch = get_arch(name)
    macs = costs_of(name)['macs']
    if name in ('condensenet_a', 'condensenet_b'):  # costed with the whole classifier, as printed
        macs -= arch.stages[-1].channels // 2 * 1000
    assert millions(macs, CONV_FC[name]) == CONV_FC[name]


@pytest.mark.parametrize('name', TOOL)
def test_the_authors_tool_counts_the_same(name: str) -> None:
    costs = costs_of(name)
    operations, params = TOOL[name]
    assert millions(costs['paper_size_macs'], operations) == operations
    assert millions(costs['params'], params) == params


@pytest.mark.parametrize('name', TRAINING)
def test_costs_of_the_training_form(name: str) -> None:
    with torch.device('meta'):
        model = build_classifier(name)
        counted = count(model, torch.empty(1, 3, 224, 224))
    macs, params = TRAINING[name]
    assert (millions(counted.macs, macs), millions(num_params(model.parameters()), params)) == (
        macs,
        params,
    )


@pytest.mark.parametrize(
    ('name', 'channels'),
    [
        ('condensenetv2_a', (24, 32, 96, 288, 800)),
        ('condensenetv2_b', (24, 72, 216, 600, 1176)),
        ('condensenetv2_c', (48, 144, 400, 1040, 2064)),
        ('condensenet_c', (48, 144, 400, 1040, 2064)),
    ],
)
def test_channels_of_the_authors_blocks(name: str, channels: tuple[int, ...]) -> None:
    assert tuple(get_arch(name).strides.values()) == channels


# The peer


@torch.no_grad()
def test_pytorchcvs_network_is_condensenet_c() -> None:
    """Its CondenseNet-74 with C = G = 8 is in the test-time form, half classifier included."""
    condensenet74_c8_g8 = pytest.importorskip('pytorchcv.models.condensenet').condensenet74_c8_g8
    torch.manual_seed(0)
    theirs = condensenet74_c8_g8().eval()
    randomize_bn(theirs)
    for name, index in theirs.named_buffers():
        if name.endswith('index'):  # it starts with zeros
            index.random_(get_arch('condensenet_c').stem_channels)
    ours = build_classifier('condensenet_c', conventions=CONVERTED).eval()
    copy_by_shape(theirs, ours)
    assert num_params(ours.parameters()) == num_params(theirs.parameters()) == 2_935_416
    x = image(224)
    expected = theirs(x)
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


# Both forms


@pytest.mark.parametrize('name', SPARSE)
def test_both_forms_are_one_function(name: str) -> None:
    model = masked(name)
    for layer in masked_convs(model).values():
        assert layer.mask.float().mean().item() == pytest.approx(1 / layer.factor)
    assert_same(converted(model), model)


@pytest.mark.parametrize('name', SPARSE)
def test_both_forms_are_one_function_in_float32(name: str) -> None:
    model = masked(name, seed=1, bn=False)
    assert_same(converted(model), model, 2e-6, torch.float)


@pytest.mark.parametrize('name', [n for n in SPARSE if n.endswith(('_a', '110_cifar', 'v2_0.5x'))])
@torch.no_grad()
def test_halves_start_from_a_classifier_in_either_form(name: str) -> None:
    model = masked(name)
    arch = model.arch
    split, last = (stage.stride for stage in arch.stages[-2:])
    full = build_backbone(arch, (last,)).eval()
    full.load_state_dict({k: v for k, v in model.state_dict().items() if k in full.state_dict()})
    weights = converted_state_dict(model.state_dict())
    trunk = build_backbone(arch, (split,), conventions=CONVERTED)
    head = StageHead(arch, in_stride=split, stride=None, conventions=CONVERTED)
    for half in (trunk, head):
        half.load_state_dict({key: weights[key] for key in half.state_dict()})
        half.double().eval()
    (expected,) = full.double()(image().double())
    torch.testing.assert_close(head(*trunk(image().double())), expected, rtol=1e-9, atol=1e-9)


def test_a_network_that_is_not_condensed_is_not_converted() -> None:
    model = build_classifier('condensenetv2_a')
    with pytest.raises(CondensingError, match=r'stage2\.0\.lgc: 0 of 7 drops made \(and 39 layers more\)'):
        converted_state_dict(model.state_dict())


# CondenseNet's half classifier


@torch.no_grad()
def test_half_classifier_by_hand() -> None:
    weight = torch.tensor([[1.0, -5, 0, 2], [-1, 0, 3, 2]])  # by input: 2, 5, 3, 4
    halved = halved_classifier({'head.fc.weight': weight, 'head.fc.bias': torch.ones(2)})
    assert halved['head.index'].tolist() == [1, 3]
    assert halved['head.fc.weight'].tolist() == [[-5, 2], [0, 2]]
    assert halved['head.fc.bias'].tolist() == [1, 1]
    with pytest.raises(CondensingError, match=r'no full classifier'):
        halved_classifier(halved)


@pytest.mark.parametrize('name', ['condensenet_a', 'condensenet_c'])
@torch.no_grad()
def test_a_converted_network_takes_either_classifier(name: str) -> None:
    model = masked(name)
    channels = model.arch.stages[-1].channels
    form = converted(model)
    halved = halved_classifier(form.state_dict())
    weaker = set(range(channels)) - set(halved['head.index'].tolist())
    model.head.fc.weight[:, [*weaker]] = 0
    for _ in range(2):  # from full to half and back
        form.load_state_dict(halved)
        assert form.head.fc.weight.shape == (10, channels // 2)
        assert_same(form, model)
        form.load_state_dict(converted_state_dict(model.state_dict()))
        assert form.head.fc.weight.shape == (10, channels)
        assert form.head.index is None
        assert_same(form, model)


def test_a_fresh_converted_network_has_the_printed_classifier() -> None:
    with torch.device('meta'):
        inputs = {
            name: build_classifier(name, conventions=CONVERTED).head.fc.in_features
            for name in ('condensenet_a', 'condensenet_b', 'condensenet_c')
        }
    assert inputs == {'condensenet_a': 672, 'condensenet_b': 1176, 'condensenet_c': 1032}
    with pytest.raises(RuntimeError, match='size mismatch for fc'):
        build_classifier('condensenet_a', 5).head.load_state_dict(
            build_classifier('condensenet_a', 6).head.state_dict()
        )


# Blocks


def test_activations_and_attention_by_block() -> None:
    """ReLU in blocks 1, 2, hard-swish in 3 to 5, SE in 4 and 5, and ReLU at the end."""
    with torch.device('meta'):
        model = build_classifier('condensenetv2_a')
    for stage in model.arch.stages:
        block = getattr(model, f'stage{stage.stride}')
        layer = block[-2] if stage.stride == 32 else block[-1]
        acts = {type(part.act) for part in (layer.lgc, layer.conv, layer.sfr)}
        assert acts == {nn.Hardswish if stage.stride >= 8 else nn.ReLU}
        assert isinstance(layer.se, nn.Identity) == (stage.stride < 16)
    assert isinstance(model.stage32.norm.act, nn.ReLU)
    assert model.stage16[1].se.reduce.weight.shape == (32, 32, 1, 1)
    assert model.stage16[1].se.reduce.bias is None
    assert model.head.se.reduce.weight.shape == (50, 800, 1, 1)


def test_head_has_hard_swish_although_table_1_prints_none() -> None:
    """The authors' code has it; with it the costs of A, B and C are those of their tool."""
    with torch.device('meta'):
        head = build_classifier('condensenetv2_a').head
    assert head.hidden.out_features == 828
    assert isinstance(head.act, nn.Hardswish)


@pytest.mark.parametrize(
    ('name', 'depth'), [('condensenetv2_110_cifar', 12), ('condensenetv2_146_cifar', 16)]
)
def test_the_cifar_forms(name: str, depth: int) -> None:
    """Section 4.3: three equal blocks, growth 8, 16, 32, C = S = G = 4, no SE, hard-swish, wide layer."""
    with torch.device('meta'):
        network = build_classifier(name)
    channels = 16
    for stage, stride, growth in zip(network.arch.stages, (1, 2, 4), (8, 16, 32), strict=True):
        channels += depth * growth
        assert (stage.stride, stage.channels, stage.depth) == (stride, channels, depth)
    for layer in masked_convs(network).values():
        assert (layer.factor, layer.num_groups) == (4, 4)
    kinds = {type(m).__name__ for m in network.modules()}
    assert not kinds & {'SqueezeExcite', 'Hardswish', 'WideHead'}


@torch.no_grad()
def test_a_layer_updates_what_is_before_it() -> None:
    torch.manual_seed(0)
    layer = masked('condensenetv2_a').stage8[1]
    x = torch.randn(1, 32, 6, 6)
    new = layer.conv(layer.lgc(x))
    out = layer(x)
    torch.testing.assert_close(out, torch.cat([x + layer.sfr(new), new], 1))
    assert (layer.sfr(new) < 0).any()  # an increment may be negative


@torch.no_grad()
def test_pooling_takes_the_mean_of_what_is_there() -> None:
    pool = masked('condensenet_a').stage4.pool
    x = torch.arange(15.0).view(1, 1, 3, 5)
    expected = [[3, 5, 6.5], [10.5, 12.5, 14]]
    assert pool(x)[0, 0].tolist() == expected
    assert 'pool' not in dict(StageHead('condensenet_a', in_stride=16).stage32.named_children())


# Taps


@pytest.mark.parametrize('name', ['condensenet_a', 'condensenetv2_a'])
@torch.no_grad()
def test_taps_are_raw_sums_or_normalised(name: str) -> None:
    torch.manual_seed(0)
    raw = build_backbone(name).eval()
    normalized = build_backbone(name, normalise_taps=True).eval()
    normalized.load_state_dict(raw.state_dict(), strict=False)
    assert [*normalized.taps] == ['4', '8', '16']
    a, b = raw(image()), normalized(image())
    for mine, other, stride in zip(b[:-1], a[:-1], (4, 8, 16), strict=True):
        assert (other < 0).any()
        torch.testing.assert_close(mine, normalized.taps[str(stride)](other))
        assert (mine >= 0).all()
    torch.testing.assert_close(b[-1], a[-1])
    assert (a[-1] >= 0).all()  # the network's own BN and ReLU
    assert frcnn_fpn(name, num_classes=2)['backbone']['normalise_taps']
    assert retinanet_fpn(name, num_classes=2)['backbone']['normalise_taps']
    assert 'normalise_taps' not in frcnn_c4(name, num_classes=2)['backbone']
