"""EfficientNet (Tan and Le 2019, arXiv:1905.11946).

One network found by architecture search, B0 (Table 1), and compound scaling: B1 to B7 have more channels,
more layers and larger images, each by its own factor. All are derived from one table.

Not stated in the paper, and chosen as in the authors' code (tensorflow/tpu):

* Widths are rounded to multiples of 8 (``make_divisible``), numbers of layers up; stem and head are
  scaled in width and not in depth.
* Squeeze-and-excitation: a quarter of the unit's *input*, SiLU, then sigmoid.
* The shortcut is an identity and exists where a unit keeps size and width.
* The factors and the dropout of a row; the paper prints only their product, the costs of Table 2, at
  each network's own image size, ``input_size``.

Deviations: stochastic depth (drop-connect) belongs to the training recipe and is not included.

MMDetection has a class of the name EfficientNet, so a config says ``type='CompactBackbone'``. Weights that
TensorFlow trained need ``conventions=dict(padding='same', bn_eps=1e-3)``.
"""

import functools
import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn

from backbones.base import CompactBackbone, unit_stage
from backbones.layers import ConvBN, ConvHead, SqueezeExcite, make_divisible
from backbones.spec import Arch, Conventions, Stage, stages_of

ACT = 'swish'
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


class Unit(NamedTuple):
    """Row of one MBConv.

    Attributes:
        expansion: Of the depthwise convolution's channels: 6 of "MBConv6".
        kernel_size: Of the depthwise convolution.
        channels: Output channels.
    """

    expansion: int
    kernel_size: int
    channels: int


class MBConv(nn.Sequential):
    """1x1 conv, BN, SiLU, dwconv, BN, SiLU, SE, 1x1 conv, BN: MobileNetV2's unit with SE (section 4).

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
            width, width, unit.kernel_size, stride=stride, groups=width, act=ACT, conventions=conventions
        )
        self.se = SqueezeExcite(width, in_channels // 4, act=ACT)
        self.project = ConvBN(width, unit.channels, act=False, conventions=conventions)

    def forward(self, x: Tensor) -> Tensor:
        """Residual and, where the unit keeps size and width, identity."""
        residual = super().forward(x)
        return residual.add_(x) if self.identity else residual


@dataclass(frozen=True, kw_only=True)
class EfficientNetArch(Arch):
    """An EfficientNet's row.

    Attributes:
        head_channels: Of the 1x1 convolution before the classifier.
        dropout: Before the classifier.
    """

    head_channels: int
    dropout: float


# Table 1, its resolutions written as the output stride; t, k: of "MBConvt, kxk".
#    stride, t, k, #channels, #layers
TABLE_1 = (
    (2, 1, 3, 16, 1),
    (4, 6, 3, 24, 2),
    (8, 6, 5, 40, 2),
    (16, 6, 3, 80, 3),
    (16, 6, 5, 112, 3),
    (32, 6, 5, 192, 4),
    (32, 6, 3, 320, 1),
)


def _efficientnet(
    width: float,
    depth: float,
    size: int,
    dropout: float,
    *,
    mflops: float,
    params_m: float,
    note: str = '',
) -> EfficientNetArch:
    """Return a row of Table 1, every width times ``width``, every number of layers times ``depth``."""
    return EfficientNetArch(
        paper='arXiv:1905.11946, Tables 1 and 2',
        stem_channels=make_divisible(STEM_CHANNELS * width),
        stem_stride=2,
        stages=stages_of(
            (stride, Unit(t, k, make_divisible(c * width)))
            for stride, t, k, c, n in TABLE_1
            for _ in range(math.ceil(n * depth))
        ),
        head_channels=make_divisible(HEAD_CHANNELS * width),
        dropout=dropout,
        paper_mflops=mflops,
        paper_params_m=params_m,
        input_size=size,
        cost_note=note,
    )


_DIGITS = 'printed in two digits'
_PEERS = "torchvision's network costs the same at this size; what the paper counted is not known"

#                               width depth size dropout  printed
ARCHS = {
    'efficientnet_b0': _efficientnet(1.0, 1.0, 224, 0.2, mflops=390, params_m=5.3, note=_DIGITS),
    'efficientnet_b1': _efficientnet(1.0, 1.1, 240, 0.2, mflops=700, params_m=7.8, note=_PEERS),
    'efficientnet_b2': _efficientnet(1.1, 1.2, 260, 0.3, mflops=1000, params_m=9.2),
    'efficientnet_b3': _efficientnet(1.2, 1.4, 300, 0.3, mflops=1800, params_m=12, note=_DIGITS),
    'efficientnet_b4': _efficientnet(1.4, 1.8, 380, 0.4, mflops=4200, params_m=19, note=_PEERS),
    'efficientnet_b5': _efficientnet(1.6, 2.2, 456, 0.4, mflops=9900, params_m=30, note=_PEERS),
    'efficientnet_b6': _efficientnet(1.8, 2.6, 528, 0.5, mflops=19000, params_m=43),
    'efficientnet_b7': _efficientnet(2.0, 3.1, 600, 0.5, mflops=37000, params_m=66, note=_PEERS),
}


class EfficientNet(CompactBackbone, archs=ARCHS):
    """EfficientNet. For arguments and feature maps see ``CompactBackbone``."""

    takes_conventions = frozenset({'padding', 'bn_eps'})

    @staticmethod
    def make_stem(arch: Arch, conventions: Conventions) -> nn.Module:
        """3x3 conv /2, BN, SiLU."""
        return ConvBN(3, arch.stem_channels, 3, stride=2, act=ACT, conventions=conventions)

    @staticmethod
    def make_stage(arch: Arch, stage: Stage, stride: int, conventions: Conventions) -> nn.Module:
        """MBConv units; the first has the stage's stride in its depthwise convolution."""
        return unit_stage(arch, stage, stride, functools.partial(MBConv, conventions=conventions))

    @staticmethod
    def make_head(arch: Arch, num_classes: int, conventions: Conventions) -> nn.Module:
        """1x1 conv, BN, SiLU, global average pool, dropout, fully connected layer."""
        assert isinstance(arch, EfficientNetArch)
        return ConvHead(
            arch.stages[-1].channels,
            arch.head_channels,
            num_classes,
            act=ACT,
            dropout=arch.dropout,
            conventions=conventions,
        )
