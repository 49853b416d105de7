"""ShuffleNetV2+ (megvii-model/ShuffleNet-Series at aa91feb) and SFR-ShuffleNetV2+ (arXiv:2104.04382).

The unit of ShuffleNetV2 with kernel sizes from architecture search, hard-swish and squeeze-and-excitation.
There is no paper, only the authors' code; their weights fit. ``sfr=True`` in a row adds sparse feature
reactivation as in ``shufflenetv2``, which also describes the order of the channels.

Not stated or contradictory, and chosen here:

* SFR's sparse factor in stage 16 of the small network is printed as 213 (Table 11); it must be half the
  width as in all other stages. Table 10 prints a factor for the downsampling unit of stage 32; the text
  says that downsampling units have no SFR.
* SFR's activation is that of its unit, as in CondenseNetV2's code.

Deviations: none known.

Squeeze-and-excitation normalizes a single value per image and channel, so training with batch statistics
needs at least two images on each device.
"""

from dataclasses import dataclass
from typing import NamedTuple

from mmdet.registry import MODELS
from torch import nn

from backbones.base import CompactBackbone
from backbones.layers import ConvBN
from backbones.networks.shufflenetv2 import RAW_BGR, Bottleneck, Separable, ShuffleV2Unit, plus_se
from backbones.spec import Arch, Conventions, Preprocessing, Stage

ACT = 'hswish'
STEM_CHANNELS, HEAD_CHANNELS = 16, 1280
DROPOUT = 0.2


class XceptionBranch(nn.Sequential):
    """Three separable convolutions: (N, C, H, W) -> (N, C_out, H/s, W/s)."""

    def __init__(
        self, in_channels: int, width: int, out_channels: int, *, kernel_size: int, stride: int, act: str
    ):
        super().__init__(
            Separable(in_channels, width, kernel_size=kernel_size, stride=stride, act=act),
            Separable(width, width, kernel_size=kernel_size, stride=1, act=act),
            Separable(width, out_channels, kernel_size=kernel_size, stride=1, act=act),
        )


class ShuffleV2PlusHead(nn.Sequential):
    """1x1 conv, BN, HS, global average pool, SE, hidden layer, HS, dropout, fully connected layer.

    (N, C, H, W) -> (N, num_classes).
    """

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.conv = ConvBN(channels, HEAD_CHANNELS, act=ACT)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.se = plus_se(HEAD_CHANNELS)
        self.flatten = nn.Flatten()
        self.hidden = nn.Linear(HEAD_CHANNELS, HEAD_CHANNELS, bias=False)
        self.act = nn.Hardswish(inplace=True)
        self.dropout = nn.Dropout(DROPOUT)
        self.fc = nn.Linear(HEAD_CHANNELS, num_classes, bias=False)


@dataclass(frozen=True, kw_only=True)
class ShuffleNetV2PlusArch(Arch):
    """A ShuffleNetV2+'s row.

    Attributes:
        sfr: Sparse feature reactivation in every unit that splits.
    """

    sfr: bool = False


class Row(NamedTuple):
    """What all sizes have in common in one stage.

    Attributes:
        units: Names from ``BRANCHES``, in order.
        act: A name from ``ACTIVATIONS``.
        se: Squeeze-and-excitation in every unit.
    """

    units: tuple[str, ...]
    act: str
    se: bool


BRANCHES = {
    '3x3': (Bottleneck, 3),
    '5x5': (Bottleneck, 5),
    '7x7': (Bottleneck, 7),
    'xcep': (XceptionBranch, 3),
}
NO, SE = False, True
RE, HS = 'relu', 'hswish'

# The authors' list (train.py), and Table 10 of arXiv:2104.04382, by the output stride.
STAGES = {
    4: Row(('3x3', '3x3', 'xcep', '5x5'), RE, NO),
    8: Row(('5x5', '5x5', '3x3', '3x3'), HS, NO),
    16: Row(('7x7', '3x3', '7x7', '5x5', '5x5', '3x3', '7x7', '3x3'), HS, SE),
    32: Row(('7x7', '5x5', 'xcep', '7x7'), HS, SE),
}


def _shufflenetv2plus(
    *widths: int, mflops: float, params_m: float, sfr: bool = False, note: str = ''
) -> ShuffleNetV2PlusArch:
    """Return the authors' list of units; channels at strides 4, 8, 16, 32."""
    return ShuffleNetV2PlusArch(
        paper='arXiv:2104.04382, Tables 5, 10, 11' if sfr else 'megvii-model/ShuffleNet-Series, README',
        stem_channels=STEM_CHANNELS,
        stem_stride=2,
        stages=tuple(
            Stage(stride, width, len(STAGES[stride].units))
            for stride, width in zip(STAGES, widths, strict=True)
        ),
        sfr=sfr,
        paper_mflops=mflops,
        paper_params_m=params_m,
        cost_note=note,
        preprocessing=Preprocessing() if sfr else RAW_BGR,
    )


_CUT = 'printed parameters are cut off, not rounded'
_SMALL = (36, 104, 208, 416)
_MEDIUM = (48, 128, 256, 512)
_LARGE = (68, 168, 336, 672)

#                                                          printed
ARCHS = {
    'shufflenetv2plus_small': _shufflenetv2plus(*_SMALL, mflops=156, params_m=5.1),
    'shufflenetv2plus_medium': _shufflenetv2plus(*_MEDIUM, mflops=222, params_m=5.6, note=_CUT),
    'shufflenetv2plus_large': _shufflenetv2plus(*_LARGE, mflops=360, params_m=6.7, note=_CUT),
    'sfr_shufflenetv2plus_small': _shufflenetv2plus(*_SMALL, mflops=161, params_m=5.2, sfr=True),
    'sfr_shufflenetv2plus_medium': _shufflenetv2plus(*_MEDIUM, mflops=229, params_m=5.7, sfr=True),
}


@MODELS.register_module()
class ShuffleNetV2Plus(CompactBackbone, archs=ARCHS):
    """ShuffleNetV2+, with or without SFR. For arguments and feature maps see ``CompactBackbone``."""

    takes_conventions = frozenset({'sparsity'})

    @staticmethod
    def make_stem(arch: Arch, conventions: Conventions) -> nn.Module:
        """3x3 conv /2, BN, hard swish; no pooling."""
        return ConvBN(3, arch.stem_channels, 3, stride=2, act=ACT)

    @staticmethod
    def make_stage(arch: Arch, stage: Stage, stride: int, conventions: Conventions) -> nn.Module:
        """Return a downsampling unit and units that split."""
        assert isinstance(arch, ShuffleNetV2PlusArch)
        row = STAGES[stage.stride]
        units = []
        for i, name in enumerate(row.units):
            branch, kernel_size = BRANCHES[name]
            units.append(
                ShuffleV2Unit(
                    stage.channels if i else arch.channels_before(stage),
                    stage.channels,
                    stride=1 if i else stride,
                    kernel_size=kernel_size,
                    act=row.act,
                    branch=branch,
                    se=row.se,
                    sfr=conventions.sparsity if arch.sfr else None,
                )
            )
        return nn.Sequential(*units)

    @staticmethod
    def make_head(arch: Arch, num_classes: int, conventions: Conventions) -> nn.Module:
        """1x1 conv, BN, HS, global average pool, SE, hidden layer, HS, dropout, fully connected layer."""
        return ShuffleV2PlusHead(arch.stages[-1].channels, num_classes)
