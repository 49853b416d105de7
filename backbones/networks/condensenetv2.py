"""CondenseNetV2 (Yang et al. 2021, arXiv:2104.04382).

The dense layers of CondenseNet; each layer also updates the outputs of all layers before it by sparse
feature reactivation (``backbones.sparsity``).

Not stated in the paper, and chosen as in the authors' code (jianghaojun/CondenseNetV2 at 4431162):

* The stem is one 3x3 convolution to 2 k_1 channels, without BN. Blocks 1 and 2 have ReLU, 3 to 5
  hard-swish in all parts of a layer; blocks 4 and 5 have SE on a layer's k new features (reduction 1,
  no biases).
* After block 5: BN, ReLU (no hard-swish), average pool, SE on all channels (reduction 16, no biases), a
  fully connected layer to 828 (A) or 1024 (B, C) with hard-swish (Table 1 prints SE there and no
  hard-swish), the classifier. No part is halved.
* The CIFAR networks were not released. As the paper describes them: three blocks of d layers with k = 8,
  16, 32, C = S = G = 4, no SE, no hard-swish, no wide layer. With d = 12 and 16, three convolutions per
  layer and two more give the 110 and 146 of the names. The numbers of parameters then agree with the
  printed ones to 4 %; the costs do not agree.
* Table 4's networks have the widths of A. ``condensenetv2_a_sfr`` is its second row: ReLU in place of
  hard-swish and no SE; the wide layer is kept. The third and the fourth row are ``condensenetv2_a``, which
  differ in training. Figure 8's networks are ``condensenetv2_110_cifar`` with other groups G or another
  sparse factor S of the reactivation, and C and the groups of LGC unchanged. The text states S = 1 and
  4; the other values, 2 and 8, are those that divide all widths.

Feature maps are those of CondenseNet: unnormalized sums at strides 2 to 16, normalized for FPN and not for
C4; stage 32 ends with the last BN and ReLU. A map is taken at the end of its block, before pooling, so the
reactivation of later blocks does not change it.

Deviation: pooling as in ``condensenet``.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from backbones.base import CompactBackbone
from backbones.layers import ACTIVATIONS, LinearHead, SqueezeExcite
from backbones.networks.condensenet import BOTTLENECK, BNActConv, dense_block, growth, growth_rates
from backbones.sparsity import LearnedGroupConv, SparseFeatureReactivation
from backbones.spec import Arch, Conventions, Stage


@dataclass(frozen=True, kw_only=True)
class CondenseNetV2Arch(Arch):
    """A row.

    Attributes:
        factor: C, S and G.
        wide: Channels of the fully connected layer before the classifier; 0: the CIFAR form, without it.
        se_hs: Squeeze-and-excitation and hard-swish.
        sfr_groups: G of the reactivation, if it is another; 0 if not.
        sfr_factor: S of the reactivation, if it is another; 0 if not.
    """

    factor: int
    wide: int = 0
    se_hs: bool = True
    sfr_groups: int = 0
    sfr_factor: int = 0


class ReactivatingLayer(nn.Module):
    """LGC, 3x3 group convolution, SE; the new features reactivate the old (Fig. 4, right).

    (N, C, H, W) -> (N, C + k, H, W).
    """

    def __init__(
        self,
        in_channels: int,
        growth: int,
        *,
        factor: int,
        sfr_groups: int,
        sfr_factor: int,
        act: str,
        se: bool,
        sparsity: str,
    ):
        super().__init__()
        width = BOTTLENECK * growth
        kwargs: dict[str, Any] = dict(act=act, sparsity=sparsity)
        self.lgc = LearnedGroupConv(in_channels, width, groups=factor, factor=factor, **kwargs)
        self.conv = BNActConv(width, growth, factor, ACTIVATIONS[act])
        self.se = SqueezeExcite(growth, growth, bias=False) if se else nn.Identity()
        self.sfr = SparseFeatureReactivation(
            growth, in_channels, groups=sfr_groups, factor=sfr_factor, **kwargs
        )

    def forward(self, x: Tensor) -> Tensor:
        """Old features with their increments, then new ones."""
        new = self.se(self.conv(self.lgc(x)))
        return torch.cat([x + self.sfr(new), new], 1)


class WideHead(nn.Sequential):
    """Pool, SE, fully connected, hard-swish, classifier: (N, C, H, W) -> (N, num_classes).

    Without ``se_hs`` there is no SE, and a ReLU.
    """

    def __init__(self, channels: int, wide: int, num_classes: int, se_hs: bool):
        super().__init__(
            OrderedDict(
                pool=nn.AdaptiveAvgPool2d(1),
                se=SqueezeExcite(channels, channels // 16, bias=False) if se_hs else nn.Identity(),
                flatten=nn.Flatten(),
                hidden=nn.Linear(channels, wide),
                act=ACTIVATIONS['hswish' if se_hs else 'relu'](inplace=True),
                fc=nn.Linear(wide, num_classes),
            )
        )


_NOTE = "the authors' tool also counts ReLU, average pooling and sigmoid, and further digits are cut off"


def _imagenet(
    depths: tuple[int, ...],
    growths: tuple[int, ...],
    factor: int,
    wide: int,
    *,
    mflops: float | None = None,
    params_m: float | None = None,
) -> CondenseNetV2Arch:
    """Five blocks at strides 2 to 32: their depths and growth rates."""
    return CondenseNetV2Arch(
        paper='arXiv:2104.04382, Tables 1, 2 and 14',
        factor=factor,
        wide=wide,
        paper_mflops=mflops,
        paper_params_m=params_m,
        paper_convention='conv+fc+elementwise',
        cost_note=_NOTE,
        **growth_rates(depths, growths, 2),
    )


def _cifar(depth: int, *, mflops: float | None, params_m: float | None) -> CondenseNetV2Arch:
    """Three blocks of one depth at strides 1 to 4."""
    return CondenseNetV2Arch(
        paper='arXiv:2104.04382, section 4.3 and Table 6',
        factor=4,
        paper_mflops=mflops,
        paper_params_m=params_m,
        input_size=32,
        num_classes=10,
        cost_note='not reproduced: the configuration was not released, and the text leads to this cost',
        **growth_rates((depth,) * 3, (8, 16, 32), 1),
    )


def _figure_8(groups: int = 4, factor: int = 4) -> CondenseNetV2Arch:
    """The 110-layer network with other settings of the reactivation."""
    return replace(
        _cifar(12, mflops=None, params_m=None),
        paper='arXiv:2104.04382, Figure 8',
        sfr_groups=groups,
        sfr_factor=factor,
        cost_note='',
    )


ARCHS = {
    'condensenetv2_a': _imagenet((1, 1, 4, 6, 8), (8, 8, 16, 32, 64), 8, 828, mflops=46, params_m=2.0),
    'condensenetv2_b': _imagenet((2, 4, 6, 8, 6), (6, 12, 24, 48, 96), 6, 1024, mflops=146, params_m=3.6),
    'condensenetv2_c': _imagenet((4, 6, 8, 10, 8), (8, 16, 32, 64, 128), 8, 1024, mflops=309, params_m=6.1),
    'condensenetv2_110_cifar': _cifar(12, mflops=41, params_m=0.48),
    'condensenetv2_146_cifar': _cifar(16, mflops=62, params_m=0.78),
    'condensenetv2_a_sfr': replace(
        _imagenet((1, 1, 4, 6, 8), (8, 8, 16, 32, 64), 8, 828),
        paper='arXiv:2104.04382, Table 4',
        se_hs=False,
        cost_note='',
    ),
    **{f'condensenetv2_110_cifar_sfr_g{g}': _figure_8(groups=g) for g in (1, 2, 8)},
    **{f'condensenetv2_110_cifar_sfr_s{s}': _figure_8(factor=s) for s in (1, 2, 8)},
}


@MODELS.register_module()
class CondenseNetV2(CompactBackbone, archs=ARCHS):
    """CondenseNetV2. For arguments and feature maps see ``CompactBackbone``."""

    takes_conventions = frozenset({'sparsity'})
    preactivation = True

    @staticmethod
    def make_stem(arch: Arch, conventions: Conventions) -> nn.Module:
        """3x3 conv, no BN."""
        return nn.Conv2d(3, arch.stem_channels, 3, stride=arch.stem_stride, padding=1, bias=False)

    @staticmethod
    def make_stage(arch: Arch, stage: Stage, stride: int, conventions: Conventions) -> nn.Module:
        """Pooling and a block of reactivating layers; after the last one BN and ReLU."""
        assert isinstance(arch, CondenseNetV2Arch)
        k, channels = growth(arch, stage), arch.channels_before(stage)
        se_hs = arch.se_hs and bool(arch.wide)
        layers: list[nn.Module] = [
            ReactivatingLayer(
                channels + i * k,
                k,
                factor=arch.factor,
                sfr_groups=arch.sfr_groups or arch.factor,
                sfr_factor=arch.sfr_factor or arch.factor,
                act='hswish' if se_hs and stage.stride >= 8 else 'relu',
                se=se_hs and stage.stride >= 16,
                sparsity=conventions.sparsity,
            )
            for i in range(stage.depth)
        ]
        return dense_block(
            layers, stride, last_channels=stage.channels if stage == arch.stages[-1] else None
        )

    @staticmethod
    def make_head(arch: Arch, num_classes: int, conventions: Conventions) -> nn.Module:
        """Pool, SE, a wide layer, classifier; the CIFAR form pool and classifier."""
        assert isinstance(arch, CondenseNetV2Arch)
        channels = arch.stages[-1].channels
        if not arch.wide:
            return LinearHead(channels, num_classes)
        return WideHead(channels, arch.wide, num_classes, arch.se_hs)
