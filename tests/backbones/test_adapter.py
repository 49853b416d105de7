"""Networks of torchvision, timm and pytorchcv: where they are cut, and that the parts are the network."""

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from torch import Tensor, fx, nn

from backbones import StageHead, build_backbone, build_classifier, get_arch, list_archs
from backbones.libraries.adapter import LIBRARIES, adapted_entries
from backbones.libraries.aliases import ALIASES
from backbones.libraries.graphs import Dissection
from backbones.libraries.tracing import GraphError, Recording
from backbones.libraries.unstride import unstride
from backbones.spec import UnknownArchError
from backbones.wiring import frcnn_fpn

from peers import randomize_bn

# Read from the libraries' code by hand: the last block's output before each downsampling.
SPLITS = {
    'alexnet': {4: 64, 8: 192, 16: 256},
    'vgg16': {1: 64, 2: 128, 4: 256, 8: 512, 16: 512},
    'squeezenet1_0': {2: 96, 4: 256, 8: 512, 16: 512},
    'googlenet': {2: 64, 4: 192, 8: 480, 16: 832, 32: 1024},
    'nasnet_a_mobile': {2: 32, 4: 44, 8: 264, 16: 528, 32: 1056},
    'proxylessnas_mobile': {2: 16, 4: 32, 8: 40, 16: 96, 32: 320},
    'torchvision:resnet18': {2: 64, 4: 64, 8: 128, 16: 256, 32: 512},
    'torchvision:mobilenet_v2': {2: 16, 4: 24, 8: 32, 16: 96, 32: 320},
    'torchvision:mobilenet_v3_large': {2: 16, 4: 24, 8: 40, 16: 112, 32: 160},
    'torchvision:shufflenet_v2_x1_0': {2: 24, 4: 24, 8: 116, 16: 232, 32: 464},
    'torchvision:densenet121': {2: 64, 4: 256, 8: 512, 16: 1024, 32: 1024},
    'torchvision:inception_v3': {2: 64, 4: 192, 8: 288, 16: 768, 32: 2048},
    'torchvision:swin_t': {4: 96, 8: 192, 16: 384, 32: 768},
    'timm:mobilenetv4_conv_small': {2: 32, 4: 32, 8: 64, 16: 96, 32: 128},
    'timm:ghostnet_100': {2: 16, 4: 24, 8: 40, 16: 112, 32: 160},
    'pytorchcv:mnasnet_a1': {2: 16, 4: 24, 8: 40, 16: 112, 32: 320},
    'pytorchcv:darknet19': {1: 32, 2: 64, 4: 128, 8: 256, 16: 512, 32: 1024},
    'pytorchcv:dpn68': {2: 10, 4: 144, 8: 320, 16: 704, 32: 832},
    'pytorchcv:espnetv2_wd2': {2: 16, 4: 32, 8: 64, 16: 128, 32: 1024},
    'pytorchcv:resnet20_cifar10': {1: 16, 2: 32, 4: 64},
}
# Networks whose stages timm itself lists as we cut them, but for strides below 4.
TIMM = ('convnext_atto', 'cspresnet50', 'efficientnet_b0', 'hgnetv2_b0', 'regnety_002', 'resnetv2_18')
TIMM_TOO = (
    'densenet121', 'dla34', 'dpn68', 'edgenext_xx_small', 'ese_vovnet19b_dw', 'fbnetc_100', 'lcnet_050',
    'mixnet_s', 'mobilenetv2_100', 'poolformer_s12', 'repvgg_a0', 'res2net50_26w_4s', 'rexnet_100',
    'skresnet18', 'starnet_s1', 'swin_tiny_patch4_window7_224', 'tf_efficientnetv2_b0', 'tinynet_a',
)  # fmt: skip
# Networks that differ in kind: plain, inplace ReLU, layer scale, SAME padding, blur filters, (N, H, W, C),
# several maps handed on, pieces of a map, a map for training only, a pool of one size.
PARITY = (
    'squeezenet1_0',
    'torchvision:resnet18',
    'timm:convnext_atto',
    'timm:tf_efficientnet_lite0',
    'pytorchcv:dpn68',
)
PARITY_TOO = (
    'googlenet',
    'nasnet_a_mobile',
    'proxylessnas_mobile',
    'torchvision:shufflenet_v2_x0_5',
    'timm:mambaout_femto',
    'timm:resnetblur18',
    'pytorchcv:preresnet10',
)
SEQUENCES = ('torchvision:mobilenet_v3_small', 'timm:convnext_atto', 'timm:tf_efficientnet_lite0')
SEQUENCES_TOO = (
    'torchvision:densenet121',
    'torchvision:inception_v3',
    'timm:mambaout_femto',
    'timm:resnetblur18',
    'pytorchcv:mobilenetv2_wd4',
)


def slow(names: tuple[str, ...]) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(autouse=True)
def _needs_library(request: pytest.FixtureRequest) -> None:
    if 'name' in request.fixturenames:
        name = request.getfixturevalue('name')
        library = (ALIASES[name].source if name in ALIASES else name).partition(':')[0]
        pytest.importorskip(library if library in LIBRARIES else 'timm')


def library_network(source: str, num_classes: int) -> nn.Module:
    key, _, name = source.partition(':')
    network = LIBRARIES[key].build(name, num_classes).eval()
    randomize_bn(network)
    return network


def filled(half: nn.Module, weights: dict[str, Tensor]) -> Any:
    half.load_state_dict({key: weights[key] for key in half.state_dict()})
    return half.eval()


@pytest.mark.parametrize('name', SPLITS)
def test_splits(name: str) -> None:
    assert get_arch(name).strides == SPLITS[name]


@pytest.mark.parametrize('name', [*TIMM, *slow(TIMM_TOO)])
def test_splits_are_those_that_timm_lists(name: str) -> None:
    timm = pytest.importorskip('timm')
    with torch.device('meta'):
        info = timm.create_model(name, pretrained=False).feature_info
    listed = {row['reduction']: row['num_chs'] for row in getattr(info, 'info', info)}
    ours = get_arch(f'timm:{name}').strides
    assert {s: c for s, c in ours.items() if s >= 4} == {s: c for s, c in listed.items() if s >= 4}


@torch.no_grad()
@pytest.mark.parametrize('name', [*PARITY, *slow(PARITY_TOO)])
def test_parts_are_the_librarys_network(name: str) -> None:
    """The library's weights give the library's logits; taps are not overwritten by what follows."""
    arch = get_arch(name)
    theirs = library_network(arch.source, 10)
    ours = build_classifier(name, num_classes=10).eval()
    weights = theirs.state_dict()
    named = {our: weights[their] for their, our in adapted_entries(arch).items() if our}
    ours.load_state_dict(named)
    x = torch.randn(1, 3, arch.input_size, arch.input_size)
    expected = theirs(x)
    torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-6 * expected.abs().max().item())

    together = filled(build_backbone(name, out_strides=[*arch.strides]), named)(x)
    for stride, got in zip(arch.strides, together, strict=True):
        (alone,) = filled(build_backbone(name, out_strides=(stride,)), named)(x)
        assert torch.equal(got, alone)
        assert got.shape[1] == arch.channels(stride)


@torch.no_grad()
@pytest.mark.parametrize('name', [*SEQUENCES, *slow(SEQUENCES_TOO)])
def test_stage_head(name: str) -> None:
    """At the network's own strides it goes on as the network does; at stride 1 it keeps a RoI's size."""
    arch = get_arch(name)
    network = build_classifier(name, num_classes=2).eval()
    randomize_bn(network)
    weights = network.state_dict()
    native = filled(StageHead(name, stride=None), weights)
    head = filled(StageHead(name), weights)
    assert head.state_dict().keys() == native.state_dict().keys()
    assert head(torch.rand(2, arch.channels(16), 7, 7)).shape == (2, arch.channels(32), 7, 7)
    for size in ((96, 128), (107, 139)):
        x = torch.randn(1, 3, *size)
        c4, c5 = filled(build_backbone(name, out_strides=(16, 32)), weights)(x)
        torch.testing.assert_close(native(c4), c5, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('name', ['nasnet_a_mobile', 'pytorchcv:dpn68', *slow(('timm:hrnet_w18_small',))])
def test_no_sequence(name: str) -> None:
    assert 16 not in get_arch(name).split_strides
    with torch.device('meta'):
        assert len(build_backbone(name)(torch.empty(1, 3, 64, 64))) == 4
        with pytest.raises(
            ValueError, match=f'{name} is no sequence after stride 16: .* FPN and RetinaNet can'
        ):
            StageHead(name)
    assert frcnn_fpn(name, num_classes=3, init=None)['neck']['in_channels'] == [
        get_arch(name).channels(stride) for stride in (4, 8, 16, 32)
    ]


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('torchvision:vit_b_32', 'torchvision:vit_b_32 cannot be a backbone: it does not end with a map'),
        ('timm:convmixer_768_32', 'cannot be a backbone: it makes no maps at strides 1, 2, 4, 8'),
        ('timm:volo_d1_224', 'after its last map, at stride 16, it has .* more layers on tokens'),
        ('pytorchcv:fractalnet_cifar10', 'cannot be a backbone: its code cannot be recorded'),
        ('pytorchcv:enet_cityscapes', 'cannot be a backbone: it does not return logits'),
        ('torchvision:resnet19', "unknown arch 'torchvision:resnet19'; near: torchvision:resnet18"),
        (
            'timm:mobilenetv4_conv_smal',
            "unknown arch 'timm:mobilenetv4_.*near: timm:mobilenetv4_conv_small",
        ),
        ('pytorchcv:???', "unknown arch 'pytorchcv:"),
        ('keras:resnet18', "unknown arch 'keras:resnet18'"),
    ],
)
def test_what_is_no_backbone(name: str, message: str) -> None:
    with pytest.raises(UnknownArchError, match=message):
        get_arch(name)


def test_stage_that_cannot_keep_a_maps_size() -> None:
    pytest.importorskip('timm')
    with torch.device('meta'), pytest.raises(ValueError, match='stage 32 cannot keep the size of a map'):
        StageHead('torchvision:swin_t')


def test_library_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(
        UnknownArchError, match=r"needs timm, .* not installed: pip install 'compactdet\[timm\]'"
    ):
        get_arch('timm:resnet10t')


def test_aliases_are_listed_and_measured_late() -> None:
    assert set(ALIASES) <= set(list_archs())
    assert not any(':' in name for name in list_archs())
    code = "import sys, backbones; print({'timm', 'pytorchcv'} & {*sys.modules})"
    run = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == 'set()'


@pytest.mark.parametrize('name', ['torchvision:resnet18', 'timm:convnext_atto'])
def test_initial_weights_depend_on_the_seed_only(name: str) -> None:
    """The second build finds the network cached."""
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_backbone(name, out_strides=(8,)).state_dict())
    assert all(torch.equal(states[1][key], tensor) for key, tensor in states[0].items())


def test_what_the_library_initialises_itself_stays() -> None:
    timm = pytest.importorskip('timm')
    theirs = timm.create_model('convnext_atto').stages[0].blocks[0].gamma
    ours = build_backbone('timm:convnext_atto', out_strides=(4, 8))
    assert torch.equal(ours.state_dict()['stem.stages.0.blocks.0.gamma'], theirs)
    blurred = build_backbone('timm:resnetblur18', out_strides=(4, 8))
    filters = [m.filt for m in blurred.modules() if hasattr(m, 'filt')]
    assert filters
    assert all(f.sum((2, 3)).allclose(torch.ones(1)) for f in filters)


def test_copies_and_configs() -> None:
    config = dict(type='AdaptedNetwork', arch='torchvision:resnet18', out_strides=(8, 16))
    model = MODELS.build(copy.deepcopy(config)).eval()
    x = torch.randn(1, 3, 64, 64)
    for mine, other in zip(model(x), copy.deepcopy(model)(x), strict=True):
        assert torch.equal(mine, other)


class Strided(nn.Module):
    """Every kind of layer that changes a map's size."""

    def __init__(self) -> None:
        super().__init__()
        self.even = nn.Conv2d(2, 2, 2, stride=2)
        self.valid = nn.Conv2d(2, 2, 3, stride=2)
        self.overlapping = nn.AvgPool2d(3, stride=2, ceil_mode=True)
        self.whole = nn.AvgPool2d(3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(self.valid(self.even(x)), kernel_size=3, stride=2)
        return self.overlapping(nn.functional.avg_pool2d(x, 2))


@torch.no_grad()
def test_unstride() -> None:
    part = fx.symbolic_trace(Strided())
    shapes = {key: value.shape for key, value in part.state_dict().items()}
    unstride(part, 2)
    assert {key: value.shape for key, value in part.state_dict().items()} == shapes
    x = torch.rand(1, 2, 9, 5)
    even = part.even(nn.functional.pad(x, (0, 1, 0, 1)))
    valid = nn.functional.conv2d(even, part.valid.weight, part.valid.bias, padding=1)
    pooled = nn.functional.max_pool2d(valid, 3, stride=1, padding=1)
    expected = nn.functional.avg_pool2d(pooled, 3, stride=1, padding=1, count_include_pad=False)
    torch.testing.assert_close(part(x), expected)


class Sliced(nn.Module):
    """Downsamples by what has no stride."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x[:, :, ::2, ::2])


def test_unstride_refuses_what_it_cannot() -> None:
    with pytest.raises(GraphError, match='it makes a 4x4 map of a 7x7 one'):
        unstride(fx.symbolic_trace(Sliced()), 2)


class Writing(nn.Module):
    """Writes into tensors that it reads later: by method, assignment, layer, slice and ``out=``."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.gain = nn.Parameter(torch.tensor(0.3))
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.second(x)
        x.mul_(self.gain)
        same = y
        y += 1
        self.relu(same)
        same[:, :2] = same[:, 2:] * 2
        torch.add(y, self.second(x), out=y)
        return self.fc(same.mean((2, 3)))


@torch.no_grad()
def test_writes_into_tensors_are_kept() -> None:
    torch.manual_seed(0)
    network = Writing().eval()
    split = Dissection(copy.deepcopy(network).to('meta'), 32)
    parts = [split.part(i, network) for i in range(len(split.cuts) + 1)]
    x = torch.randn(1, 3, 32, 32)
    image, carry = x.clone(), x
    for part in parts:
        given = carry
        before = [t.clone() for t in ((given,) if isinstance(given, Tensor) else given)]
        carry = part(given)
        after = (given,) if isinstance(given, Tensor) else given
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    torch.testing.assert_close(carry, network(image))


class WritingView(Writing):
    """Writes through a view, outside any module that could be recorded as a whole."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.stem(x))
        y.view(-1).mul_(self.gain)
        return self.fc(y.mean((2, 3)))


def test_a_write_that_cannot_be_recorded_is_named() -> None:
    with torch.device('meta'), pytest.raises(GraphError, match='its operation mul_ writes into a tensor'):
        Dissection(WritingView(), 32)


def test_a_network_recorded_inside_a_device_block_runs_elsewhere() -> None:
    """The mask is made on the default device, which is that of the block while the graph is recorded."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return (y + torch.zeros(y.shape).to(y.device)).mean((2, 3))

    with torch.device('meta'):
        module = Recording(Masked(), 32).module
    assert module.to_empty(device='cpu')(torch.zeros(1, 3, 32, 32)).device.type == 'cpu'
