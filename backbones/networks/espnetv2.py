"""ESPNetV2 (Mehta et al. 2019, arXiv:1811.11431).

A unit applies several 3x3 depthwise convolutions of increasing dilation to a reduced map, and adds the
output of each to the next before they are merged. Downsampling units also read the image.

Not stated in the paper, and chosen as in the authors' code (sacmehta/ESPNetv2):

* The image is pooled and added at strides 4, 8 and 16, not at 32. The authors' code holds, but never uses,
  parameters of that branch at stride 32 and a PReLU in each downsampling unit; they are not included here
  (6,202 parameters of s = 2.0).
* The dilations are those for the receptive-field limits 13, 11, 9, 7, 5 at strides 2 to 32 of the map that
  a unit reads; a dilation beyond the limit becomes 1, and the branches are sorted.
* The layers after the last unit, a depthwise and a grouped pointwise convolution, serve only the classifier
  and belong to the head, as does the dropout of 0.2.

Deviations: none known.

With stride 1, on a RoI, a downsampling unit keeps its form: it pools at stride 1 and adds no identity.
"""

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from backbones.base import CompactBackbone, first
from backbones.layers import ConvBN
from backbones.spec import Arch, Conventions, Stage

BRANCHES = 4
MAX_DILATION = {2: 4, 4: 4, 8: 4, 16: 3, 32: 2}  # by the stride of the input of a unit
LAST_REINFORCED_STRIDE = 16
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
DROPOUT = 0.2


class ConvBNPReLU(ConvBN):
    """Convolution, BN, PReLU with a slope a channel: (N, C, H, W) -> (N, C_out, H/s, W/s)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, *, stride: int = 1, groups: int = 1
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride=stride, groups=groups, act=False)
        self.act = nn.PReLU(out_channels)


def dilations(limit: int) -> list[int]:
    """Return the dilation of each branch, ascending; a branch beyond the limit has dilation 1."""
    return sorted(i if i <= limit else 1 for i in range(1, BRANCHES + 1))


class EESP(nn.Module):
    """1x1 gconv, dilated 3x3 dwconvs with hierarchical fusion, 1x1 gconv (Fig. 1c), without the identity.

    (N, C, H, W) -> (N, C_out, H/s, W/s).
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, max_dilation: int):
        super().__init__()
        width = out_channels // BRANCHES
        self.reduce = ConvBNPReLU(in_channels, width, groups=BRANCHES)
        self.branches = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride=stride, padding=rate, dilation=rate, groups=width, bias=False)
            for rate in dilations(max_dilation)
        )
        self.bn = nn.BatchNorm2d(out_channels)
        self.act = nn.PReLU(out_channels)
        self.merge = ConvBN(out_channels, out_channels, groups=BRANCHES, act=False)

    def forward(self, x: Tensor) -> Tensor:
        """Reduce, split, transform, merge."""
        x = self.reduce(x)
        maps = [self.branches[0](x)]
        for branch in self.branches[1:]:
            maps.append(branch(x).add_(maps[-1]))
        return self.merge(self.act(self.bn(torch.cat(maps, 1))))


class EESPUnit(nn.Module):
    """EESP plus identity, PReLU (Fig. 1c): (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, *, max_dilation: int):
        super().__init__()
        self.eesp = EESP(channels, channels, stride=1, max_dilation=max_dilation)
        self.act = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Residual and identity."""
        return self.act(self.eesp(x).add_(x))


class StridedEESPUnit(nn.Module):
    """Average pool and strided EESP concatenated, plus the convolved image, PReLU (Fig. 2).

    (N, C, H, W), image (N, 3, H/s, W/s) -> (N, C_out, H/s, W/s); without ``reinforce`` no image is read.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int, max_dilation: int, reinforce: bool
    ):
        super().__init__()
        self.pool = nn.AvgPool2d(3, stride=stride, padding=1)  # zeros of the padding count
        self.eesp = EESP(in_channels, out_channels - in_channels, stride=stride, max_dilation=max_dilation)
        self.reinforce = (
            nn.Sequential(ConvBNPReLU(3, 3, 3), ConvBN(3, out_channels, act=False)) if reinforce else None
        )
        self.act = nn.PReLU(out_channels)

    def forward(self, x: Tensor, image: Tensor | None) -> Tensor:
        """Pooled map and residual, then the image's share."""
        x = torch.cat([self.pool(x), self.eesp(x)], 1)
        if self.reinforce is not None:
            x.add_(self.reinforce(image))
        return self.act(x)


class ESPStem(nn.Module):
    """3x3 conv /2, BN, PReLU; the image is pooled and passed on.

    (N, 3, H, W) -> (N, C, H/2, W/2), (N, 3, H/2, W/2).

    (N, 3, H, W) -> (N, C, H/2, W/2), (N, 3, H/2, W/2).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv = ConvBNPReLU(3, channels, 3, stride=2)
        self.pool = nn.AvgPool2d(3, stride=2, padding=1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Map and image."""
        return self.conv(image), self.pool(image)


class ESPStage(nn.Sequential):
    """A strided unit and others: (map, image) -> (map, image), both at the stride of the stage.

    In the last stage the strided unit uses no image: (map, image) or map -> map.

    Where the strided unit reads no image, in the last stage: (map, image) or map -> map.
    """

    def forward(self, carry: Tensor | tuple[Tensor, Tensor]) -> Tensor | tuple[Tensor, Tensor]:
        """Run the units on the map, the pool on the image.

        Raises:
            ValueError: The strided unit reads the image, but none came with the map.
        """
        strided, *units = self
        assert isinstance(strided, StridedEESPUnit)
        image = None
        if strided.reinforce is not None:
            if isinstance(carry, Tensor):
                raise ValueError(
                    'this stage of ESPNetV2 reads the image beside the map; only the one after '
                    f'stride {LAST_REINFORCED_STRIDE} can follow a bare map'
                )
            image = strided.pool(carry[1])
        x = strided(first(carry), image)
        for unit in units:
            x = unit(x)
        return x if image is None else (x, image)


class ESPHead(nn.Sequential):
    """3x3 dwconv, BN, PReLU, 1x1 gconv, BN, PReLU, global average pool, dropout, fully connected layer.

    (N, C, H, W) -> (N, num_classes).
    """

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__()
        self.depthwise = ConvBNPReLU(in_channels, in_channels, 3, groups=in_channels)
        self.conv = ConvBNPReLU(in_channels, HEAD_CHANNELS, groups=BRANCHES)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(DROPOUT)
        self.fc = nn.Linear(HEAD_CHANNELS, num_classes)


def _espnetv2(table: str, width: int, *, mflops: float, params_m: float) -> Arch:
    """Table 1: units of w, 2w, 4w, 8w channels at strides 4, 8, 16, 32."""
    return Arch(
        paper=f'arXiv:1811.11431, {table}',
        stem_channels=STEM_CHANNELS,
        stem_stride=2,
        stages=(
            Stage(4, width, 1),
            Stage(8, 2 * width, 4),
            Stage(16, 4 * width, 8),
            Stage(32, 8 * width, 4),
        ),
        paper_mflops=mflops,
        paper_params_m=params_m,
    )


ARCHS = {
    'espnetv2_2x': _espnetv2('Table 1, s = 2.0', 128, mflops=284, params_m=3.5),
}


@MODELS.register_module()
class ESPNetV2(CompactBackbone, archs=ARCHS):
    """ESPNetV2. For arguments and feature maps see ``CompactBackbone``."""

    @staticmethod
    def make_stem(arch: Arch, conventions: Conventions) -> nn.Module:
        """3x3 conv /2, BN, PReLU; hands the image on."""
        return ESPStem(arch.stem_channels)

    @staticmethod
    def make_stage(arch: Arch, stage: Stage, stride: int, conventions: Conventions) -> nn.Module:
        """Return a strided EESP unit and plain ones."""
        strided = StridedEESPUnit(
            arch.channels_before(stage),
            stage.channels,
            stride=stride,
            max_dilation=MAX_DILATION[arch.stride_before(stage)],
            reinforce=stage.stride <= LAST_REINFORCED_STRIDE,
        )
        units = []
        for _ in range(stage.depth - 1):
            units.append(EESPUnit(stage.channels, max_dilation=MAX_DILATION[stage.stride]))
        return ESPStage(strided, *units)

    @staticmethod
    def make_head(arch: Arch, num_classes: int, conventions: Conventions) -> nn.Module:
        """3x3 dwconv, 1x1 gconv, global average pool, dropout, fully connected layer."""
        return ESPHead(arch.stages[-1].channels, num_classes)
