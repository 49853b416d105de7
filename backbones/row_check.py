"""Check that a network is built as its row states: stride and channels of every map.

A stage that is built with another stride trains nevertheless: the detector would take its map for one of
another size, and the record would state a network that was not trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from backbones.spec import Arch

SIDE = 256  # of the input in pixels, or more for strides above 64
BORDER = 6  # pixels that convolutions and pools without padding may leave out, besides rounding


class RowError(ValueError):
    """A network contradicts its row. The message states both."""


@dataclass(frozen=True)
class Part:
    """A part of a network, and its output by the row.

    Attributes:
        name: 'stem', or 'stage' and its stride in the whole network.
        module: The part.
        stride: Stride of its output, counted from the image.
        channels: Channels of its output.
    """

    name: str
    module: nn.Module
    stride: int
    channels: int


_checked: set[Any] = set()


def check_row(arch: Arch, parts: Sequence[Part], in_channels: int = 3, in_stride: int = 1) -> None:
    """Run the parts one after another on PyTorch's meta device, without computing, and compare each map.

    The same parts of a network are checked once in a process.

    Args:
        arch: The network.
        parts: Its parts in order; each takes the output of the one before.
        in_channels: Channels of the input of the first part.
        in_stride: Its stride.

    Raises:
        RowError: A map has another stride or number of channels than the row states.
    """
    key = (arch.family, arch, in_stride, tuple((part.name, part.stride) for part in parts))
    if key in _checked:
        return
    side = max(SIDE, 4 * parts[-1].stride) // in_stride
    carry: Any = torch.empty(1, in_channels, side, side, device='meta')
    for part in parts:
        carry = _run(part.module, carry)
        x = carry if isinstance(carry, Tensor) else carry[0]
        channels, size, expected = x.shape[1], x.shape[-1], part.stride // in_stride
        if channels != part.channels or not -expected < side - size * expected <= expected + BORDER:
            raise RowError(
                f'{arch.name}, {part.name}: the row says stride {part.stride}, channels {part.channels}; '
                f'built: stride {round(in_stride * side / size)}, channels {channels}; correct the row, or '
                f'the functions of {arch.family} that build it'
            )
    _checked.add(key)


@torch.no_grad()
def _run(module: nn.Module, carry: Any) -> Any:
    """Return the output of a module on the meta device; the module is not changed."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    empty = {name: torch.empty_like(tensor, device='meta') for name, tensor in tensors.items()}
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        return functional_call(module, empty, (carry,))
    finally:
        for part, mode in modes:
            part.training = mode
