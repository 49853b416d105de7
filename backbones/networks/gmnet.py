"""GM-Net: Grouped Merging Net (Chen and Li 2017, arXiv:1706.06792).

Units of grouped convolutions whose outputs are summed. In the middle of the network, a path of full
convolutions and a path of depthwise convolutions are parallel. No code was published.

``gmnet_*_cifar`` is the paper's network: 32x32 images, strides 1, 2, 4, 10 classes. MNIST's gray images
(28x28) are given as three equal channels, which the paper leaves open. ``gmnet_*`` is our
form for detection, at strides 4, 8, 16, 32: the stem has stride 2 and is followed by a max pool (without
both, the network would cost about 16 times as much), and the last adaption unit pools as section 3.2
defines; the paper's network pools globally there.

Not stated in the paper, and chosen here ("cost": the choice gives both printed sizes, 1.5 M and 0.7 M
parameters; it has 1,547,338 and 659,786 at 10 classes):

* The 1x1 convolutions are grouped (cost; ungrouped: 1.74 M and 0.92 M). Table 1 prints g=8 for the whole
  unit, and in section 3.1 a group "flows through three convolution units uninterruptedly". One sentence of
  section 3.3 contradicts this: "So we don't use grouped convolution on it."
* BU_s: one 1x1 convolution, then three depthwise ones, as in Table 1 (cost; a 1x1 before each: 1.68 M).
  This gives 27 layers, the paper prints 29. The baseline has the printed 23.
* Only the outputs of the three convolution units are summed, since the input of a basic unit has another
  width. BU_A: the second and third units read the sum of all outputs before them, and the result is the sum
  of all three outputs. BU_B: the units are in sequence, and the output of the first is added to that of the
  third.
* The two paths are summed; the adaption unit follows.
* Groups as in Table 1, which is "8+4" of Table 3. The units of the baseline are BU_A (Fig. 2).
* Dropout acts once on the output of BU_i and once on that of BU_e, before the adaption unit.

Ablations of section 4.2 (no cost is printed for any of them):

* Table 3, first half, on ``gmnet_a_cifar``. Block 1 is the row BU_i of Table 1 and block 3 the row BU_e,
  each with its adaption unit; the rest keeps its groups, BU_s too. "Both" is ``gmnet_a_cifar``.
* Table 3, second half, on the baseline: groups of the convolution units and of the adaption unit, in BU_i
  and in BU_m; BU_e keeps 8+4. "16+8" is 8 and 16 of BU_m's 128 bottleneck channels per group, as the text
  says. "8+4" is ``gmnet_baseline_cifar``.
* Figure 4, on the baseline. Without merging on the level of units, the outputs of the three convolution
  units are not summed: the last one is the result. Without merging on the level of operations, a
  convolution unit has no 1x1 convolution. (With the 1x1 convolutions of section 3.3, which are not grouped,
  it would be without their merging what the baseline is here.)
* Figure 5, ``gmnet_a_cifar_concat``: as in DenseNet, the k outputs of a convolution unit are concatenated
  with its input; k = 20, 40, 60 in BU_i, BU_f, BU_e; the 1x1 convolution halves the input (section 3.4); no
  group besides those of BU_s, which has as many channels as BU_f. Adaption units keep the number of
  channels. The 1.46 M parameters are "in a same level" as the 1.55 M of ``gmnet_a_cifar``; with paths that
  are concatenated too they would be 1.99 M.

Deviations: a stage begins with the adaption unit that applies its stride, so that the feature maps for FPN
are the outputs of the basic units: 128, 256, 384, 384 channels. With the generic split for Faster R-CNN C4
the backbone then contains all of BU_e, and the stage head is only the last adaption unit, a 1x1
convolution. ``StageHead(in_stride=8)`` is a stage head with BU_e, for a backbone of stride 8.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from backbones.base import CompactBackbone
from backbones.layers import ConvBN, LinearHead, conv_pool_stem
from backbones.spec import Arch, Conventions, Stage

STEM_CHANNELS = 64
DROPOUT = 0.2  # the paper keeps 0.8
MIDDLE = 1  # index of the stage between BU_i and BU_e


class BasicUnit(nn.Module):
    """Three convolution units, their outputs summed (Fig. 1): (N, C, H, W) -> (N, C_out, H, W).

    A convolution unit is a 1x1 convolution to half the width and a 3x3 convolution. With as many groups
    as channels (BU_s) it is one 1x1 convolution to the full width and three depthwise ones.

    Args:
        in_channels: C.
        out_channels: C_out.
        groups: Groups of every convolution.
        merging: 'dense' (BU_A), 'straight' (BU_B) or 'none' (in sequence, nothing is summed).
        pointwise: Whether there are 1x1 convolutions.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, groups: int, merging: str, pointwise: bool = True
    ):
        super().__init__()
        self.merging = merging
        depthwise = groups == out_channels
        width = out_channels if depthwise else out_channels // 2
        self.units = nn.ModuleList()
        for i in range(3):
            unit = nn.Sequential()
            if pointwise and (i == 0 or not depthwise):
                unit.pointwise = ConvBN(in_channels, width, groups=1 if depthwise else groups)
            unit.conv = ConvBN(width if pointwise else in_channels, out_channels, 3, groups=groups)
            self.units.append(unit)
            in_channels = out_channels

    def forward(self, x: Tensor) -> Tensor:
        """Sum the outputs as ``merging`` states."""
        unit1, unit2, unit3 = self.units
        y1 = unit1(x)
        y2 = unit2(y1)
        if self.merging == 'dense':
            merged = y1 + y2
            return merged + unit3(merged)
        last = unit3(y2)
        return y1 + last if self.merging == 'straight' else last


class ConcatUnit(nn.Module):
    """Three convolution units, each output concatenated with its input: (N, C, H, W) -> (N, C_out, H, W).

    Each unit adds a third of the new channels.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        growth = (out_channels - in_channels) // 3
        self.units = nn.ModuleList()
        for channels in range(in_channels, out_channels, growth):
            unit = nn.Sequential()
            unit.pointwise = ConvBN(channels, channels // 2)
            unit.conv = ConvBN(channels // 2, growth, 3)
            self.units.append(unit)

    def forward(self, x: Tensor) -> Tensor:
        """Old features, then new ones."""
        for unit in self.units:
            x = torch.cat([x, unit(x)], 1)
        return x


class Paths(nn.ModuleList):
    """Basic units in parallel, summed: (N, C, H, W) -> (N, C_out, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        """Sum of all paths."""
        first, *others = self
        merged = first(x)
        for path in others:
            merged = merged + path(x)
        return merged


class AdaptionUnit(nn.Sequential):
    """Convolution and 2x2 average pool: (N, C, H, W) -> (N, C, H/s, W/s), odd sizes rounded up."""

    def __init__(self, channels: int, kernel_size: int, *, groups: int, stride: int):
        super().__init__()
        self.conv = ConvBN(channels, channels, kernel_size, groups=groups)
        if stride > 1:
            self.pool = nn.AvgPool2d(2, stride=stride, ceil_mode=True)


class AdaptionHead(nn.Sequential):
    """Adaption unit with a global pool, fully connected layer: (N, C, H, W) -> (N, num_classes)."""

    def __init__(self, channels: int, num_classes: int, *, groups: int):
        super().__init__()
        self.adaption = AdaptionUnit(channels, 1, groups=groups, stride=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, num_classes)


@dataclass(frozen=True, kw_only=True)
class GMNetArch(Arch):
    """A GM-Net's row.

    Attributes:
        groups: For each stage, the groups of each of its parallel basic units; the last adaption unit
            of a detection form is a stage that has none.
        merging: 'dense' (BU_A), 'straight' (BU_B), 'none' or 'concat'; the last two are ablations.
        adaption_groups: Groups of the adaption units after BU_i, the middle and BU_e.
        pointwise: Whether convolution units have 1x1 convolutions.
    """

    groups: tuple[tuple[int, ...], ...]
    merging: str
    adaption_groups: tuple[int, int, int] = (4, 4, 4)
    pointwise: bool = True


FULL_AND_SINGLE = (1, 256)  # BU_f and BU_s
BASELINE = (8,)  # BU_m


def _cifar(middle: tuple[int, ...], merging: str, *, params_m: float) -> GMNetArch:
    """Return a row of Table 1."""
    return GMNetArch(
        paper='arXiv:1706.06792, Table 1',
        stem_channels=STEM_CHANNELS,
        stem_stride=1,
        stages=(Stage(1, 128, 3), Stage(2, 256, 3), Stage(4, 384, 3)),
        groups=((8,), middle, (8,)),
        merging=merging,
        paper_params_m=params_m,
        input_size=32,
        num_classes=10,
        cost_note='parameters are printed with one decimal, no multiply-adds',
    )


def _detection(middle: tuple[int, ...], merging: str) -> GMNetArch:
    """Return a row of Table 1 from stride 4; the last adaption unit is a stage."""
    return GMNetArch(
        paper='arXiv:1706.06792, Table 1, at higher strides',
        stem_channels=STEM_CHANNELS,
        stem_stride=4,
        stages=(Stage(4, 128, 3), Stage(8, 256, 3), Stage(16, 384, 3), Stage(32, 384)),
        groups=((8,), middle, (8,), ()),
        merging=merging,
        cost_note='our form of a CIFAR network: no printed cost',
    )


def _ablation(base: GMNetArch, place: str, note: str, **fields: Any) -> GMNetArch:
    """Return a row of section 4.2: other fields of a row of Table 1."""
    return replace(base, paper=f'arXiv:1706.06792, {place}', paper_params_m=None, cost_note=note, **fields)


def _groups(
    base: GMNetArch, block1: int, block3: int, adaption: tuple[int, int, int], middle: tuple[int, ...]
) -> GMNetArch:
    """Return a row of Table 3."""
    groups = ((block1,), middle, (block3,))
    return _ablation(base, 'Table 3', 'no cost is printed', groups=groups, adaption_groups=adaption)


_A = _cifar(FULL_AND_SINGLE, 'dense', params_m=1.5)
_BASELINE = _cifar(BASELINE, 'dense', params_m=0.7)

ARCHS = {
    'gmnet_a': _detection(FULL_AND_SINGLE, 'dense'),
    'gmnet_b': _detection(FULL_AND_SINGLE, 'straight'),
    'gmnet_baseline': _detection(BASELINE, 'dense'),
    'gmnet_a_cifar': _A,
    'gmnet_b_cifar': _cifar(FULL_AND_SINGLE, 'straight', params_m=1.5),
    'gmnet_baseline_cifar': _BASELINE,
    # Table 3: groups in neither block, in block 1 only, in block 3 only
    'gmnet_a_cifar_nogroups': _groups(_A, 1, 1, (1, 4, 1), FULL_AND_SINGLE),
    'gmnet_a_cifar_block1': _groups(_A, 8, 1, (4, 4, 1), FULL_AND_SINGLE),
    'gmnet_a_cifar_block3': _groups(_A, 1, 8, (1, 4, 4), FULL_AND_SINGLE),
    # Table 3: 8+2, 8+4&16+8, 4+4&4+4
    'gmnet_baseline_cifar_8_2': _groups(_BASELINE, 8, 8, (2, 2, 4), (8,)),
    'gmnet_baseline_cifar_8_4_16_8': _groups(_BASELINE, 8, 8, (4, 8, 4), (16,)),
    'gmnet_baseline_cifar_4_4': _groups(_BASELINE, 4, 8, (4, 4, 4), (4,)),
    'gmnet_baseline_cifar_nopointwise': _ablation(
        _BASELINE, 'Figure 4, left', 'no cost is printed', pointwise=False
    ),
    'gmnet_baseline_cifar_nosum': _ablation(
        _BASELINE, 'Figure 4, middle', 'no cost is printed', merging='none'
    ),
    'gmnet_a_cifar_concat': _ablation(
        _A,
        'Figure 5',
        'the paper says that the parameters are on the level of the summing network, 1.5 M',
        stages=(Stage(1, 124, 3), Stage(2, 244, 3), Stage(4, 424, 3)),  # growth 20, 40, 60
        groups=((1,), (1, 244), (1,)),
        adaption_groups=(1, 1, 1),
        merging='concat',
    ),
}


def _basic_unit(arch: GMNetArch, in_channels: int, out_channels: int, groups: int) -> nn.Module:
    """Return a basic unit; BU_s, which has as many groups as channels, always sums."""
    if arch.merging != 'concat':
        return BasicUnit(
            in_channels, out_channels, groups=groups, merging=arch.merging, pointwise=arch.pointwise
        )
    if groups == out_channels:
        return BasicUnit(in_channels, out_channels, groups=groups, merging='dense')
    return ConcatUnit(in_channels, out_channels)


@MODELS.register_module()
class GMNet(CompactBackbone, archs=ARCHS):
    """GM-Net. For arguments and feature maps see ``CompactBackbone``."""

    @staticmethod
    def make_stem(arch: Arch, conventions: Conventions) -> nn.Module:
        """3x3 conv, BN, ReLU; for detection with stride 2, and a 3x3 max pool /2."""
        if arch.stem_stride == 1:
            return ConvBN(3, arch.stem_channels, 3)
        return conv_pool_stem(arch.stem_channels)

    @staticmethod
    def make_stage(arch: Arch, stage: Stage, stride: int, conventions: Conventions) -> nn.Module:
        """Build the adaption unit of the previous basic unit, the paths, and dropout at both ends."""
        assert isinstance(arch, GMNetArch)
        index = arch.stages.index(stage)
        channels = arch.channels_before(stage)
        stage_groups = arch.groups[index]
        parts: list[nn.Module] = []
        if index > 0:
            adaption_groups = arch.adaption_groups[index - 1]
            kernel_size = 3 if stage_groups else 1
            parts.append(AdaptionUnit(channels, kernel_size, groups=adaption_groups, stride=stride))
        if stage_groups:
            parts.append(Paths(_basic_unit(arch, channels, stage.channels, g) for g in stage_groups))
            if index != MIDDLE:
                parts.append(nn.Dropout(DROPOUT))
        return nn.Sequential(*parts)

    @staticmethod
    def make_head(arch: Arch, num_classes: int, conventions: Conventions) -> nn.Module:
        """Pool and fully connected layer; the paper's form has its last adaption unit here."""
        assert isinstance(arch, GMNetArch)
        channels = arch.stages[-1].channels
        if not arch.groups[-1]:  # the adaption unit is a stage
            return LinearHead(channels, num_classes)
        return AdaptionHead(channels, num_classes, groups=arch.adaption_groups[-1])
