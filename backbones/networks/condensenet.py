"""CondenseNet (Huang et al. 2018, arXiv:1711.09224).

Five blocks of dense layers; their bottleneck is a learned group convolution (``backbones.sparsity``).
Between the blocks there is only 2x2 average pooling, so every layer reads the outputs of all layers before
it. Rows A and B are from the CondenseNetV2 paper (arXiv:2104.04382, Tables 12 and 13); C is the ImageNet
network of the CondenseNet paper.

Not stated in the paper, and chosen as in the authors' code (ShichenLiu/CondenseNet at 833a91d):

* The stem is one 3x3 convolution to 2 k_1 channels, without BN; G = C; the bottleneck has 4 k channels.
* The converted classifier may use only the half of its inputs with the largest L1 norm ("fully connected
  layer ... half"). This changes the function. The printed costs include the full classifier for A and B and
  the half for C, and a new network in its test-time form follows them. ``halved_classifier`` halves trained
  weights, ``converted_state_dict`` alone does not; the network loads both.
* No feature maps for detection were published. Here they are the blocks' outputs at strides 2 to 32. Stage
  32 ends with the last BN and ReLU of the network; the other maps are sums without normalization. FPN
  therefore puts BN and ReLU on these maps (``preactivation``). C4 splits after the unnormalized map at
  stride 16, since stage 32 begins with BN. On RoIs stage 32 omits its pooling.

Deviation: on odd sizes, pooling rounds up (mean of the existing values); the authors' code drops the last
row and column. On even sizes both are equal.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.registry import MODELS
from torch import Tensor, nn

from backbones.base import CompactBackbone
from backbones.layers import LinearHead
from backbones.sparsity import CondensingError, LearnedGroupConv
from backbones.spec import Arch, Conventions, Stage

BOTTLENECK = 4


@dataclass(frozen=True, kw_only=True)
class CondenseNetArch(Arch):
    """A row.

    Attributes:
        factor: C, the condense factor, and G, the groups.
        half_classifier: Whether the printed costs are those of the half classifier.
    """

    factor: int
    half_classifier: bool = False


class BNActConv(nn.Sequential):
    """BN, ReLU, 3x3 group convolution: (N, C, H, W) -> (N, C_out, H, W)."""

    def __init__(self, in_channels: int, out_channels: int, groups: int, act: type[nn.Module] = nn.ReLU):
        super().__init__()
        self.bn = nn.BatchNorm2d(in_channels)
        self.act = act(inplace=True)
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, groups=groups, bias=False)


class DenseLayer(nn.Module):
    """LGC to the bottleneck, 3x3 group convolution to k new features: (N, C, H, W) -> (N, C + k, H, W)."""

    def __init__(self, in_channels: int, growth: int, *, factor: int, sparsity: str):
        super().__init__()
        width = BOTTLENECK * growth
        self.lgc = LearnedGroupConv(in_channels, width, groups=factor, factor=factor, sparsity=sparsity)
        self.conv = BNActConv(width, growth, factor)

    def forward(self, x: Tensor) -> Tensor:
        """Old features, then new ones."""
        return torch.cat([x, self.conv(self.lgc(x))], 1)


class BNReLU(nn.Sequential):
    """What ends a pre-activation network: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int):
        super().__init__(OrderedDict(bn=nn.BatchNorm2d(channels), act=nn.ReLU(inplace=True)))


def dense_block(layers: list[nn.Module], stride: int, *, last_channels: int | None) -> nn.Sequential:
    """Build average pooling if the stride is not 1, the layers, and after the last block BN and ReLU."""
    parts: dict[str, nn.Module] = {}
    if stride > 1:
        parts['pool'] = nn.AvgPool2d(stride, ceil_mode=True)
    parts |= {str(i): layer for i, layer in enumerate(layers)}
    if last_channels:
        parts['norm'] = BNReLU(last_channels)
    return nn.Sequential(OrderedDict(parts))


def growth_rates(depths: tuple[int, ...], growths: tuple[int, ...], first_stride: int) -> dict[str, Any]:
    """Return the fields of a row that d and k, one number per block, determine."""
    channels = stem = 2 * growths[0]
    stages = []
    for i, (depth, growth) in enumerate(zip(depths, growths, strict=True)):
        channels += depth * growth
        stages.append(Stage(first_stride * 2**i, channels, depth))
    return dict(stem_channels=stem, stem_stride=first_stride, stages=tuple(stages))


def growth(arch: Arch, stage: Stage) -> int:
    """Return k, the number of features that each layer of a stage adds."""
    return (stage.channels - arch.channels_before(stage)) // stage.depth


class CondenseHead(LinearHead):
    """Global average pool, a choice of the channels, a fully connected layer: (N, C, H, W) -> logits.

    It has as many inputs as the weights that it loads: those of the full classifier, without an index, or
    of the half.
    """

    def __init__(self, channels: int, num_classes: int, *, half: bool):
        super().__init__(channels // 2 if half else channels, num_classes)
        self.channels = channels
        self.register_buffer('index', torch.arange(0, channels - 1, 2) if half else None)

    def forward(self, x: Tensor) -> Tensor:
        """Select the channels that it has an index for."""
        x = self.flatten(self.pool(x))
        return self.fc(x if self.index is None else x.index_select(1, self.index))

    def _load_from_state_dict(self, state_dict: Mapping[str, Tensor], prefix: str, *args: Any) -> None:
        """Take the form of the weights first; their own shapes are checked afterwards as always."""
        index, fc = state_dict.get(f'{prefix}index'), self.fc
        inputs = self.channels if index is None else len(index)
        if f'{prefix}fc.weight' in state_dict and inputs != fc.in_features:
            self.fc = nn.Linear(inputs, fc.out_features).to(fc.weight)
            self.index = None if index is None else torch.zeros_like(index, device=fc.weight.device)
        super()._load_from_state_dict(state_dict, prefix, *args)


def halved_classifier(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a CondenseNet's converted weights, of whose classifier's inputs only the stronger half is
    left.

    Strength is the L1 norm of the weights from an input to all classes.

    Raises:
        CondensingError: There is no full classifier.
    """
    weight = state_dict.get('head.fc.weight')
    if weight is None or 'head.index' in state_dict:
        raise CondensingError('no full classifier (head.fc.weight without head.index) to halve')
    strongest = weight.abs().sum(0).argsort(descending=True, stable=True)
    index = strongest[: weight.shape[1] // 2].sort().values
    return {**state_dict, 'head.index': index, 'head.fc.weight': weight[:, index]}


_NOTE = "the authors' tool also counts ReLU and average pooling, and further digits are cut off"


def _imagenet(
    depths: tuple[int, ...],
    growths: tuple[int, ...],
    factor: int,
    *,
    mflops: float,
    params_m: float,
    half_classifier: bool = False,
) -> CondenseNetArch:
    """Five dense blocks at strides 2 to 32: their depths and growth rates."""
    return CondenseNetArch(
        paper='arXiv:2104.04382, Tables 12 to 14 (arXiv:1711.09224)',
        factor=factor,
        half_classifier=half_classifier,
        paper_mflops=mflops,
        paper_params_m=params_m,
        paper_convention='conv+fc+elementwise',
        cost_note=_NOTE,
        **growth_rates(depths, growths, 2),
    )


ARCHS = {
    'condensenet_a': _imagenet((2, 4, 6, 8, 4), (8, 8, 16, 32, 64), 8, mflops=56, params_m=0.9),
    'condensenet_b': _imagenet((2, 4, 6, 8, 6), (6, 12, 24, 48, 96), 6, mflops=132, params_m=2.1),
    'condensenet_c': _imagenet(
        (4, 6, 8, 10, 8), (8, 16, 32, 64, 128), 8, mflops=274, params_m=2.9, half_classifier=True
    ),
    'condensenet_86_cifar': CondenseNetArch(
        paper='arXiv:1711.09224, section 4.1; arXiv:2104.04382, Table 6',
        factor=4,
        paper_mflops=65,
        paper_params_m=0.52,
        paper_convention='conv+fc+elementwise',
        input_size=32,
        num_classes=10,
        cost_note=_NOTE,
        **growth_rates((14, 14, 14), (8, 16, 32), 1),
    ),
}


@MODELS.register_module()
class CondenseNet(CompactBackbone, archs=ARCHS):
    """CondenseNet. For arguments and feature maps see ``CompactBackbone``."""

    takes_conventions = frozenset({'sparsity'})
    preactivation = True

    @staticmethod
    def make_stem(arch: Arch, conventions: Conventions) -> nn.Module:
        """3x3 conv, no BN."""
        return nn.Conv2d(3, arch.stem_channels, 3, stride=arch.stem_stride, padding=1, bias=False)

    @staticmethod
    def make_stage(arch: Arch, stage: Stage, stride: int, conventions: Conventions) -> nn.Module:
        """Pooling and a dense block; after the last one BN and ReLU."""
        assert isinstance(arch, CondenseNetArch)
        k, channels = growth(arch, stage), arch.channels_before(stage)
        layers: list[nn.Module] = [
            DenseLayer(channels + i * k, k, factor=arch.factor, sparsity=conventions.sparsity)
            for i in range(stage.depth)
        ]
        return dense_block(
            layers, stride, last_channels=stage.channels if stage == arch.stages[-1] else None
        )

    @staticmethod
    def make_head(arch: Arch, num_classes: int, conventions: Conventions) -> nn.Module:
        """Global average pool and classifier; of the converted form with half the inputs, as printed."""
        assert isinstance(arch, CondenseNetArch)
        half = arch.half_classifier and conventions.sparsity == 'converted'
        return CondenseHead(arch.stages[-1].channels, num_classes, half=half)
