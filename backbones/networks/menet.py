"""MENet: Merging-and-Evolution networks (Qin et al. 2018, arXiv:1803.09127).

ShuffleNet's bottleneck loses inter-group information at each group convolution. An ME module adds a
narrow fusion branch: *merging* squeezes all channels into a few, *evolution* convolves those and turns
them into a gate for every channel of the bottleneck.

Not stated in the paper, and chosen as in the authors' code (clavichord93/MENet at 7f2f1c2):

* The fusion branch starts after the shuffle, and its product is taken after the depthwise convolution's
  BN.
* In a downsampling module the concatenation is [residual, identity].
* Only the very first pointwise convolution, in stage 2's downsampling module, is ungrouped.

Deviations: none known.
"""

from dataclasses import dataclass

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from backbones.base import CompactBackbone
from backbones.layers import ConvBN, channel_shuffle, conv_pool_stem
from backbones.spec import Arch, Conventions, Stage


class MEModule(nn.Module):
    """1x1 gconv, shuffle, 3x3 dwconv gated by the fusion branch, 1x1 gconv (Fig. 3).

    (N, C, H, W) -> (N, C_out, H/s, W/s). With C_out = C the identity is added, else its 3x3 average pool
    is concatenated, so that stride 1 keeps both weights and widths of a downsampling module.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        groups: int,
        first_groups: int,
        fusion_channels: int,
        combine: str,
    ):
        super().__init__()
        self.groups = groups
        self.combine = combine
        width = out_channels // 4
        self.pool = (
            None
            if in_channels == out_channels
            else nn.AvgPool2d(3, stride=stride, padding=1)  # zeros of the padding count
        )
        residual_channels = out_channels if self.pool is None else out_channels - in_channels
        self.reduce = ConvBN(in_channels, width, groups=first_groups)
        self.depthwise = ConvBN(width, width, 3, stride=stride, groups=width, act=False)
        self.expand = ConvBN(width, residual_channels, groups=groups, act=False)
        self.merge = ConvBN(width, fusion_channels)
        self.evolve = ConvBN(fusion_channels, fusion_channels, 3, stride=stride)
        self.match = ConvBN(fusion_channels, width, act=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Residual, fusion and identity branch, equations (4) to (7)."""
        reduced = channel_shuffle(self.reduce(x), self.groups)
        fused = self.match(self.evolve(self.merge(reduced)))
        residual = self.depthwise(reduced)
        if self.combine == 'product':
            residual = residual * fused.sigmoid_()  # in place: BN keeps its input, not its output
        else:
            residual = residual.add_(fused)
        residual = self.expand(residual)
        if self.pool is None:
            return self.relu(residual.add_(x))
        return self.relu(torch.cat([residual, self.pool(x)], 1))


@dataclass(frozen=True, kw_only=True)
class MENetArch(Arch):
    """A MENet's row.

    Attributes:
        groups: Of the pointwise convolutions.
        fusion: Channels of the fusion branch in each stage, alpha^(i-2) * k.
        combine: 'product', or 'add' (Table VII's ablation: a sum, and no sigmoid).
    """

    groups: int
    fusion: tuple[int, ...]
    combine: str = 'product'


def _menet(
    table: str,
    width: int,
    fusion: tuple[int, int, int],
    *,
    groups: int,
    stem: int = 24,
    mflops: float | None = None,
    combine: str = 'product',
    note: str = '',
) -> MENetArch:
    """Table I's skeleton: 4, 8, 4 modules of w, 2w, 4w channels at strides 8, 16, 32."""
    return MENetArch(
        paper=f'arXiv:1803.09127, {table}',
        stem_channels=stem,
        stem_stride=4,
        stages=(Stage(8, width, 4), Stage(16, 2 * width, 8), Stage(32, 4 * width, 4)),
        groups=groups,
        fusion=fusion,
        combine=combine,
        paper_mflops=mflops,
        cost_note=note or ('printed MFLOPs are cut off, not rounded' if mflops else ''),
    )


_WEIGHTS_ONLY = "published with the authors' weights, not in the paper: no printed cost"
_NO_COST = 'Table VII prints no cost; it is that of the product form'

# fmt: off
# w-MENet-k x alpha                        table     w   fusion channels
ARCHS = {
    'menet_108_8x1_g3':      _menet('Table II',  108, (8, 8, 8),    groups=3, stem=12, mflops=38),
    'menet_128_8x1_g4':      _menet('weights',   128, (8, 8, 8),    groups=4, stem=12, note=_WEIGHTS_ONLY),
    'menet_160_8x1_g8':      _menet('weights',   160, (8, 8, 8),    groups=8, stem=16, note=_WEIGHTS_ONLY),
    'menet_228_10x1_g3':     _menet('Table V',   228, (10, 10, 10), groups=3, mflops=140),
    'menet_228_12x1_g3':     _menet('Table I',   228, (12, 12, 12), groups=3, mflops=144),
    'menet_228_14x1_g3':     _menet('Table V',   228, (14, 14, 14), groups=3, mflops=148),
    'menet_228_16x1_g3':     _menet('Table V',   228, (16, 16, 16), groups=3, mflops=153),
    'menet_228_12x1.5_g3':   _menet('Table VI',  228, (12, 18, 27), groups=3, mflops=152),
    'menet_228_12x2_g3':     _menet('Table VI',  228, (12, 24, 48), groups=3, mflops=163),
    'menet_228_12x2.5_g3':   _menet('Table VI',  228, (12, 30, 75), groups=3, mflops=179),
    'menet_256_12x1_g4':     _menet('Table I',   256, (12, 12, 12), groups=4, mflops=140),
    'menet_352_12x1_g8':     _menet('Table I',   352, (12, 12, 12), groups=8, mflops=144),
    'menet_348_12x1_g3':     _menet('Table IV',  348, (12, 12, 12), groups=3, mflops=299),
    'menet_456_24x1_g3':     _menet('Table II',  456, (24, 24, 24), groups=3, stem=48, mflops=551),
    'menet_228_12x1_g3_add': _menet('Table VII', 228, (12, 12, 12), groups=3, combine='add', note=_NO_COST),
    'menet_256_12x1_g4_add': _menet('Table VII', 256, (12, 12, 12), groups=4, combine='add', note=_NO_COST),
}
# fmt: on


@MODELS.register_module()
class MENet(CompactBackbone, archs=ARCHS):
    """MENet. For arguments and feature maps see ``CompactBackbone``."""

    @staticmethod
    def make_stem(arch: Arch, conventions: Conventions) -> nn.Module:
        """3x3 conv /2, BN, ReLU, 3x3 max pool /2 (Table I, stage 1)."""
        return conv_pool_stem(arch.stem_channels)

    @staticmethod
    def make_stage(arch: Arch, stage: Stage, stride: int, conventions: Conventions) -> nn.Module:
        """Return a downsampling module and standard ones."""
        assert isinstance(arch, MENetArch)
        index = arch.stages.index(stage)
        modules = []
        for i in range(stage.depth):
            modules.append(
                MEModule(
                    stage.channels if i else arch.channels_before(stage),
                    stage.channels,
                    stride=1 if i else stride,
                    groups=arch.groups,
                    first_groups=1 if index == i == 0 else arch.groups,
                    fusion_channels=arch.fusion[index],
                    combine=arch.combine,
                )
            )
        return nn.Sequential(*modules)
