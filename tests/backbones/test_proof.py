"""The comparison of a library's network with its recorded parts, and the image sizes that it takes."""

import copy
from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import get_model_weights

from backbones import build_backbone, get_arch
from backbones.libraries import adapter
from backbones.libraries.adapter import LIBRARIES
from backbones.libraries.graphs import Dissection
from backbones.libraries.proof import check_parts, randomized, size_divisor
from backbones.libraries.tracing import GraphError
from backbones.spec import UnknownArchError
from backbones.wiring import check_able, detectors, retinanet_fpn

Change = Callable[['Net', Tensor], Tensor]


class Net(nn.Module):
    """Two strided convolutions with a change of the map between them, and a classifier."""

    def __init__(self, change: Change) -> None:
        super().__init__()
        self.stem, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, 2, 1)
        self.gain, self.table = nn.Parameter(torch.ones(4, 1, 1)), nn.Parameter(torch.zeros(1, 4, 32, 32))
        self.register_buffer('scale', torch.ones(1))
        self.norm, self.fc = nn.BatchNorm2d(4), nn.Linear(4, 5)
        self.change = change

    def forward(self, x: Tensor) -> Tensor:
        x = self.change(self, self.norm(self.stem(x)))
        return self.fc(self.second(x).mean((2, 3)))


def split_of(change: Change) -> tuple[Dissection, nn.Module]:
    network = Net(change).eval()
    return Dissection(copy.deepcopy(network).to('meta'), 64), randomized(network)


def through_data(net: Net, x: Tensor) -> Tensor:
    x.data.mul_(net.gain)
    return x


def without_weights(_: Net, x: Tensor) -> Tensor:
    x.data.tanh_()
    return x


def other_in_training(net: Net, x: Tensor) -> Tensor:
    return 2 * x if net.training else x


def buffer_in_training(net: Net, x: Tensor) -> Tensor:
    y = x * net.scale
    if net.training:
        net.scale.mul_(0.9)
    return y


def windows(_: Net, x: Tensor) -> Tensor:
    n, c, height, width = x.shape
    x = x.reshape(n, c, height // 8, 8, width // 8, 8)
    return (x * x.mean((3, 5), keepdim=True)).reshape(n, c, height, width)


def dropout(_: Net, x: Tensor) -> Tensor:
    return F.dropout(x, 0.5, False)


@pytest.mark.parametrize(
    'change', [lambda net, x: x, lambda net, x: x.mul_(net.gain), lambda net, x: x + net.table, windows]
)
def test_equal_networks_pass(change: Change) -> None:
    check_parts(*split_of(change))


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (through_data, r'its logits depend on gain, .*which no recorded layer has \(not recorded: mul_\)'),
        (without_weights, r'in evaluation its .* other logits than its code \(not recorded: tanh_\)'),
        (other_in_training, 'in training its recorded layers give other logits than its code'),
        (buffer_in_training, 'it changes its buffer scale'),
        (lambda net, x: x * 0, 'its logits do not depend on the image'),
    ],
)
def test_what_differs_is_named(change: Change, reason: str) -> None:
    with pytest.raises(GraphError, match=reason):
        check_parts(*split_of(change))


@pytest.mark.parametrize(
    ('change', 'divisor'),
    [(lambda net, x: x, 1), (windows, 16), (lambda net, x: x + net.table, None)],
)
def test_size_divisor(change: Change, divisor: int | None) -> None:
    """Windows of 8 pixels at stride 2, and a table of positions for images of 64x64."""
    assert size_divisor(split_of(change)[0]) == divisor


def test_dropout_that_is_a_function_stays_in_training() -> None:
    split, network = split_of(dropout)
    check_parts(split, network)
    layers = [m for i in range(3) for m in split.part(i).modules() if isinstance(m, nn.Dropout)]
    assert [layer.p for layer in layers] == [0.5]


def test_a_network_that_differs_is_refused_when_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise GraphError('its operation f is lost')

    monkeypatch.setattr(adapter, 'check_parts', fail)
    adapter.prove.cache_clear()  # another test may have built the network
    with pytest.raises(
        UnknownArchError, match='squeezenet1_1 cannot be a backbone: its operation f is lost'
    ):
        build_backbone('torchvision:squeezenet1_1', out_strides=(4,))


def test_detectors_of_networks_with_windows() -> None:
    """Images are padded to what the network takes; a network of one size is refused."""
    pytest.importorskip('timm')
    assert (
        retinanet_fpn('timm:halonet26t', num_classes=2, init=None)['data_preprocessor']['pad_size_divisor']
        == get_arch('timm:halonet26t').size_divisor
        == 256
    )  # 8x8 blocks at stride 32
    assert detectors('timm:botnet26t_256') == ()
    with pytest.raises(ValueError, match='no maps of images of other sizes than 256x256, which frcnn_fpn'):
        check_able('timm:botnet26t_256', 'frcnn_fpn')
    with pytest.raises(ValueError, match='256x256 pixels only, not of 224x224'):
        get_arch('timm:botnet26t_256').check_image(224, 224)
    with pytest.raises(ValueError, match='sides are multiples of 256 pixels, not of 256x320'):
        get_arch('timm:halonet26t').check_image(256, 320)


def test_c4_needs_a_stage_that_can_keep_the_size_of_a_map() -> None:
    assert detectors('torchvision:swin_t') == ('frcnn_fpn', 'retinanet_fpn')
    with pytest.raises(
        ValueError, match=r'swin_t has no stage .* keep the size of a map \(.*frcnn_c4 needs'
    ):
        check_able('torchvision:swin_t', 'frcnn_c4')


def sources() -> list[str]:
    torchvision, timm = LIBRARIES['torchvision'].names(), LIBRARIES['timm'].names()
    return [f'torchvision:{name}' for name in torchvision] + [f'timm:{name}' for name in timm]


def num_params(source: str) -> int:
    library, _, name = source.partition(':')
    try:
        with torch.device('meta'):
            return sum(p.numel() for p in LIBRARIES[library].build(name, None).parameters())
    except RuntimeError:  # torchvision's RegNets read a value when they are built
        return get_model_weights(name).DEFAULT.meta['num_params']


@pytest.mark.slow
@pytest.mark.parametrize('part', range(10))
def test_every_network_is_equal_or_refused(part: int) -> None:
    """Of all networks of torchvision and timm below 20 million parameters, a tenth each; `-s` shows the
    counts in `backbones/README.md`.
    """
    pytest.importorskip('timm')
    counts: Counter[str] = Counter()
    for source in sources()[part::10]:
        if num_params(source) >= 20e6:
            continue
        try:
            divisor = get_arch(source).size_divisor
            adapter.prove(source)
            counts[f'equal, sizes {divisor}'] += 1
        except UnknownArchError as error:
            counts['refused' if f'{source} cannot be a backbone: ' in str(error) else str(error)] += 1
    print(f'part {part}: {dict(counts)}')
    assert {name.partition(',')[0] for name in counts} <= {'equal', 'refused'}
