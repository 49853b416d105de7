"""ShuffleNet v1 (Zhang et al. 2017, arXiv:1707.01083).

A bottleneck with grouped pointwise convolutions; a channel shuffle between them makes every output depend
on every input.

Not stated in the paper, and chosen here ("cost": it is the one that gives the printed multiply-adds):

* The bottleneck is a quarter of the unit's *output* width, also in a downsampling unit.
* Only the very first pointwise convolution, in stage 2's downsampling unit, is ungrouped (cost).
* A downsampling unit concatenates [residual, pooled identity], then ReLU, and the classifier has a
  bias, as in the MENet authors' re-implementation (clavichord93/MENet at 7f2f1c2). The ShuffleNet
  authors' own later code (megvii-model/ShuffleNet-Series at aa91feb) has [pooled identity, residual],
  shuffles after the depthwise convolution by the inverse permutation, and has no bias: the cost is the
  same, but weights of one do not fit the other.
* Stem: 24 channels at 1x and 1.5x, 48 at 2x, 12 at 0.5x and 0.25x (cost; 6 at 0.25x would cost 11 M,
  not 13 M). g=8 needs stage 2's width less the stem's to be a multiple of 8: 16 at 0.5x, 8 at 0.25x.
* Where a quarter of the width is no multiple of g, the bottleneck is rounded up to one: 0.5x g2 (25 to
  26 in stage 2), 0.5x g4 (34 to 36), 0.25x g2 (12.5 to 14, 25 to 26), 0.25x g4 (17 to 20, 34 to 36).
  With this, every row of Table 2 can be built.
* SE (Table 5): reduction 16 on the unit's whole output width, before the identity is added; in a
  downsampling unit on the whole concatenation (cost).

Deviations: none known.
"""

from dataclasses import dataclass

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from backbones.base import CompactBackbone
from backbones.layers import ConvBN, SqueezeExcite, channel_shuffle, conv_pool_stem
from backbones.spec import Arch, Conventions, Stage

SE_REDUCTION = 16


class ShuffleUnit(nn.Module):
    """1x1 gconv, shuffle, 3x3 dwconv, 1x1 gconv (Fig. 2 b and c).

    (N, C, H, W) -> (N, C_out, H/s, W/s). With C_out = C the identity is added, else its 3x3 average
    pool is concatenated, so that stride 1 keeps both weights and widths of a downsampling unit.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        groups: int,
        first_groups: int,
        shuffle: bool,
        se: bool,
    ):
        super().__init__()
        self.groups = groups if shuffle else 1
        width = -(-out_channels // (4 * groups)) * groups  # a quarter, up to a multiple of groups
        self.pool = (
            None
            if in_channels == out_channels
            else nn.AvgPool2d(3, stride=stride, padding=1)  # zeros of the padding count
        )
        residual_channels = out_channels if self.pool is None else out_channels - in_channels
        self.reduce = ConvBN(in_channels, width, groups=first_groups)
        self.depthwise = ConvBN(width, width, 3, stride=stride, groups=width, act=False)
        self.expand = ConvBN(width, residual_channels, groups=groups, act=False)
        self.se = SqueezeExcite(out_channels, out_channels // SE_REDUCTION) if se else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Residual and identity branch."""
        residual = self.reduce(x)
        if self.groups > 1:
            residual = channel_shuffle(residual, self.groups)
        residual = self.expand(self.depthwise(residual))
        if self.pool is None:
            return self.relu(self.se(residual).add_(x))
        return self.relu(self.se(torch.cat([residual, self.pool(x)], 1)))


@dataclass(frozen=True, kw_only=True)
class ShuffleNetArch(Arch):
    """A ShuffleNet's row.

    Attributes:
        groups: Of the pointwise convolutions.
        shuffle: False is Table 3's ablation.
        se: Squeeze-and-excitation in every unit (Table 5).
    """

    groups: int
    shuffle: bool = True
    se: bool = False


def _shufflenet(
    table: str,
    width: int,
    *,
    groups: int,
    stem: int = 24,
    depths: tuple[int, int, int] = (4, 8, 4),
    mflops: float | None = None,
    note: str = '',
    shuffle: bool = True,
    se: bool = False,
) -> ShuffleNetArch:
    """Table 1's skeleton: units of w, 2w, 4w channels at strides 8, 16, 32."""
    return ShuffleNetArch(
        paper=f'arXiv:1707.01083, {table}',
        stem_channels=stem,
        stem_stride=4,
        stages=tuple(map(Stage, (8, 16, 32), (width, 2 * width, 4 * width), depths)),
        groups=groups,
        shuffle=shuffle,
        se=se,
        paper_mflops=mflops,
        cost_note=note,
    )


_CUT = 'printed MFLOPs are cut off, not rounded'
_LATER = 'the MENet paper prints the measured figure, {}, for the same network'
_ROUNDED = 'printed in whole millions'
_BUDGET = "the printed figure is Table 2's budget for all g, not this network's cost"
_UP = _BUDGET + '; bottlenecks are rounded up to multiples of g'
_STEM = _BUDGET + '; the stem has {} channels to suit g=8'
_SHALLOW = (
    'half the units at 0.5x widths (120) cost 21.6 M: "0.5x" names the budget. 40 M needs wider '
    'stages, whose width is not printed; 0.75x (180) is the nearest regular one'
)
_NO_COST = 'Table 3 prints no cost; it is that of the form with shuffle'

#                              table     w    g         stem     printed
ARCHS = {
    'shufflenet_1x_g1': _shufflenet('Table 1', 144, groups=1, mflops=143),
    'shufflenet_1x_g2': _shufflenet('Table 1', 200, groups=2, mflops=140, note=_CUT),
    'shufflenet_1x_g3': _shufflenet('Table 1', 240, groups=3, mflops=137),
    'shufflenet_1x_g4': _shufflenet('Table 1', 272, groups=4, mflops=133, note=_LATER.format(134)),
    'shufflenet_1x_g8': _shufflenet('Table 1', 384, groups=8, mflops=137, note=_LATER.format(138)),
    'shufflenet_0.5x_g1': _shufflenet('Table 2', 72, groups=1, stem=12, mflops=38, note=_BUDGET),
    'shufflenet_0.5x_g2': _shufflenet('Table 2', 100, groups=2, stem=12, mflops=38, note=_UP),
    'shufflenet_0.5x_g3': _shufflenet('Table 2', 120, groups=3, stem=12, mflops=38, note=_ROUNDED),
    'shufflenet_0.5x_g4': _shufflenet('Table 2', 136, groups=4, stem=12, mflops=38, note=_UP),
    'shufflenet_0.5x_g8': _shufflenet('Table 2', 192, groups=8, stem=16, mflops=38, note=_STEM.format(16)),
    'shufflenet_0.25x_g1': _shufflenet('Table 2', 36, groups=1, stem=12, mflops=13, note=_ROUNDED),
    'shufflenet_0.25x_g2': _shufflenet('Table 2', 50, groups=2, stem=12, mflops=13, note=_UP),
    'shufflenet_0.25x_g3': _shufflenet('Table 2', 60, groups=3, stem=12, mflops=13, note=_ROUNDED),
    'shufflenet_0.25x_g4': _shufflenet('Table 2', 68, groups=4, stem=12, mflops=13, note=_UP),
    'shufflenet_0.25x_g8': _shufflenet('Table 2', 96, groups=8, stem=8, mflops=13, note=_STEM.format(8)),
    'shufflenet_1.5x_g3': _shufflenet('Table 5', 360, groups=3, mflops=292),
    'shufflenet_2x_g3': _shufflenet('Table 5', 480, groups=3, stem=48, mflops=524),
    'shufflenet_2x_g3_se': _shufflenet('Table 5', 480, groups=3, stem=48, mflops=527, se=True),
    'shufflenet_0.5x_g3_shallow': _shufflenet(
        'Table 5', 180, groups=3, stem=12, depths=(2, 4, 2), mflops=40, note=_SHALLOW
    ),
    'shufflenet_1x_g3_noshuffle': _shufflenet('Table 3', 240, groups=3, shuffle=False, note=_NO_COST),
    'shufflenet_1x_g8_noshuffle': _shufflenet('Table 3', 384, groups=8, shuffle=False, note=_NO_COST),
    'shufflenet_0.5x_g3_noshuffle': _shufflenet(
        'Table 3', 120, groups=3, stem=12, shuffle=False, note=_NO_COST
    ),
    'shufflenet_0.5x_g8_noshuffle': _shufflenet(
        'Table 3', 192, groups=8, stem=16, shuffle=False, note=_NO_COST
    ),
    'shufflenet_0.25x_g3_noshuffle': _shufflenet(
        'Table 3', 60, groups=3, stem=12, shuffle=False, note=_NO_COST
    ),
    'shufflenet_0.25x_g8_noshuffle': _shufflenet(
        'Table 3', 96, groups=8, stem=8, shuffle=False, note=_NO_COST
    ),
}


@MODELS.register_module()
class ShuffleNet(CompactBackbone, archs=ARCHS):
    """ShuffleNet v1. For arguments and feature maps see ``CompactBackbone``."""

    @staticmethod
    def make_stem(arch: Arch, conventions: Conventions) -> nn.Module:
        """3x3 conv /2, BN, ReLU, 3x3 max pool /2 (Table 1)."""
        return conv_pool_stem(arch.stem_channels)

    @staticmethod
    def make_stage(arch: Arch, stage: Stage, stride: int, conventions: Conventions) -> nn.Module:
        """Return a downsampling unit and standard ones."""
        assert isinstance(arch, ShuffleNetArch)
        units = []
        for i in range(stage.depth):
            units.append(
                ShuffleUnit(
                    stage.channels if i else arch.channels_before(stage),
                    stage.channels,
                    stride=1 if i else stride,
                    groups=arch.groups,
                    first_groups=1 if i == 0 and stage == arch.stages[0] else arch.groups,
                    shuffle=arch.shuffle,
                    se=arch.se,
                )
            )
        return nn.Sequential(*units)
