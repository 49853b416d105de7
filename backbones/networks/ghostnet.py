"""GhostNet (Han et al. 2020, arXiv:1911.11907).

A pointwise convolution computes only half of the output channels; a 3x3 depthwise convolution of these
gives the other half, the "ghosts".

Not stated in the paper, and chosen as in the authors' code (huawei-noah/Efficient-AI-Backbones):

* Widths, the expanded ones too, are rounded to multiples of 4 (``make_divisible``). The hidden layer has
  1280 channels at every width, a bias and no BN.
* Only downsampling bottlenecks have a depthwise convolution between the two Ghost modules. If a bottleneck
  changes the size or the width, its shortcut is a depthwise convolution (of the unit's kernel size) and a
  pointwise one, each with BN, without ReLU.
* Squeeze-and-excitation: a quarter of the expanded width, rounded likewise; ReLU, then hard sigmoid.
* Dropout of 0.2 before the classifier.

Deviations: none known.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from backbones.base import CompactBackbone, keeps_size
from backbones.layers import ConvBN, ConvHead, SqueezeExcite, make_divisible
from backbones.spec import Arch, Conventions, Stage, UnitStage, stages_of

DIVISOR = 4
STEM_CHANNELS, HEAD_CHANNELS, HIDDEN_CHANNELS = 16, 960, 1280
DROPOUT = 0.2


class GhostModule(nn.Module):
    """1x1 conv to half the channels, 3x3 dwconv of those, both concatenated (Fig. 2b, s = 2, d = 3).

    (N, C, H, W) -> (N, C_out, H, W). Each convolution has BN and, with ``act``, ReLU.
    """

    def __init__(self, in_channels: int, out_channels: int, *, act: bool):
        super().__init__()
        half = out_channels // 2
        self.primary = ConvBN(in_channels, half, act=act)
        self.cheap = ConvBN(half, half, 3, groups=half, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """Intrinsic maps, then their ghosts."""
        intrinsic = self.primary(x)
        return torch.cat([intrinsic, self.cheap(intrinsic)], 1)


class Unit(NamedTuple):
    """Row of one Ghost bottleneck.

    Attributes:
        kernel_size: Of the depthwise convolutions outside the Ghost modules.
        expanded: Channels between the Ghost modules ("#exp").
        channels: Output channels ("#out").
        se: Squeeze-and-excitation between the Ghost modules.
    """

    kernel_size: int
    expanded: int
    channels: int
    se: bool


class GhostBottleneck(nn.Module):
    """Ghost module, [dwconv], [SE], Ghost module without ReLU, plus a shortcut (Fig. 3).

    (N, C, H, W) -> (N, C_out, H/s, W/s). The dwconv, which has the stride, is there if ``downsample``
    says so, with stride 1 too: so a stage keeps its weights when all its strides are 1.
    """

    def __init__(self, in_channels: int, unit: Unit, *, stride: int, downsample: bool):
        super().__init__()
        width = unit.expanded

        def depthwise(channels: int) -> ConvBN:
            return ConvBN(channels, channels, unit.kernel_size, stride=stride, groups=channels, act=False)

        self.expand = GhostModule(in_channels, width, act=True)
        self.depthwise = depthwise(width) if downsample else nn.Identity()
        self.se = (
            SqueezeExcite(width, make_divisible(width / 4, DIVISOR), gate='hsigmoid')
            if unit.se
            else nn.Identity()
        )
        self.project = GhostModule(width, unit.channels, act=False)
        self.shortcut = (
            nn.Sequential(depthwise(in_channels), ConvBN(in_channels, unit.channels, act=False))
            if downsample or in_channels != unit.channels
            else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        """Residual and shortcut."""
        residual = self.project(self.se(self.depthwise(self.expand(x))))
        return residual.add_(self.shortcut(x))


@dataclass(frozen=True, kw_only=True)
class GhostNetArch(Arch):
    """A GhostNet's row.

    Attributes:
        head_channels: Of the last convolution, before the pooling.
    """

    head_channels: int


NO, SE = False, True

# Table 1, its column Stride written as the output stride.
#    stride, kernel size, #exp, #out, SE
TABLE_1 = (
    (2, 3, 16, 16, NO),
    (4, 3, 48, 24, NO),
    (4, 3, 72, 24, NO),
    (8, 5, 72, 40, SE),
    (8, 5, 120, 40, SE),
    (16, 3, 240, 80, NO),
    (16, 3, 200, 80, NO),
    (16, 3, 184, 80, NO),
    (16, 3, 184, 80, NO),
    (16, 3, 480, 112, SE),
    (16, 3, 672, 112, SE),
    (32, 5, 672, 160, SE),
    (32, 5, 960, 160, NO),
    (32, 5, 960, 160, SE),
    (32, 5, 960, 160, NO),
    (32, 5, 960, 160, SE),
)


def _ghostnet(
    table: str, alpha: float, *, mflops: float, params_m: float | None = None, note: str = ''
) -> GhostNetArch:
    """Return a row of Table 1, every width times alpha except that of the hidden layer.

    ``table`` is the table with the published cost.
    """

    def scaled(channels: int) -> int:
        return make_divisible(channels * alpha, DIVISOR)

    return GhostNetArch(
        paper=f'arXiv:1911.11907, {table}',
        stem_channels=scaled(STEM_CHANNELS),
        stem_stride=2,
        stages=stages_of(
            (stride, Unit(kernel_size, scaled(exp), scaled(out), se))
            for stride, kernel_size, exp, out, se in TABLE_1
        ),
        head_channels=scaled(HEAD_CHANNELS),
        paper_mflops=mflops,
        paper_params_m=params_m,
        cost_note=note,
    )


_BACKBONE = 'printed as "backbone FLOPs": without the two layers after the pooling it is that'

ARCHS = {
    'ghostnet_1x': _ghostnet('Tables 1 and 7', 1, mflops=141, params_m=5.2),
    'ghostnet_1.1x': _ghostnet('Tables 1 and 8', 1.1, mflops=164, note=_BACKBONE),
    'ghostnet_1.3x': _ghostnet('Tables 1 and 7', 1.3, mflops=226, params_m=7.3),
}


@MODELS.register_module()
class GhostNet(CompactBackbone, archs=ARCHS):
    """GhostNet. For arguments and feature maps see ``CompactBackbone``."""

    @staticmethod
    def make_stem(arch: Arch, conventions: Conventions) -> nn.Module:
        """3x3 conv /2, BN, ReLU."""
        return ConvBN(3, arch.stem_channels, 3, stride=2)

    @staticmethod
    def make_stage(arch: Arch, stage: Stage, stride: int, conventions: Conventions) -> nn.Module:
        """Ghost bottlenecks; the first has the stage's stride in its depthwise convolutions."""
        assert isinstance(stage, UnitStage)
        channels = arch.channels_before(stage)
        units = []
        for i, unit in enumerate(stage.units):
            units.append(
                GhostBottleneck(
                    channels,
                    unit,
                    stride=1 if i else stride,
                    downsample=not keeps_size(arch, stage, i),
                )
            )
            channels = unit.channels
        return nn.Sequential(*units)

    @staticmethod
    def make_head(arch: Arch, num_classes: int, conventions: Conventions) -> nn.Module:
        """1x1 conv, BN, ReLU, global average pool, hidden layer, ReLU, dropout, fully connected layer."""
        assert isinstance(arch, GhostNetArch)
        return ConvHead(
            arch.stages[-1].channels,
            arch.head_channels,
            num_classes,
            hidden_channels=HIDDEN_CHANNELS,
            dropout=DROPOUT,
        )
