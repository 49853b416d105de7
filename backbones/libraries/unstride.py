"""Remove the strides of a part of a network, for Faster R-CNN C4's stage head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from backbones.libraries.tracing import GraphError, in_a_line


def unstride(part: fx.GraphModule, channels: int, side: int = 7) -> None:
    """Give every layer of a part stride 1 and the padding that keeps the map size.

    Parameters and their shapes do not change. A pool with windows that do not overlap becomes the identity,
    unless its only window is the whole map. Padding that cannot be symmetric (2x2 convolutions) is added at
    the bottom and the right.

    Args:
        part: The part, with its own modules.
        channels: Channels of its input.
        side: Side of the square map for a trial, in pixels.

    Raises:
        GraphError: Another operation changes the map size.
    """
    for node in [*part.graph.nodes]:
        _pool_as_module(part, node)
        shape = node.meta.get('shape') or ()
        if node.op == 'call_module' and shape[2:] != (1, 1):
            module = part.get_submodule(str(node.target))
            for layer in module.modules():
                _unstride_layer(layer, part.graph if layer is module else None, node)
    part.recompile()
    device = next(iter(part.parameters())).device
    mode = part.training
    try:
        with torch.no_grad():
            out = fx.Interpreter(part.eval()).run(torch.zeros(1, channels, side, side, device=device))
    except Exception as error:
        raise GraphError(f'its layers do not fit together with stride 1 ({in_a_line(error)})') from error
    finally:
        part.train(mode)
    out = out if isinstance(out, Tensor) else out[0]
    if out.shape[-2:] != (side, side):
        size = 'x'.join(map(str, out.shape[-2:]))
        raise GraphError(f'with stride 1 in all its layers it makes a {size} map of a {side}x{side} one')


def _pool_as_module(part: fx.GraphModule, node: fx.Node) -> None:
    """Replace a call of a pooling function by a layer."""
    pools: dict[str, Any] = {'max_pool2d': nn.MaxPool2d, 'avg_pool2d': nn.AvgPool2d}
    name = getattr(node.target, '__name__', '')
    if node.op == 'call_function' and name in pools:
        options: Any = {k: v for k, v in node.kwargs.items() if k != 'return_indices'}
        args: Any = node.args[1:]
        part.add_module(f'{node.name}_layer', pools[name](*args, **options))
        node.op, node.target = 'call_module', f'{node.name}_layer'
        node.args, node.kwargs = node.args[:1], {}


def _unstride_layer(layer: Any, graph: fx.Graph | None, node: fx.Node) -> None:
    stride = getattr(layer, 'stride', None)
    if not _pair(stride) or max(_pair(stride)) == 1:
        return
    if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d) and _pair(layer.kernel_size) == _pair(stride):
        layer.kernel_size, layer.padding = 1, 0
    layer.stride = 1 if isinstance(stride, int) else tuple(1 for _ in _pair(stride))
    if type(layer) not in (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d):
        return  # it pads itself; otherwise the trial fails
    dilation = _pair(getattr(layer, 'dilation', 1))
    totals = [d * (k - 1) for k, d in zip(_pair(layer.kernel_size), dilation, strict=True)]
    if [2 * p for p in _pair(layer.padding)] == totals:
        return
    if any(total % 2 for total in totals):
        if graph is None or not isinstance(layer, nn.Conv2d):
            return
        (height, width), layer.padding = totals, (0, 0)
        pads = (width // 2, width - width // 2, height // 2, height - height // 2)
        with graph.inserting_before(node):
            padded = graph.call_function(F.pad, (node.args[0], pads))
        node.update_arg(0, padded)
        return
    layer.padding = tuple(total // 2 for total in totals)
    layer.count_include_pad = False  # of an average pool


def _pair(value: Any) -> tuple[int, ...]:
    """Return a layer's setting for height and width; () if it has none."""
    if isinstance(value, int):
        return (value, value)
    return tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else ()
