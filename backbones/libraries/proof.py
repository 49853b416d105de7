"""Proof that the parts of a split network are the network, and the image sizes that it takes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from backbones.libraries.graphs import Dissection
from backbones.libraries.tracing import RECIPE, GraphError, has_stride, in_a_line
from backbones.libraries.writes import describe_write

TOLERANCE = 1e-9  # of logits in float64, relative to the largest
SENSITIVITY = 1e-7  # least difference of the logits of two images, relative to the largest
ODD_SIZES = ((267, 389), (331, 250))  # multiples of no stride
PROOF_SIZES = ((43, 59), (75, 109), (64, 96))  # tried in this order, then the native size
DIVISORS = (2, 4, 8, 16, 32, 64, 128)  # of the sides of an image; also the native side
MIN_SIDE = 256  # of the images for which the maps' sizes are tried
POSITIVE = ('var', 'std')  # ends of the names of entries that may not be negative

Run = tuple[Tensor, dict[str, Tensor]]  # logits and buffers


def randomized(network: nn.Module) -> nn.Module:
    """Return a copy in float64 with random values of all parameters and buffers of floating point.

    Gains, biases, running statistics and layer scales are random too, so no operation on them is neutral.

    Args:
        network: The network, on the CPU or, if all its entries are of floating point or counters of batch
            normalization, on the meta device.
    """
    network = copy.deepcopy(network).double()
    if any(tensor.is_meta for tensor in network.state_dict().values()):
        network = network.to_empty(device='cpu')
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            if name.endswith('num_batches_tracked'):
                tensor.zero_()
            elif not tensor.is_floating_point():
                continue
            elif tensor.dim() > 1 and not name.endswith(POSITIVE):
                bound = math.sqrt(6 / max(1, math.prod(tensor.shape[1:])))  # keeps the variance of maps
                tensor.uniform_(-bound, bound, generator=generator)
            elif name.endswith(('bias', 'mean')):
                tensor.uniform_(-1, 1, generator=generator)
            else:
                tensor.uniform_(0.5, 1.5, generator=generator)
    return network


def check_parts(split: Dissection, network: nn.Module) -> None:
    """Raise GraphError unless the parts compute the logits of the network and change its buffers alike.

    They are compared in evaluation mode, and in training mode without dropout and stochastic depth.

    Args:
        split: The network's cuts.
        network: The network with random values; see ``randomized``.
    """
    parts = [split.part(i, network) for i in range(len(split.cuts) + 1)]
    used = {key for part in parts for key in (*part.state_dict(), *dict(part.named_buffers()))}
    with _float64():
        saved = _buffers(network)
        images, runs = _run_library(network, split.size)
        if unused := _unused_that_matter(network, used, images, runs[False][0]):
            raise GraphError(
                f'its logits depend on {", ".join(unused[:3])}, which no recorded layer has{_lost(split)}'
            )
        for training, (theirs, their_buffers) in runs.items():
            for part in parts:
                _set_mode(part, training)
            carry: Any = images.clone()
            try:
                for part in parts:
                    carry = part.forward(carry)  # a call would print the traceback of an error
            except Exception as error:
                raise GraphError(f'its parts do not run one after another ({in_a_line(error)})') from error
            if not _equal(theirs, carry):
                mode = 'training' if training else 'evaluation'
                raise GraphError(
                    f'in {mode} its recorded layers give other logits than its code{_lost(split)}'
                )
            for name, buffer in _buffers(network).items():
                if name in used and not _equal(their_buffers[name], buffer):
                    raise GraphError(f'it changes its buffer {name} in a way that cannot be recorded')
            _restore(network, saved)


def size_divisor(split: Dissection) -> int | None:
    """Return the number of which both sides of an image must be multiples: 1, 2, 4, ...

    None if the feature maps can only be computed of images of the native size. Nothing is computed; the
    parts run on the meta device.
    """
    trunk = [split.part(i) for i in range(len(split.cuts))]
    strides = [cut.stride for cut in split.cuts]
    if all(_maps_fit(trunk, strides, size) for size in ODD_SIZES):
        return 1
    for divisor in sorted({*DIVISORS, split.size}):
        odd = math.ceil(MIN_SIDE / divisor) // 2 * 2 + 1
        if _maps_fit(trunk, strides, (odd * divisor, (odd + 2) * divisor)):
            return divisor
    return None


def _maps_fit(trunk: Sequence[fx.GraphModule], strides: Sequence[int], size: tuple[int, int]) -> bool:
    """Return True if each map of an image has about the size that its stride says."""
    carry: Any = torch.empty(1, 3, *size, device='meta')
    try:
        with torch.no_grad():
            for part, stride in zip(trunk, strides, strict=True):
                carry = part.forward(carry)
                sides = (carry if isinstance(carry, Tensor) else carry[0]).shape[-2:]
                for side, found in zip(size, sides, strict=True):
                    if not has_stride(found, side, stride):
                        return False
    except Exception:  # the code of a library may fail in any way
        return False
    return True


def _run_library(network: nn.Module, native: int) -> tuple[Tensor, dict[bool, Run]]:
    """Return images, and logits and buffers for them in evaluation and in training mode.

    The images are smaller than native if the network takes them.
    """
    saved, reason = _buffers(network), ''
    for size in (*PROOF_SIZES, (native, native)):
        images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
        runs: dict[bool, Run] = {}
        try:
            for training in (False, True):
                _set_mode(network, training)
                runs[training] = _logits(network, images), _buffers(network)
                _restore(network, saved)
        except Exception as error:  # the code of a library may fail in any way
            reason = in_a_line(error)
            _restore(network, saved)
            continue
        logits = runs[False][0]
        if not (logits[0] - logits[1]).abs().max() > SENSITIVITY * logits.abs().max():  # or not finite
            raise GraphError(
                'with random weights its logits do not depend on the image, so it cannot be checked'
            )
        _set_mode(network, training=False)
        return images, runs
    raise GraphError(f'it does not run with random weights ({reason})')


def _unused_that_matter(network: nn.Module, used: set[str], images: Tensor, logits: Tensor) -> list[str]:
    """Return the entries of the network that no part has, if they change the logits."""
    state = network.state_dict()
    unused = [key for key in state if key not in used and state[key].is_floating_point()]
    for key in unused:
        state[key].add_(1)
    return unused if unused and not torch.equal(_logits(network, images), logits) else []


def _lost(split: Dissection) -> str:
    """Return the operations that were not recorded, in brackets."""
    names = ', '.join(describe_write(node) for node in split.lost[:3])
    return f' (not recorded: {names})' if names else ''


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    """Return the logits without dropout; networks with auxiliary classifiers return several in training,
    these first.
    """
    with mock.patch.object(F, 'dropout', lambda x, *_, **__: x):
        logits = network(images.clone())
    return logits if isinstance(logits, Tensor) else next(iter(logits))


def _set_mode(network: nn.Module, training: bool) -> None:
    """Set the mode; dropout and stochastic depth stay off."""
    network.train(training)
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd) or type(module).__name__ in RECIPE:
            module.eval()


def _buffers(network: nn.Module) -> dict[str, Tensor]:
    return {name: buffer.clone() for name, buffer in network.named_buffers()}


def _restore(network: nn.Module, saved: Mapping[str, Tensor]) -> None:
    for name, buffer in network.named_buffers():
        buffer.copy_(saved[name])


def _equal(a: Tensor, b: Tensor) -> bool:
    """Return True if two results are equal up to the rounding of float64."""
    if a.shape != b.shape or not a.is_floating_point():
        return torch.equal(a, b)
    return not a.numel() or bool((a - b).abs().max() <= TOLERANCE * a.abs().max())


@contextmanager
def _float64() -> Iterator[None]:
    """Compute in float64 on the CPU, without gradients."""
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad(), torch.device('cpu'):
            yield
    finally:
        torch.set_default_dtype(dtype)
