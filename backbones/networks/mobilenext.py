"""MobileNeXt (Zhou et al. 2020, arXiv:2007.02269).

The sandglass block reverses the inverted residual of MobileNetV2: the shortcut and the depthwise
convolutions are at the wide ends, and the two pointwise convolutions between them reduce and expand.

Not stated in the paper, and chosen as in the authors' code (zhoudaquan/rethinking_bottleneck_design at
195ee73, ``mnext.py``):

* Widths are rounded to multiples of 8 (``make_divisible``); the 1280 channels are kept where alpha < 1.
* The last unit, of 1280 channels, is a whole sandglass block: it belongs to stage 32, not to the head.
  Dropout of 0.2 before the classifier.

Deviations, which follow the authors' code (it is later than the paper):

* A first unit that changes the width has only its last depthwise convolution with stride 2, and none with
  stride 1. The units of 96, 144 and 1280 channels have both (d in TABLE_2).
* The reduced width is input / t. If this is less than a sixth of the output, it is this sixth, rounded up
  and then to a multiple of 16.
"""

import math
from typing import NamedTuple

from mmdet.registry import MODELS
from torch import Tensor, nn

from backbones.base import CompactBackbone, unit_stage
from backbones.layers import ConvBN, LinearHead, make_divisible
from backbones.spec import Arch, Conventions, Stage, stages_of

ACT = 'relu6'
STEM_CHANNELS, LAST_CHANNELS = 32, 1280
DROPOUT = 0.2


class Unit(NamedTuple):
    """Row of one sandglass block.

    Attributes:
        reduced: Channels between the pointwise convolutions.
        channels: Output channels.
        num_depthwise: 2, or 1 (the last alone), or 0.
    """

    reduced: int
    channels: int
    num_depthwise: int


class Sandglass(nn.Sequential):
    """3x3 dwconv, BN, ReLU6, 1x1 conv, BN, 1x1 conv, BN, ReLU6, 3x3 dwconv, BN (Table 1, Fig. 3 b).

    (N, C, H, W) -> (N, C_out, H/s, W/s). The last depthwise convolution has the stride.
    """

    def __init__(self, in_channels: int, unit: Unit, *, stride: int, identity: bool):
        super().__init__()
        self.identity = identity
        width = unit.channels
        if unit.num_depthwise == 2:
            self.depthwise1 = ConvBN(in_channels, in_channels, 3, groups=in_channels, act=ACT)
        self.reduce = ConvBN(in_channels, unit.reduced, act=False)
        self.expand = ConvBN(unit.reduced, width, act=ACT)
        if unit.num_depthwise:
            self.depthwise2 = ConvBN(width, width, 3, stride=stride, groups=width, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Residual and, where the unit keeps size and width, identity."""
        residual = super().forward(x)
        return residual.add_(x) if self.identity else residual


# Table 2, its column s (stride) written as the output stride; d: depthwise convolutions of the first unit.
#    stride, t, c, b, d
TABLE_2 = (
    (4, 2, 96, 1, 2),
    (4, 6, 144, 1, 2),
    (8, 6, 192, 3, 1),
    (16, 6, 288, 3, 1),
    (16, 6, 384, 4, 0),
    (32, 6, 576, 4, 1),
    (32, 6, 960, 3, 0),
    (32, 6, LAST_CHANNELS, 1, 2),
)


def _reduced(in_channels: int, out_channels: int, reduction: int) -> int:
    """Return the channels between the pointwise convolutions."""
    reduced = in_channels // reduction
    return reduced if reduced >= out_channels / 6 else make_divisible(math.ceil(out_channels / 6), 16)


def _mobilenext(alpha: float, *, mflops: float, params_m: float) -> Arch:
    """Return a row of Table 2, every width times alpha but the last, 1280."""
    stem_channels = channels = make_divisible(STEM_CHANNELS * alpha)
    units = []
    for stride, t, c, b, d in TABLE_2:
        for i in range(b):
            out = c if c == LAST_CHANNELS else make_divisible(c * alpha)
            units.append((stride, Unit(_reduced(channels, out, t), out, 2 if i else d)))
            channels = out
    return Arch(
        paper='arXiv:2007.02269, Table 2',
        stem_channels=stem_channels,
        stem_stride=2,
        stages=stages_of(units),
        paper_mflops=mflops,
        paper_params_m=params_m,
        cost_note="printed figures are coarsely rounded; the network is the authors' later code",
    )


ARCHS = {
    'mobilenext_0.35x': _mobilenext(0.35, mflops=80, params_m=1.8),
    'mobilenext_0.5x': _mobilenext(0.5, mflops=110, params_m=2.1),
    'mobilenext_0.75x': _mobilenext(0.75, mflops=210, params_m=2.5),
    'mobilenext_1x': _mobilenext(1, mflops=300, params_m=3.4),
}


@MODELS.register_module()
class MobileNeXt(CompactBackbone, archs=ARCHS):
    """MobileNeXt. For arguments and feature maps see ``CompactBackbone``."""

    @staticmethod
    def make_stem(arch: Arch, conventions: Conventions) -> nn.Module:
        """3x3 conv /2, BN, ReLU6."""
        return ConvBN(3, arch.stem_channels, 3, stride=2, act=ACT)

    @staticmethod
    def make_stage(arch: Arch, stage: Stage, stride: int, conventions: Conventions) -> nn.Module:
        """Sandglass blocks; the first has the stage's stride in its last depthwise convolution."""
        return unit_stage(arch, stage, stride, Sandglass)

    @staticmethod
    def make_head(arch: Arch, num_classes: int, conventions: Conventions) -> nn.Module:
        """Global average pool, dropout, fully connected layer."""
        return LinearHead(arch.stages[-1].channels, num_classes, dropout=DROPOUT)
