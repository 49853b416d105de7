"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381).

Inverted residuals: the shortcut connects narrow feature maps, a unit expands them for its depthwise
convolution, and its last convolution has no activation.

Not stated in the paper, and chosen as in the authors' code (tensorflow/models,
``research/slim/nets/mobilenet``, and of torchvision's):

* Widths are rounded to multiples of 8 (``make_divisible``).
* The last convolution keeps its 1280 channels if alpha < 1. Only the classifier uses it, so it belongs to
  the head, as does the dropout of 0.2.

Deviations: none known.

MMDetection has a class of the name MobileNetV2, so a config says ``type='CompactBackbone'``. Weights that
TensorFlow trained need ``conventions=dict(padding='same', bn_eps=1e-3)``; the activation is
always ReLU6.
"""

import functools
from typing import NamedTuple

from torch import Tensor, nn

from backbones.base import CompactBackbone, unit_stage
from backbones.layers import ConvBN, ConvHead, make_divisible
from backbones.spec import Arch, Conventions, Stage, stages_of

ACT = 'relu6'
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
DROPOUT = 0.2


class Unit(NamedTuple):
    """Row of one inverted residual.

    Attributes:
        expansion: Of the depthwise convolution's channels ("t").
        channels: Output channels ("c").
    """

    expansion: int
    channels: int


class InvertedResidual(nn.Sequential):
    """1x1 conv, BN, ReLU6, 3x3 dwconv, BN, ReLU6, 1x1 conv, BN (Table 1, Fig. 4 d).

    (N, C, H, W) -> (N, C_out, H/s, W/s). A unit that does not expand has no first convolution.
    """

    def __init__(
        self, in_channels: int, unit: Unit, *, stride: int, identity: bool, conventions: Conventions
    ):
        super().__init__()
        self.identity = identity
        width = unit.expansion * in_channels
        if width != in_channels:
            self.expand = ConvBN(in_channels, width, act=ACT, conventions=conventions)
        self.depthwise = ConvBN(
            width, width, 3, stride=stride, groups=width, act=ACT, conventions=conventions
        )
        self.project = ConvBN(width, unit.channels, act=False, conventions=conventions)

    def forward(self, x: Tensor) -> Tensor:
        """Residual and, where the unit keeps size and width, identity."""
        residual = super().forward(x)
        return residual.add_(x) if self.identity else residual


# Table 2, its column s (stride of the first unit) written as the output stride.
#    stride, t, c, n
TABLE_2 = (
    (2, 1, 16, 1),
    (4, 6, 24, 2),
    (8, 6, 32, 3),
    (16, 6, 64, 4),
    (16, 6, 96, 3),
    (32, 6, 160, 3),
    (32, 6, 320, 1),
)


def _mobilenetv2(
    table: str, alpha: float, *, mflops: float, params_m: float | None = None, note: str = ''
) -> Arch:
    """Return a row of Table 2, every width times alpha; ``table`` has the published cost."""
    return Arch(
        paper=f'arXiv:1801.04381, Table 2; cost: {table}',
        stem_channels=make_divisible(STEM_CHANNELS * alpha),
        stem_stride=2,
        stages=stages_of(
            (stride, Unit(t, make_divisible(c * alpha))) for stride, t, c, n in TABLE_2 for _ in range(n)
        ),
        paper_mflops=mflops,
        paper_params_m=params_m,
        cost_note=note,
    )


_SHUFFLENETV2 = 'arXiv:1807.11164, Table 8'
_QUOTED = (
    'the CondenseNetV2 paper quotes it from the ShuffleNetV2 paper, where it is that of another network, '
    "re-implemented there; this is the authors' own {}x"
)
_CUT = 'printed parameters: 3.47 M without BN, cut off'

ARCHS = {
    'mobilenetv2_0.4x': _mobilenetv2(_SHUFFLENETV2, 0.4, mflops=43, note=_QUOTED.format(0.4)),
    'mobilenetv2_0.75x': _mobilenetv2(_SHUFFLENETV2, 0.75, mflops=145, note=_QUOTED.format(0.75)),
    'mobilenetv2_1x': _mobilenetv2('Table 4', 1, mflops=300, params_m=3.4, note=_CUT),
}


class MobileNetV2(CompactBackbone, archs=ARCHS):
    """MobileNetV2. For arguments and feature maps see ``CompactBackbone``."""

    takes_conventions = frozenset({'padding', 'bn_eps'})

    @staticmethod
    def make_stem(arch: Arch, conventions: Conventions) -> nn.Module:
        """3x3 conv /2, BN, ReLU6."""
        return ConvBN(3, arch.stem_channels, 3, stride=2, act=ACT, conventions=conventions)

    @staticmethod
    def make_stage(arch: Arch, stage: Stage, stride: int, conventions: Conventions) -> nn.Module:
        """Inverted residuals; the first has the stage's stride in its depthwise convolution."""
        return unit_stage(arch, stage, stride, functools.partial(InvertedResidual, conventions=conventions))

    @staticmethod
    def make_head(arch: Arch, num_classes: int, conventions: Conventions) -> nn.Module:
        """1x1 conv, BN, ReLU6, global average pool, dropout, fully connected layer."""
        return ConvHead(
            arch.stages[-1].channels,
            HEAD_CHANNELS,
            num_classes,
            act=ACT,
            dropout=DROPOUT,
            conventions=conventions,
        )
