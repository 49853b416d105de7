"""MobileNetV3 (Howard et al. 2019, arXiv:1905.02244).

The inverted residual of MobileNetV2; kernel size, width, squeeze-and-excitation and activation of each unit
come from architecture search. The widest layer of the classifier comes after the pooling.

Not stated in the paper, and chosen as in the authors' code (tensorflow/models,
``research/slim/nets/mobilenet/mobilenet_v3.py``, and of timm's; "cost": it is the one that gives the
printed cost):

* Widths are rounded to multiples of 8 (``make_divisible``). At 0.75x a unit expands its rounded
  input by the ratio exp / input of the table; torchvision scales and rounds exp (cost).
* The layer of 1280 (small: 1024) channels is not scaled (cost: torchvision scales it; then large 0.75x
  has 140 M, not 155 M).
* Squeeze-and-excitation: a quarter of the expanded width, rounded likewise; ReLU, then hard sigmoid.
* The last 1x1 convolution of small has no squeeze-and-excitation, although Table 2 marks it (cost: 2.5 M
  parameters).
* Dropout of 0.2 before the classifier.

Deviations: none known.

Weights that TensorFlow trained need ``conventions=dict(padding='same', bn_eps=1e-3)``, torchvision's
``conventions=dict(bn_eps=1e-3)``.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

from mmdet.registry import MODELS
from torch import Tensor, nn

from backbones.base import CompactBackbone, unit_stage
from backbones.layers import ConvBN, ConvHead, SqueezeExcite, make_divisible
from backbones.spec import Arch, Conventions, Stage, stages_of

STEM_CHANNELS = 16
DROPOUT = 0.2


class Unit(NamedTuple):
    """Row of one bneck.

    Attributes:
        kernel_size: Of the depthwise convolution.
        expanded: Channels of the depthwise convolution ("exp size").
        channels: Output channels ("#out").
        se: Squeeze-and-excitation after the depthwise convolution.
        act: A name from ``ACTIVATIONS`` ("NL").
    """

    kernel_size: int
    expanded: int
    channels: int
    se: bool
    act: str


class Bneck(nn.Sequential):
    """1x1 conv, BN, NL, dwconv, BN, NL, optional SE, 1x1 conv, BN (Fig. 4).

    (N, C, H, W) -> (N, C_out, H/s, W/s). A unit that does not expand has no first convolution.
    """

    def __init__(
        self, in_channels: int, unit: Unit, *, stride: int, identity: bool, conventions: Conventions
    ):
        super().__init__()
        self.identity = identity
        width, act = unit.expanded, unit.act
        if width != in_channels:
            self.expand = ConvBN(in_channels, width, act=act, conventions=conventions)
        self.depthwise = ConvBN(
            width, width, unit.kernel_size, stride=stride, groups=width, act=act, conventions=conventions
        )
        if unit.se:
            self.se = SqueezeExcite(width, make_divisible(width / 4), gate='hsigmoid')
        self.project = ConvBN(width, unit.channels, act=False, conventions=conventions)

    def forward(self, x: Tensor) -> Tensor:
        """Residual and, where the unit keeps size and width, identity."""
        residual = super().forward(x)
        return residual.add_(x) if self.identity else residual


@dataclass(frozen=True, kw_only=True)
class MobileNetV3Arch(Arch):
    """A MobileNetV3's row.

    Attributes:
        head_channels: Of the last convolution, before the pooling.
        hidden_channels: Of the layer after the pooling.
    """

    head_channels: int
    hidden_channels: int


NO, SE = False, True
RE, HS = 'relu', 'hswish'

# Their column s (stride) written as the output stride.
#    stride, kernel size, exp size, #out, SE, NL
LARGE = (  # Table 1
    (2, 3, 16, 16, NO, RE),
    (4, 3, 64, 24, NO, RE),
    (4, 3, 72, 24, NO, RE),
    (8, 5, 72, 40, SE, RE),
    (8, 5, 120, 40, SE, RE),
    (8, 5, 120, 40, SE, RE),
    (16, 3, 240, 80, NO, HS),
    (16, 3, 200, 80, NO, HS),
    (16, 3, 184, 80, NO, HS),
    (16, 3, 184, 80, NO, HS),
    (16, 3, 480, 112, SE, HS),
    (16, 3, 672, 112, SE, HS),
    (32, 5, 672, 160, SE, HS),
    (32, 5, 960, 160, SE, HS),
    (32, 5, 960, 160, SE, HS),
)
SMALL = (  # Table 2
    (4, 3, 16, 16, SE, RE),
    (8, 3, 72, 24, NO, RE),
    (8, 3, 88, 24, NO, RE),
    (16, 5, 96, 40, SE, HS),
    (16, 5, 240, 40, SE, HS),
    (16, 5, 240, 40, SE, HS),
    (16, 5, 120, 48, SE, HS),
    (16, 5, 144, 48, SE, HS),
    (32, 5, 288, 96, SE, HS),
    (32, 5, 576, 96, SE, HS),
    (32, 5, 576, 96, SE, HS),
)


def _mobilenetv3(
    table: tuple[tuple[int, int, int, int, bool, str], ...],
    alpha: float,
    *,
    hidden: int,
    mflops: float,
    params_m: float,
    note: str = '',
) -> MobileNetV3Arch:
    """Return a table, every width times alpha but that of the hidden layer."""
    stem_channels = channels = make_divisible(STEM_CHANNELS * alpha)
    tables_channels = STEM_CHANNELS
    units = []
    for stride, kernel_size, exp, out, se, act in table:
        expanded = make_divisible(channels * exp / tables_channels)
        tables_channels, channels = out, make_divisible(out * alpha)
        units.append((stride, Unit(kernel_size, expanded, channels, se, act)))
    return MobileNetV3Arch(
        paper=f'arXiv:1905.02244, Tables {1 if table is LARGE else 2} and 3',
        stem_channels=stem_channels,
        stem_stride=2,
        stages=stages_of(units),
        head_channels=make_divisible(exp * alpha),
        hidden_channels=hidden,
        paper_mflops=mflops,
        paper_params_m=params_m,
        cost_note=note,
    )


_CUT = 'printed in whole millions, parameters cut off to a tenth'
_COUNT = "the paper's count; the authors' page later says 217; " + _CUT

ARCHS = {
    'mobilenetv3_large_0.75x': _mobilenetv3(LARGE, 0.75, hidden=1280, mflops=155, params_m=4.0),
    'mobilenetv3_large_1x': _mobilenetv3(LARGE, 1, hidden=1280, mflops=219, params_m=5.4, note=_COUNT),
    'mobilenetv3_small_0.75x': _mobilenetv3(SMALL, 0.75, hidden=1024, mflops=44, params_m=2.0, note=_CUT),
    'mobilenetv3_small_1x': _mobilenetv3(SMALL, 1, hidden=1024, mflops=56, params_m=2.5, note=_CUT),
}


@MODELS.register_module()
class MobileNetV3(CompactBackbone, archs=ARCHS):
    """MobileNetV3. For arguments and feature maps see ``CompactBackbone``."""

    takes_conventions = frozenset({'padding', 'bn_eps'})

    @staticmethod
    def make_stem(arch: Arch, conventions: Conventions) -> nn.Module:
        """3x3 conv /2, BN, hard swish."""
        return ConvBN(3, arch.stem_channels, 3, stride=2, act='hswish', conventions=conventions)

    @staticmethod
    def make_stage(arch: Arch, stage: Stage, stride: int, conventions: Conventions) -> nn.Module:
        """Bnecks; the first has the stage's stride in its depthwise convolution."""
        return unit_stage(arch, stage, stride, functools.partial(Bneck, conventions=conventions))

    @staticmethod
    def make_head(arch: Arch, num_classes: int, conventions: Conventions) -> nn.Module:
        """1x1 conv, BN, HS, global average pool, hidden layer, HS, dropout, fully connected layer."""
        assert isinstance(arch, MobileNetV3Arch)
        return ConvHead(
            arch.stages[-1].channels,
            arch.head_channels,
            num_classes,
            hidden_channels=arch.hidden_channels,
            act='hswish',
            dropout=DROPOUT,
            conventions=conventions,
        )
