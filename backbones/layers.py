"""Leaves that the families share: each exists once. A paper's own block lives in its family's file."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.spec import Conventions

PYTORCH = Conventions()
ACTIVATIONS: dict[str, type[nn.Module]] = {'relu': nn.ReLU, 'relu6': nn.ReLU6}


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's 'SAME' padding: output size = ceil(input size / stride).

    (N, C, H, W) -> (N, C_out, ceil(H/s), ceil(W/s)). Where the padding is odd, the extra row and column
    go to the bottom and the right.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pads by the input's size, then convolves."""
        pads = []
        for size, kernel, stride in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads.append((total // 2, total - total // 2))
        (top, bottom), (left, right) = pads
        return super().forward(F.pad(x, (left, right, top, bottom)))


class ConvBN(nn.Sequential):
    """Convolution without bias, batch normalisation, optional activation.

    (N, C, H, W) -> (N, C_out, H/s, W/s), odd sizes rounded up.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        act: bool = True,
        conventions: Conventions = PYTORCH,
    ):
        super().__init__()
        same = conventions.padding == 'same'
        self.conv = (SameConv2d if same else nn.Conv2d)(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=0 if same else kernel_size // 2,
            groups=groups,
            bias=False,
        )
        self.bn = nn.BatchNorm2d(out_channels, eps=conventions.bn_eps)
        if act:
            self.act = ACTIVATIONS[conventions.activation](inplace=True)


def conv_pool_stem(channels: int) -> nn.Sequential:
    """3x3 conv /2, BN, ReLU, 3x3 max pool /2: (N, 3, H, W) -> (N, channels, H/4, W/4)."""
    return nn.Sequential(ConvBN(3, channels, 3, stride=2), nn.MaxPool2d(3, stride=2, padding=1))


class SqueezeExcite(nn.Module):
    """Channel attention (Hu et al. 2017, arXiv:1709.01507): pool, 1x1, ReLU, 1x1, sigmoid, scale.

    (N, C, H, W) -> (N, C, H, W).
    """

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        self.reduce = nn.Conv2d(channels, channels // reduction, 1)
        self.expand = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Scales each channel by a gate computed from all of them."""
        gate = self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(gate)


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Spreads each group's channels over all groups (ShuffleNet, arXiv:1707.01083, section 3.1).

    (N, C, H, W) -> (N, C, H, W): reshape C to (groups, C/groups), transpose, flatten.

    Raises:
        ValueError: C is no multiple of ``groups``.
    """
    n, channels, height, width = x.shape
    if channels % groups:
        raise ValueError(f'channel_shuffle: {channels} channels are no multiple of {groups} groups')
    x = x.view(n, groups, channels // groups, height, width).transpose(1, 2)
    return x.reshape(n, channels, height, width)


class LinearHead(nn.Sequential):
    """Global average pool and a fully connected layer: (N, C, H, W) -> (N, num_classes)."""

    def __init__(self, channels: int, num_classes: int):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(channels, num_classes)
