"""ShuffleNetV2 (Ma et al. 2018, arXiv:1807.11164), SFR-ShuffleNetV2 (Yang et al. 2021, arXiv:2104.04382).

A unit convolves every second channel and passes the others on unchanged; a downsampling unit convolves all
channels in two branches, so that the width grows. ``sfr=True`` in a row adds sparse feature reactivation:
the new channels of a unit also update the channels that it passes on, through a learned sparse 3x3
convolution.

Not stated in the paper, and chosen here ("cost": it is the one that gives the printed multiply-adds):

* A downsampling unit keeps the input's width C in its projection branch and makes C_out - C channels in
  the main branch (cost), as in the authors' code (megvii-model/ShuffleNet-Series at aa91feb).
  Torchvision's makes half of C_out in each; only at 0.5x, where C_out = 2 C, that is the same.
* The shuffle is the split at the start of a unit, even channels from odd ones, as in the authors' code.
  The output of a stage is thus not shuffled: [passed on, new]. The authors' weights fit without a
  permutation; torchvision shuffles at the end of a unit, so its weights do not fit.
* No bias in the classifier, and dropout 0.2 before it at 2x, are from the authors' code.
* SFR: the increments are added before the concatenation, in units that split (its section 3.3), from the
  main branch's output (its authors, in the issues of jianghaojun/CondenseNetV2). The number of groups is
  not printed; here it equals the sparse factor, half the width, so that each new channel updates, in the
  test-time form, one channel. The cost is the same for any number.

Deviations: none known.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from backbones.base import CompactBackbone
from backbones.layers import ConvBN, ConvHead, SqueezeExcite, conv_pool_stem
from backbones.sparsity import SparseFeatureReactivation
from backbones.spec import Arch, Conventions, Preprocessing, Stage

STEM_CHANNELS = 24
SE_REDUCTION = 4
# The authors feed their networks the pixels as OpenCV reads them (their train.py of V1 and V2+).
RAW_BGR = Preprocessing(channel_order='bgr', mean=(0, 0, 0), std=(1, 1, 1))


class Bottleneck(nn.Sequential):
    """1x1 conv, dwconv, 1x1 conv (Fig. 3 c, right): (N, C, H, W) -> (N, C_out, H/s, W/s)."""

    def __init__(
        self, in_channels: int, width: int, out_channels: int, *, kernel_size: int, stride: int, act: str
    ):
        super().__init__()
        self.reduce = ConvBN(in_channels, width, act=act)
        self.depthwise = ConvBN(width, width, kernel_size, stride=stride, groups=width, act=False)
        self.expand = ConvBN(width, out_channels, act=act)


class Separable(nn.Sequential):
    """dwconv, BN, 1x1 conv, BN, activation (Fig. 3 d, left): (N, C, H, W) -> (N, C_out, H/s, W/s)."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int, stride: int, act: str):
        super().__init__()
        self.depthwise = ConvBN(
            in_channels, in_channels, kernel_size, stride=stride, groups=in_channels, act=False
        )
        self.pointwise = ConvBN(in_channels, out_channels, act=act)


def plus_se(channels: int) -> SqueezeExcite:
    """Build ShuffleNetV2+'s attention: a quarter of the width inside, BN, hard sigmoid."""
    return SqueezeExcite(channels, channels // SE_REDUCTION, gate='hsigmoid', bias=False, bn=True)


class ShuffleV2Unit(nn.Module):
    """Channel split, main branch, concatenation (Fig. 3 c and d).

    (N, C, H, W) -> (N, C_out, H/s, W/s). With C_out = C the channels are split, else both branches work
    on all of them, so that stride 1 keeps both weights and widths of a downsampling unit.

    Args:
        in_channels: C.
        out_channels: C_out.
        stride: Of the depthwise convolution, 1 in a unit that splits.
        kernel_size: Of the depthwise convolution.
        act: A name from ``ACTIVATIONS``.
        branch: What builds the main branch, with ``Bottleneck``'s arguments.
        se: Squeeze-and-excitation at the end of the main branch, as in ShuffleNetV2+.
        sfr: Form of the sparse feature reactivation, 'masked' or 'converted'; None is none. A unit that
            does not split has none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stride: int,
        kernel_size: int = 3,
        act: str = 'relu',
        branch: Callable[..., nn.Module] = Bottleneck,
        se: bool = False,
        sfr: str | None = None,
    ):
        super().__init__()
        self.split = in_channels == out_channels
        kept = in_channels // 2 if self.split else in_channels
        new = out_channels - kept
        self.main = branch(kept, out_channels // 2, new, kernel_size=kernel_size, stride=stride, act=act)
        self.se = plus_se(new) if se else nn.Identity()
        self.sfr: nn.Module | None = None
        if not self.split:
            self.proj = Separable(kept, kept, kernel_size=kernel_size, stride=stride, act=act)
        elif sfr:
            self.sfr = SparseFeatureReactivation(
                new, kept, groups=kept, factor=kept, kernel_size=3, act=act, sparsity=sfr
            )

    def forward(self, x: Tensor) -> Tensor:
        """[channels passed on, new channels]."""
        kept, x = (x[:, ::2], x[:, 1::2]) if self.split else (self.proj(x), x)
        new = self.se(self.main(x))
        if self.sfr is not None:
            kept = kept + self.sfr(new)
        return torch.cat([kept, new], 1)


@dataclass(frozen=True, kw_only=True)
class ShuffleNetV2Arch(Arch):
    """A ShuffleNetV2's row.

    Attributes:
        head_channels: Of the 1x1 convolution before the classifier.
        dropout: Before the classifier.
        sfr: Sparse feature reactivation in every unit that splits.
    """

    head_channels: int = 1024
    dropout: float = 0
    sfr: bool = False


def _shufflenetv2(
    width: int,
    *,
    mflops: float,
    params_m: float,
    head: int = 1024,
    dropout: float = 0,
    sfr: bool = False,
    note: str = '',
) -> ShuffleNetV2Arch:
    """Table 5: 1 + 3, 1 + 7 and 1 + 3 units of w, 2w, 4w channels at strides 8, 16, 32."""
    return ShuffleNetV2Arch(
        paper='arXiv:2104.04382, Tables 8, 9 and 14' if sfr else 'arXiv:1807.11164, Table 5',
        stem_channels=STEM_CHANNELS,
        stem_stride=4,
        stages=(Stage(8, width, 4), Stage(16, 2 * width, 8), Stage(32, 4 * width, 4)),
        head_channels=head,
        dropout=dropout,
        sfr=sfr,
        paper_mflops=mflops,
        paper_params_m=params_m,
        paper_convention='conv+fc+elementwise' if sfr else 'conv+fc',
        cost_note=note,
        preprocessing=Preprocessing() if sfr else RAW_BGR,
    )


_ROUNDED = 'printed in whole millions of multiply-adds and tenths of a million of parameters'

#                                    width      printed
ARCHS = {
    'shufflenetv2_0.5x': _shufflenetv2(48, mflops=41, params_m=1.4, note=_ROUNDED),
    'shufflenetv2_1x': _shufflenetv2(116, mflops=146, params_m=2.3),
    'shufflenetv2_1.5x': _shufflenetv2(176, mflops=299, params_m=3.5),
    'shufflenetv2_2x': _shufflenetv2(244, mflops=591, params_m=7.4, head=2048, dropout=0.2),
    'sfr_shufflenetv2_0.5x': _shufflenetv2(48, mflops=43, params_m=1.4, sfr=True, note=_ROUNDED),
    'sfr_shufflenetv2_1x': _shufflenetv2(116, mflops=150, params_m=2.3, sfr=True),
    'sfr_shufflenetv2_1.5x': _shufflenetv2(176, mflops=306, params_m=3.5, sfr=True),
}


@MODELS.register_module()
class ShuffleNetV2(CompactBackbone, archs=ARCHS):
    """ShuffleNetV2, with or without SFR. For arguments and feature maps see ``CompactBackbone``."""

    takes_conventions = frozenset({'sparsity'})

    @staticmethod
    def make_stem(arch: Arch, conventions: Conventions) -> nn.Module:
        """3x3 conv /2, BN, ReLU, 3x3 max pool /2 (Table 5)."""
        return conv_pool_stem(arch.stem_channels)

    @staticmethod
    def make_stage(arch: Arch, stage: Stage, stride: int, conventions: Conventions) -> nn.Module:
        """Return a downsampling unit and units that split."""
        assert isinstance(arch, ShuffleNetV2Arch)
        units = []
        for i in range(stage.depth):
            units.append(
                ShuffleV2Unit(
                    stage.channels if i else arch.channels_before(stage),
                    stage.channels,
                    stride=1 if i else stride,
                    sfr=conventions.sparsity if arch.sfr else None,
                )
            )
        return nn.Sequential(*units)

    @staticmethod
    def make_head(arch: Arch, num_classes: int, conventions: Conventions) -> nn.Module:
        """1x1 conv ("Conv5"), BN, ReLU, global average pool, dropout, fully connected layer."""
        assert isinstance(arch, ShuffleNetV2Arch)
        return ConvHead(
            arch.stages[-1].channels, arch.head_channels, num_classes, dropout=arch.dropout, bias=False
        )
