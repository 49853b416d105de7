"""Other papers' units in ShuffleNet's skeleton: VGG-15, ResNet-15, ResNeXt-15, Xception-15.

ShuffleNet's paper (Zhang et al. 2017, arXiv:1707.01083, section 4.2 and Table 4) replaces its units by
those of larger networks and adapts the widths until all cost the same. MENet's paper (Qin et al.
2018, arXiv:1803.09127, Table II) compares with the same networks and names them; "15" is its number of
units, although the skeleton has 4 + 8 + 4 = 16. VGG-15 is our name for the paper's "VGG-like".

No code was published. The paper states the units, their bottleneck ratios, cardinality 16, the three
nominal costs, and the widths of stage 4 at 38 M (50, 192, 192, 288).

Not stated in the paper, and chosen here ("cost": it is the one that comes nearest to the nominal cost):

* Stem: ShuffleNet's, 12 channels at 13 M and 38 M, 24 at 140 M. Widths double from stage to stage (VGG
  at 38 M: 12, 25, 50) and from budget to budget, as ShuffleNet's 0.25x, 0.5x and 1x do; each network is
  then within 3 % of its nominal cost (resnext15_38m: 2.4 %, resnet15_140m: 2.9 %).
* Downsampling: ResNet's own projection, a 1x1 convolution on the shortcut (cost: 38.13 M; with
  ShuffleNet's concatenation 35.30 M). ResNeXt is concatenated as ShuffleNet is (cost: 38.92 M; with
  projection 42.30 M). The 3x3 convolution has the stride, and the bottleneck is a part of the unit's
  *output* width, as in ShuffleNet.
* Stage 2 of ResNeXt at 38 M has cardinality 8, since its bottleneck has 24 channels, no multiple of 16.
* Xception-like is ShuffleNet with g=1, as the paper says: the weights of ``shufflenet_1x_g1``,
  ``shufflenet_0.5x_g1`` and ``shufflenet_0.25x_g1`` fit.

Deviations: none known.
"""

from dataclasses import dataclass

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from backbones.base import CompactBackbone
from backbones.layers import ConvBN, conv_pool_stem
from backbones.networks.shufflenet import ShuffleUnit
from backbones.spec import Arch, Conventions, Stage


class VGGUnit(nn.Sequential):
    """Two 3x3 convolutions, each with BN, ReLU (Simonyan and Zisserman 2014, arXiv:1409.1556).

    (N, C, H, W) -> (N, C_out, H/s, W/s).
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int):
        super().__init__()
        self.conv1 = ConvBN(in_channels, out_channels, 3, stride=stride)
        self.conv2 = ConvBN(out_channels, out_channels, 3)


class Bottleneck(nn.Module):
    """1x1 conv, 3x3 gconv, 1x1 conv, and a shortcut (arXiv:1512.03385, Fig. 5; arXiv:1611.05431, Fig. 3c).

    (N, C, H, W) -> (N, C_out, H/s, W/s). With C_out = C the identity is added, else its projection; or
    its 3x3 average pool is concatenated. So stride 1 keeps both weights and widths of a downsampling
    unit.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, ratio: int, groups: int, concat: bool
    ):
        super().__init__()
        width = out_channels // ratio
        self.concat = concat and in_channels != out_channels
        self.reduce = ConvBN(in_channels, width)
        self.conv = ConvBN(width, width, 3, stride=stride, groups=groups)
        self.expand = ConvBN(width, out_channels - in_channels if self.concat else out_channels, act=False)
        self.shortcut: nn.Module
        if self.concat:
            self.shortcut = nn.AvgPool2d(3, stride=stride, padding=1)  # zeros of the padding count
        elif in_channels != out_channels:
            self.shortcut = ConvBN(in_channels, out_channels, stride=stride, act=False)
        else:
            self.shortcut = nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Residual and shortcut."""
        residual, shortcut = self.expand(self.conv(self.reduce(x))), self.shortcut(x)
        return self.relu(torch.cat([residual, shortcut], 1) if self.concat else residual.add_(shortcut))


def make_unit(unit: str, in_channels: int, out_channels: int, *, stride: int, groups: int) -> nn.Module:
    """(N, C, H, W) -> (N, C_out, H/s, W/s)."""
    if unit == 'vgg':
        return VGGUnit(in_channels, out_channels, stride=stride)
    if unit == 'resnet':
        return Bottleneck(in_channels, out_channels, stride=stride, ratio=4, groups=1, concat=False)
    if unit == 'resnext':
        return Bottleneck(in_channels, out_channels, stride=stride, ratio=2, groups=groups, concat=True)
    return ShuffleUnit(
        in_channels, out_channels, stride=stride, groups=1, first_groups=1, shuffle=False, se=False
    )


@dataclass(frozen=True, kw_only=True)
class SkeletonArch(Arch):
    """A skeleton network's row.

    Attributes:
        unit: 'vgg', 'resnet', 'resnext' or 'xception'.
        cardinality: Groups of ResNeXt's 3x3 convolutions in each stage.
    """

    unit: str
    cardinality: tuple[int, int, int] = (1, 1, 1)


def _skeleton(
    unit: str,
    stem: int,
    widths: tuple[int, int, int],
    cardinality: tuple[int, int, int] = (1, 1, 1),
    *,
    mflops: float,
    note: str = '',
) -> SkeletonArch:
    """ShuffleNet's Table 1: 4, 8, 4 units at strides 8, 16, 32."""
    return SkeletonArch(
        paper='arXiv:1707.01083, Table 4',
        stem_channels=stem,
        stem_stride=4,
        stages=tuple(map(Stage, (8, 16, 32), widths, (4, 8, 4))),
        unit=unit,
        cardinality=cardinality,
        paper_mflops=mflops,
        cost_note=note,
    )


_WIDTH4 = "the printed figure is the budget; stage 4's width is printed, the rest inferred"
_HALF = 'the printed figure is the budget; no width is printed, these are half those of 38 M'
_TWICE = 'the printed figure is the budget; no width is printed, these are twice those of 38 M'
_G1 = "the printed figure is the budget; Table 1 prints 143 for it, ShuffleNet's g=1"

# fmt: off
#                                 unit      stem widths of stages 2 to 4
ARCHS = {
    'vgg15_38m':       _skeleton('vgg',      12, (12, 25, 50),                   mflops=38, note=_WIDTH4),
    'vgg15_140m':      _skeleton('vgg',      24, (24, 50, 100),                  mflops=140, note=_TWICE),
    'resnet15_13m':    _skeleton('resnet',   12, (24, 48, 96),                   mflops=13, note=_HALF),
    'resnet15_38m':    _skeleton('resnet',   12, (48, 96, 192),                  mflops=38),
    'resnet15_140m':   _skeleton('resnet',   24, (96, 192, 384),                 mflops=140, note=_TWICE),
    'resnext15_38m':   _skeleton('resnext',  12, (48, 96, 192), (8, 16, 16),     mflops=38, note=_WIDTH4),
    'resnext15_140m':  _skeleton('resnext',  24, (96, 192, 384), (16, 16, 16),   mflops=140, note=_TWICE),
    'xception15_13m':  _skeleton('xception', 12, (36, 72, 144),                  mflops=13, note=_HALF),
    'xception15_38m':  _skeleton('xception', 12, (72, 144, 288),                 mflops=38, note=_WIDTH4),
    'xception15_140m': _skeleton('xception', 24, (144, 288, 576),                mflops=140, note=_G1),
    # At 13 M there is no vgg15 (Table 4 has none) and no resnext15: with half of 38 M's widths, cardinality
    # 16 could be built in stage 4 only, as the bottlenecks of stages 2 and 3 have 12 and 24 channels.
}
# fmt: on


@MODELS.register_module()
class SkeletonNet(CompactBackbone, archs=ARCHS):
    """ShuffleNet's skeleton with another unit. For arguments and feature maps see ``CompactBackbone``."""

    @staticmethod
    def make_stem(arch: Arch, conventions: Conventions) -> nn.Module:
        """3x3 conv /2, BN, ReLU, 3x3 max pool /2 (Table 1)."""
        return conv_pool_stem(arch.stem_channels)

    @staticmethod
    def make_stage(arch: Arch, stage: Stage, stride: int, conventions: Conventions) -> nn.Module:
        """Return a downsampling unit and standard ones."""
        assert isinstance(arch, SkeletonArch)
        groups = arch.cardinality[arch.stages.index(stage)]
        units = []
        for i in range(stage.depth):
            units.append(
                make_unit(
                    arch.unit,
                    stage.channels if i else arch.channels_before(stage),
                    stage.channels,
                    stride=1 if i else stride,
                    groups=groups,
                )
            )
        return nn.Sequential(*units)
