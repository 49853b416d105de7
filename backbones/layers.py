"""Layers that several families share. A paper's own block is in the file of its family."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbones.spec import Conventions

PYTORCH = Conventions()
ACTIVATIONS: dict[str, type[nn.Module]] = {
    'relu': nn.ReLU,
    'relu6': nn.ReLU6,
    'hswish': nn.Hardswish,
    'swish': nn.SiLU,
}
GATES: dict[str, type[nn.Module]] = {'sigmoid': nn.Sigmoid, 'hsigmoid': nn.Hardsigmoid}


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Return the nearest multiple of ``divisor``, at least one, and not below 90 % of ``channels``.

    The rule of the MobileNet authors' code, used for the widths of MobileNetV2, V3, GhostNet and
    EfficientNet.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded if rounded >= 0.9 * channels else rounded + divisor


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's 'SAME' padding: output size = ceil(input size / stride).

    (N, C, H, W) -> (N, C_out, ceil(H/s), ceil(W/s)). With odd padding, the extra row and column are at the
    bottom and the right.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Pad by the input's size, then convolve."""
        pads = []
        for size, kernel, stride in zip(x.shape[-2:], self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads.append((total // 2, total - total // 2))
        (top, bottom), (left, right) = pads
        return super().forward(F.pad(x, (left, right, top, bottom)))


class GroupedConv1x1(nn.Conv2d):
    """Grouped 1x1 convolution of stride 1 in the form that is fastest on its device.

    (N, C, H, W) -> (N, C_out, H, W). On the CPU it is PyTorch's convolution. cuDNN computes that group by
    group; on a GPU it is one matrix product for all groups in float32, and a dense convolution with a
    block-diagonal weight in half precision, where tensor cores make the zeros cheap.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        if not x.is_cuda or self.stride != (1, 1):
            return super().forward(x)
        half = torch.is_autocast_enabled('cuda') or x.dtype in (torch.float16, torch.bfloat16)
        groups, width = self.groups, self.in_channels // self.groups
        if half:
            blocks = torch.eye(groups, dtype=self.weight.dtype, device=x.device)[:, None, :, None]
            dense = self.weight.view(groups, -1, 1, width) * blocks
            return F.conv2d(x, dense.view(self.out_channels, self.in_channels, 1, 1), self.bias)
        n, _, height, width_px = x.shape
        weight = self.weight.view(groups, -1, width)
        y = torch.matmul(weight, x.reshape(n, groups, width, height * width_px))
        y = y.view(n, self.out_channels, height, width_px)
        return y if self.bias is None else y + self.bias[:, None, None]


class ConvBN(nn.Sequential):
    """Convolution without bias, batch normalization, optional activation.

    (N, C, H, W) -> (N, C_out, H/s, W/s), odd sizes rounded up. ``act`` is False for none, True for the
    ReLU of ``conventions``, or a name from ``ACTIVATIONS``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        act: bool | str = True,
        conventions: Conventions = PYTORCH,
    ):
        super().__init__()
        same = conventions.padding == 'same'
        grouped = kernel_size == 1 and stride == 1 and groups > 1
        self.conv = (GroupedConv1x1 if grouped else SameConv2d if same else nn.Conv2d)(
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
            name = conventions.activation if act is True else act
            self.act = ACTIVATIONS[name](inplace=True)


def conv_pool_stem(channels: int) -> nn.Sequential:
    """3x3 conv /2, BN, ReLU, 3x3 max pool /2: (N, 3, H, W) -> (N, channels, H/4, W/4)."""
    return nn.Sequential(ConvBN(3, channels, 3, stride=2), nn.MaxPool2d(3, stride=2, padding=1))


class SqueezeExcite(nn.Module):
    """Channel attention (Hu et al. 2017, arXiv:1709.01507): pool, 1x1, activation, 1x1, gate, scale.

    (N, C, H, W) -> (N, C, H, W).

    Args:
        channels: Input channels C.
        squeezed: Channels between the two convolutions.
        act: A name from ``ACTIVATIONS``.
        gate: 'sigmoid' or 'hsigmoid' (clamp(x + 3, 0, 6) / 6).
        bias: Whether both convolutions have a bias.
        bn: Whether batch normalization follows the first convolution.
    """

    def __init__(
        self,
        channels: int,
        squeezed: int,
        *,
        act: str = 'relu',
        gate: str = 'sigmoid',
        bias: bool = True,
        bn: bool = False,
    ):
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1, bias=bias)
        self.bn = nn.BatchNorm2d(squeezed) if bn else nn.Identity()
        self.act = ACTIVATIONS[act](inplace=True)
        self.expand = nn.Conv2d(squeezed, channels, 1, bias=bias)
        self.gate = GATES[gate]()

    def forward(self, x: Tensor) -> Tensor:
        """Scale each channel by a gate computed from all of them."""
        squeezed = self.act(self.bn(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * self.gate(self.expand(squeezed))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Spread each group's channels over all groups (ShuffleNet, arXiv:1707.01083, section 3.1).

    (N, C, H, W) -> (N, C, H, W): reshape C to (groups, C/groups), transpose, flatten.

    Raises:
        ValueError: C is not a multiple of ``groups``.
    """
    n, channels, height, width = x.shape
    if channels % groups:
        raise ValueError(f'channel_shuffle: {channels} channels are no multiple of {groups} groups')
    x = x.view(n, groups, channels // groups, height, width).transpose(1, 2)
    return x.reshape(n, channels, height, width)


class LinearHead(nn.Sequential):
    """Global average pool, dropout, fully connected layer: (N, C, H, W) -> (N, num_classes)."""

    def __init__(self, channels: int, num_classes: int, *, dropout: float = 0):
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        if dropout:
            self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(channels, num_classes)


class ConvHead(nn.Sequential):
    """1x1 conv, BN, act, global average pool, [hidden layer, act,] dropout, fully connected layer.

    (N, C, H, W) -> (N, num_classes).

    Args:
        in_channels: Input channels C.
        channels: Channels of the convolution.
        num_classes: Number of classes.
        hidden_channels: Channels of a fully connected layer before the classifier; 0 for no such layer.
        act: A name from ``ACTIVATIONS``.
        dropout: Dropout before the classifier.
        bias: Whether the classifier has a bias.
        conventions: See ``ConvBN``.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        num_classes: int,
        *,
        hidden_channels: int = 0,
        act: str = 'relu',
        dropout: float = 0,
        bias: bool = True,
        conventions: Conventions = PYTORCH,
    ):
        super().__init__()
        self.conv = ConvBN(in_channels, channels, act=act, conventions=conventions)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        if hidden_channels:
            self.hidden = nn.Linear(channels, hidden_channels)
            self.act = ACTIVATIONS[act](inplace=True)
        if dropout:
            self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(hidden_channels or channels, num_classes, bias=bias)
