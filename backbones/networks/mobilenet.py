"""MobileNet v1 (Howard et al. 2017, arXiv:1704.04861).

Each convolution except the first is split into a depthwise and a pointwise one, each with BN and ReLU.

Not stated in the paper, and chosen here: a width is ``int(channels * alpha)``.

Deviations: none known.

The split for Faster R-CNN C4: Qin et al. 2018 (arXiv:1803.09127, section IV-B) take "the first 28
layers" as base and "the remaining 4" as R-CNN subnet. The network has 27 convolutions (28 layers with
the classifier), so 28 + 4 is impossible. We take the *last* 4 convolutions, the two separable blocks of
stage 32, as the stage head, and all before them (stride 16, 512 alpha channels) as the backbone. For the
other networks of that table the stage head is the last stage too, so the generic ``StageHead`` is used.

Weights that TensorFlow trained need ``conventions=dict(padding='same', activation='relu6', bn_eps=1e-3)``.
"""

from mmdet.registry import MODELS
from torch import nn

from backbones.base import CompactBackbone
from backbones.layers import ConvBN
from backbones.spec import Arch, Conventions, Stage

STEM_CHANNELS = 32


class SeparableConv(nn.Sequential):
    """3x3 dwconv, BN, ReLU, 1x1 conv, BN, ReLU (Fig. 3, right).

    (N, C, H, W) -> (N, C_out, H/s, W/s).
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int, conventions: Conventions):
        super().__init__()
        self.depthwise = ConvBN(
            in_channels, in_channels, 3, stride=stride, groups=in_channels, conventions=conventions
        )
        self.pointwise = ConvBN(in_channels, out_channels, conventions=conventions)


# Table 1, its column s (stride) written as the output stride.
#    stride, c, n
TABLE_1 = (
    (2, 64, 1),
    (4, 128, 2),
    (8, 256, 2),
    (16, 512, 6),
    (32, 1024, 2),
)


def _mobilenet(alpha: float, *, mflops: float) -> Arch:
    """Return a row of Table 1, every width times alpha."""
    return Arch(
        paper='arXiv:1704.04861, Tables 1 and 6',
        stem_channels=int(STEM_CHANNELS * alpha),
        stem_stride=2,
        stages=tuple(Stage(stride, int(c * alpha), n) for stride, c, n in TABLE_1),
        paper_mflops=mflops,
    )


ARCHS = {
    'mobilenet_0.25x': _mobilenet(0.25, mflops=41),
    'mobilenet_0.5x': _mobilenet(0.5, mflops=149),
    'mobilenet_0.75x': _mobilenet(0.75, mflops=325),
    'mobilenet_1x': _mobilenet(1, mflops=569),
}


@MODELS.register_module()
class MobileNet(CompactBackbone, archs=ARCHS):
    """MobileNet v1. For arguments and feature maps see ``CompactBackbone``."""

    takes_conventions = frozenset({'padding', 'activation', 'bn_eps'})

    @staticmethod
    def make_stem(arch: Arch, conventions: Conventions) -> nn.Module:
        """3x3 conv /2, BN, ReLU."""
        return ConvBN(3, arch.stem_channels, 3, stride=2, conventions=conventions)

    @staticmethod
    def make_stage(arch: Arch, stage: Stage, stride: int, conventions: Conventions) -> nn.Module:
        """Separable convolutions; the first has the stage's stride in its depthwise half."""
        units = []
        for i in range(stage.depth):
            units.append(
                SeparableConv(
                    stage.channels if i else arch.channels_before(stage),
                    stage.channels,
                    stride=1 if i else stride,
                    conventions=conventions,
                )
            )
        return nn.Sequential(*units)
