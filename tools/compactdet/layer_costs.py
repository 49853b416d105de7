"""Multiply-adds and memory traffic of the layers that run in a forward pass.

A layer is an operator with weights: a convolution, also a deformable one, or a fully connected layer. A
multiply and its add count as one. Biases, BN, activations, pooling, sums, operators without weights (NMS,
RoIAlign) and products of two feature maps (attention) are not counted. Nothing is computed: the network
runs on PyTorch's meta device, whose tensors have no data.
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision  # noqa: F401 - registers torch.ops.torchvision
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701, torch has no public name for it

from compactdet.errors import UserError

aten = torch.ops.aten
vision = torch.ops.torchvision

# Number of operations of each operator without weights: (input, output, *arguments) -> number.
ELEMENTWISE: dict[Any, Callable[..., int]] = {
    aten.relu: lambda x, out: x.numel(),
    aten.relu_: lambda x, out: x.numel(),
    aten.hardtanh: lambda x, out, *_: x.numel(),
    aten.hardtanh_: lambda x, out, *_: x.numel(),
    aten.hardswish: lambda x, out: x.numel(),  # x ReLU6(x + 3) / 6: its ReLU6 is counted
    aten.hardswish_: lambda x, out: x.numel(),
    aten.avg_pool2d: lambda x, out, kernel, *_: out.numel() * math.prod(kernel),
    aten.mean: lambda x, out, *_: x.numel(),
    aten._adaptive_avg_pool2d: lambda x, out, *_: x.numel(),
    aten.sigmoid: lambda x, out: 2 * x.numel(),
}

# On the meta device, PyTorch needs milliseconds for the output shape of each of these operators.
KEEP_SHAPE: dict[Any, Callable[[Tensor], Any]] = {
    aten.native_batch_norm: lambda x: (torch.empty_like(x), x.new_empty(0), x.new_empty(0)),
    **dict.fromkeys((aten.relu, aten.sigmoid, aten.hardswish, aten.silu), torch.empty_like),
    **{op: lambda x: x for op in (aten.relu_, aten.hardtanh_, aten.hardswish_, aten.silu_, aten.sigmoid_)},
}

# Operators outside PyTorch that have no weights.
WITHOUT_WEIGHTS = (vision.nms, vision.roi_align, vision.roi_pool, vision.ps_roi_align, vision.ps_roi_pool)

# Operators of PyTorch that compute several layers at once.
FUSED = (
    aten._native_multi_head_attention,
    aten._transformer_encoder_layer_fwd,
    aten.mkldnn_rnn_layer,
    aten._thnn_fused_lstm_cell,
    aten._thnn_fused_gru_cell,
)


@dataclass
class LayerCosts:
    """Costs of a group of layers for one forward pass.

    The sum of the last three is the memory access cost of the ShuffleNet v2 paper (Ma et al. 2018,
    arXiv:1807.11164), in elements: h w (c1 + c2) + c1 c2 / g for a 1x1 convolution.

    Attributes:
        macs: Multiply-adds.
        activations_read: Elements of the layers' inputs.
        activations_written: Elements of the layers' outputs.
        weights_read: Elements of the layers' weights.
    """

    macs: int = 0
    activations_read: int = 0
    activations_written: int = 0
    weights_read: int = 0


class LayerCounter(TorchDispatchMode):
    """Count every convolution and fully connected layer that runs inside the context.

    An operator that is not known to be a layer or to have no weights is listed, and its costs are missing:
    see ``check_known``.

    Args:
        module: The network. A batched product with one of its parameters is counted as a layer.

    Attributes:
        part: Name under which the next layers are counted.
        costs: ``{part: costs}``.
        elementwise: Operations without weights, counted as by the tool of CondenseNet's authors: one per
            input element of a ReLU, one per element of each average-pooling window, two per input element
            of a sigmoid.
        unknown: Names of the operators whose costs are not known.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.part = ''
        self.costs: dict[str, LayerCosts] = defaultdict(LayerCosts)
        self.elementwise = 0
        self.unknown: dict[str, None] = {}
        self._parameters = {_storage(parameter) for parameter in module.parameters()}

    @property
    def macs(self) -> int:
        """Multiply-adds of all parts."""
        return sum(costs.macs for costs in self.costs.values())

    def check_known(self) -> None:
        """Raise UserError if an operator with unknown costs ran."""
        if self.unknown:
            raise UserError(f'the multiply-adds of {", ".join(self.unknown)} are not known')

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Run an operator and count it if it is a layer."""
        packet = func.overloadpacket
        if packet in KEEP_SHAPE and args[0].is_meta:
            out = KEEP_SHAPE[packet](args[0])
        else:
            out = func(*args, **(kwargs or {}))
        if packet is aten.convolution:
            x, weight, transposed = args[0], args[1], args[6]
            # One filter per output element, or per input element of a transposed convolution.
            self._add((x if transposed else out).numel() * math.prod(weight.shape[1:]), x, weight, out)
        elif packet is vision.deform_conv2d:
            x, weight = args[:2]
            self._add(out.numel() * math.prod(weight.shape[1:]), x, weight, out)
        elif packet in (aten.addmm, aten.mm):
            x, weight = args[-2:]
            self._add(x.numel() * weight.shape[1], x, weight, out)
        elif packet in (aten.addmv, aten.mv):
            weight, x = args[-2:]
            self._add(weight.numel(), x, weight, out)
        elif packet in (aten.baddbmm, aten.bmm):
            one, other = args[-2:]
            weights = [operand for operand in (one, other) if _storage(operand) in self._parameters]
            if weights:
                x = other if weights[0] is one else one
                self._add(out.numel() * one.shape[-1], x, weights[0], out)
        elif packet in ELEMENTWISE:
            self.elementwise += ELEMENTWISE[packet](args[0], out, *args[1:])
        elif packet in FUSED or (
            func.namespace not in ('aten', 'prim', 'prims') and packet not in WITHOUT_WEIGHTS
        ):
            self.unknown[f'{func.namespace}::{packet.__name__}'] = None
        return out

    def _add(self, macs: int, x: Tensor, weight: Tensor, out: Tensor) -> None:
        costs = self.costs[self.part]
        costs.macs += macs
        costs.activations_read += x.numel()
        costs.activations_written += out.numel()
        costs.weights_read += weight.numel()


def _storage(tensor: Tensor) -> int:
    """Return an identifier of a tensor's storage, which views share."""
    return tensor.untyped_storage()._cdata


def count(module: nn.Module, *inputs: Any) -> LayerCounter:
    """Count the costs of a forward pass for each direct child of a module.

    Operators outside all children are counted under the name ''. The mode, weights and device of the module
    are not changed.

    Raises:
        UserError: The costs of an operator are not known.
    """
    if not all(tensor.is_meta for tensor in module.state_dict().values()):
        module = copy.deepcopy(module).to('meta')
    modes = {part: part.training for part in module.modules()}
    module.eval()
    counter = LayerCounter(module)
    hooks = []
    for name, child in module.named_children():
        hooks.append(child.register_forward_pre_hook(lambda *_, name=name: setattr(counter, 'part', name)))
        hooks.append(child.register_forward_hook(lambda *_: setattr(counter, 'part', '')))
    with torch.no_grad(), counter:
        module(*inputs)
    for hook in hooks:
        hook.remove()
    for part, training in modes.items():
        part.training = training
    counter.check_known()
    return counter


def num_params(params: Iterable[Tensor]) -> int:
    """Return the number of scalars of some tensors."""
    return sum(p.numel() for p in params)
