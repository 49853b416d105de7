"""IGCV3-D (Sun et al. 2018, arXiv:1806.00178).

The inverted residual of MobileNetV2, with both pointwise convolutions in two groups and a channel shuffle
between them. "D" (deeper) has about twice as many units.

Not stated in the paper, and chosen here:

* No activation follows the expanding convolution; a unit with expansion 1 has that convolution too
  (the authors' code, homles11/IGCV3 at 385b327, ``symbols/igcv3.py``).
* No shuffle follows the projecting convolution. That code has one, the inverse of the first, since a
  late correction; the network that the authors trained and published (``models/igcv3-symbol.json``) has
  none, and neither has pytorchcv's, which holds its weights.
* "0.7x" in the paper's comparison is not a width factor: with widths times 0.7 the network has 167 M
  multiply-adds and 2.5 M parameters, with widths times 0.8 it has 215 M and 2.8 M, which agrees with the
  printed 210 M and 2.8 M. It is built with 0.8.
* Widths are ``int(channels * alpha)``, rounded up to even (pytorchcv's rule; the authors' code
  multiplies by alpha twice at the start of a row). The last convolution keeps its 1280 channels; it is in
  the head.

Deviations: none known.
"""

from typing import NamedTuple

from mmdet.registry import MODELS
from torch import Tensor, nn

from backbones.base import CompactBackbone, unit_stage
from backbones.layers import ConvBN, ConvHead, channel_shuffle
from backbones.spec import Arch, Conventions, Stage, stages_of

ACT = 'relu6'
GROUPS = 2
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


class Unit(NamedTuple):
    """Row of one interleaved unit.

    Attributes:
        expansion: Of the depthwise convolution's channels ("t").
        channels: Output channels ("c").
    """

    expansion: int
    channels: int


class InterleavedUnit(nn.Module):
    """1x1 gconv, BN, shuffle, 3x3 dwconv, BN, ReLU6, 1x1 gconv, BN.

    (N, C, H, W) -> (N, C_out, H/s, W/s).
    """

    def __init__(self, in_channels: int, unit: Unit, *, stride: int, identity: bool):
        super().__init__()
        self.identity = identity
        width = unit.expansion * in_channels
        self.expand = ConvBN(in_channels, width, groups=GROUPS, act=False)
        self.depthwise = ConvBN(width, width, 3, stride=stride, groups=width, act=ACT)
        self.project = ConvBN(width, unit.channels, groups=GROUPS, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Residual and, where the unit keeps size and width, identity."""
        residual = self.project(self.depthwise(channel_shuffle(self.expand(x), GROUPS)))
        return residual.add_(x) if self.identity else residual


# MobileNetV2's table with more units n; the stride is the output's.
#    stride, t, c, n
TABLE = (
    (2, 1, 16, 1),
    (4, 6, 24, 4),
    (8, 6, 32, 6),
    (16, 6, 64, 8),
    (16, 6, 96, 6),
    (32, 6, 160, 6),
    (32, 6, 320, 1),
)


def _even(channels: float) -> int:
    """Return the channels rounded down, then up to a multiple of the groups."""
    return -(-int(channels) // GROUPS) * GROUPS


def _igcv3d(alpha: float, *, mflops: float, params_m: float, note: str = '') -> Arch:
    """Return the table, every width times alpha."""
    return Arch(
        paper='arXiv:1806.00178, the ImageNet comparison',
        stem_channels=_even(STEM_CHANNELS * alpha),
        stem_stride=2,
        stages=stages_of(
            (stride, Unit(t, _even(c * alpha))) for stride, t, c, n in TABLE for _ in range(n)
        ),
        paper_mflops=mflops,
        paper_params_m=params_m,
        cost_note=note,
    )


_SIZE = (
    '"0.7x" is a size: widths times 0.8 come nearest to both printed figures (times 0.7: 166.8 M, 2.5 M)'
)

ARCHS = {
    'igcv3d_0.7x': _igcv3d(0.8, mflops=210, params_m=2.8, note=_SIZE),
    'igcv3d_1x': _igcv3d(1, mflops=318, params_m=3.5, note='not explained: -1.6 %, at the same parameters'),
}


@MODELS.register_module()
class IGCV3(CompactBackbone, archs=ARCHS):
    """IGCV3-D. For arguments and feature maps see ``CompactBackbone``."""

    @staticmethod
    def make_stem(arch: Arch, conventions: Conventions) -> nn.Module:
        """3x3 conv /2, BN, ReLU6."""
        return ConvBN(3, arch.stem_channels, 3, stride=2, act=ACT)

    @staticmethod
    def make_stage(arch: Arch, stage: Stage, stride: int, conventions: Conventions) -> nn.Module:
        """Interleaved units; the first has the stage's stride in its depthwise convolution."""
        return unit_stage(arch, stage, stride, InterleavedUnit)

    @staticmethod
    def make_head(arch: Arch, num_classes: int, conventions: Conventions) -> nn.Module:
        """1x1 conv, BN, ReLU6, global average pool, fully connected layer."""
        return ConvHead(arch.stages[-1].channels, HEAD_CHANNELS, num_classes, act=ACT)
