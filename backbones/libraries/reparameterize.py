"""Merge the parallel branches of networks that are trained with more layers than they need.

MobileOne, RepViT, RepVGG and RepGhost sum several linear branches of one map: convolutions with batch
normalization, and the map itself. At test time the sum is one convolution. The merge works on recorded
layers, so it holds for every such network of the libraries.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

ADD = (operator.add, operator.iadd, torch.add)
Norm = nn.BatchNorm1d | nn.BatchNorm2d


@dataclass(frozen=True)
class _Branch:
    """A linear function of a map: layer(norm(source)) or norm(layer(source)); either may be missing."""

    source: fx.Node
    layer: nn.Conv2d | nn.Linear | None = None
    before: Norm | None = None
    after: Norm | None = None
    target: str = ''


def reparameterize(network: nn.Module) -> bool:
    """Merge parallel branches in place, and then fold batch normalization into convolutions.

    Args:
        network: Any module. Only recorded parts (``fx.GraphModule``) are changed; it is put in evaluation
            mode if it has branches to merge.

    Returns:
        Whether there was anything to merge; if not, the network is unchanged.
    """
    parts = [module for module in network.modules() if isinstance(module, fx.GraphModule)]
    merged = [_merge_all(part) for part in parts]
    if not any(merged):
        return False
    for part in parts:
        _fold_all(part)
        part.graph.eliminate_dead_code()
        part.delete_all_unused_submodules()
        part.recompile()
    network.eval()
    return True


def _merge_all(part: fx.GraphModule) -> bool:
    """Merge every sum of branches of one map; return whether there was one."""
    merged = False
    for node in [*part.graph.nodes]:
        if node.op != 'call_function' or node.target not in ADD or _inside_a_sum(node):
            continue
        terms = [term for term in _terms(node) if term != 0]
        branches = _branches(part, terms)
        layer = _merge(branches) if branches else None
        if layer is not None:
            merged = merged or len(branches) > 1
            _replace(part, node, layer, branches)
    return merged


def _inside_a_sum(node: fx.Node) -> bool:
    users = [*node.users]
    return len(users) == 1 and users[0].op == 'call_function' and users[0].target in ADD


def _terms(node: Any) -> list[Any]:
    """Return the summands of a node: other nodes, or numbers."""
    is_sum = isinstance(node, fx.Node) and node.op == 'call_function' and node.target in ADD
    return [term for arg in node.args for term in _summands(arg)] if is_sum else [node]


def _summands(arg: Any) -> list[Any]:
    return _terms(arg) if isinstance(arg, fx.Node) and len(arg.users) == 1 else [arg]


def _branches(part: fx.GraphModule, terms: list[Any]) -> list[_Branch]:
    """Return the branches of a sum; [] if they are not branches of one map, or need no merging."""
    if not all(isinstance(term, fx.Node) for term in terms):
        return []
    found = [_branch(part, term) for term in terms]
    sources = {branch.source for branch in found if branch.layer is not None}
    if len(sources) != 1:
        return []
    (source,) = sources
    branches = [
        branch if branch.layer is not None or branch.source is source else _Branch(term)
        for branch, term in zip(found, terms, strict=True)
    ]
    layers = sum(branch.layer is not None for branch in branches)
    norms = sum(branch.layer is None and branch.after is not None for branch in branches)
    same = all(branch.source is source for branch in branches)
    # One convolution beside the map itself is a residual block, not a form for training only.
    return branches if same and (len(branches) == 1 or layers > 1 or norms) else []


def _branch(part: fx.GraphModule, node: fx.Node) -> _Branch:
    """Return the longest branch that ends at a node; the map itself if there is none."""
    place: Any = node
    after = layer = before = None
    target = ''
    module = _module(part, place)
    if isinstance(module, Norm) and _is_linear(module):
        after, place = module, place.args[0]
        module = _module(part, place)
    if isinstance(module, nn.Conv2d | nn.Linear):
        layer, target, place = module, str(place.target), place.args[0]
        module = _module(part, place)
        if isinstance(layer, nn.Linear) and isinstance(module, Norm) and _is_linear(module):
            before, place = module, place.args[0]
    return _Branch(place, layer, before, after, target)


def _module(part: fx.GraphModule, node: Any) -> nn.Module | None:
    """Return the module that a node calls, if nothing else calls it or uses its output."""
    if not isinstance(node, fx.Node) or node.op != 'call_module' or len(node.users) != 1:
        return None
    calls = sum(other.op == 'call_module' and other.target == node.target for other in part.graph.nodes)
    return part.get_submodule(str(node.target)) if calls == 1 else None


def _is_linear(norm: nn.Module) -> bool:
    """Return False for timm's batch normalization with an activation."""
    return isinstance(getattr(norm, 'act', None), nn.Identity | None) and norm.running_var is not None


def _merge(branches: list[_Branch]) -> nn.Conv2d | nn.Linear | None:
    """Return one layer that computes the sum of branches, or None if their shapes do not allow it."""
    layers = [branch.layer for branch in branches if branch.layer is not None]
    if all(isinstance(layer, nn.Linear) for layer in layers) and len(layers) == len(branches):
        weights, biases = zip(*(_affine(branch) for branch in branches), strict=True)
        return _layer_like(layers[0], sum(weights), sum(biases))
    convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    if len(convs) != len(layers) or not all(_is_centered(conv) for conv in convs):
        return None
    largest = max(convs, key=lambda conv: conv.kernel_size)
    shapes = {(conv.stride, conv.groups, conv.in_channels, conv.out_channels) for conv in convs}
    keeps = largest.stride == (1, 1) and largest.in_channels == largest.out_channels
    if len(shapes) > 1 or (len(layers) < len(branches) and not keeps):
        return None
    height, width = largest.kernel_size
    weight = torch.zeros_like(largest.weight, dtype=torch.float64)
    bias = torch.zeros(largest.out_channels, dtype=torch.float64, device=weight.device)
    for branch in branches:
        if branch.layer is None:
            own, shift = _identity(branch, largest)
        else:
            own, shift = _affine(branch)
        rows, columns = (height - own.shape[2]) // 2, (width - own.shape[3]) // 2
        weight += F.pad(own, (columns, columns, rows, rows))
        bias += shift
    return _layer_like(largest, weight, bias)


def _is_centered(conv: nn.Conv2d) -> bool:
    """Return True if the kernel's center is on the output's place in a map that is not padded."""
    half = tuple((side - 1) // 2 for side in conv.kernel_size)
    odd = all(side % 2 for side in conv.kernel_size)
    return type(conv) is nn.Conv2d and odd and conv.padding == half and conv.dilation == (1, 1)


def _affine(branch: _Branch) -> tuple[Tensor, Tensor]:
    """Return weight and bias, float64, of a branch that has a layer."""
    layer = branch.layer
    assert layer is not None
    weight = layer.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double()
    if branch.before is not None:
        scale, shift = _scale_and_shift(branch.before)
        bias, weight = bias + weight @ shift, weight * scale
    if branch.after is not None:
        scale, shift = _scale_and_shift(branch.after)
        weight = weight * scale.view(-1, *(1,) * (weight.ndim - 1))
        bias = bias * scale + shift
    return weight, bias


def _identity(branch: _Branch, like: nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Return weight (1x1) and bias of a map that is added, normalized or not."""
    channels = like.out_channels
    scale = torch.ones(channels, dtype=torch.float64, device=like.weight.device)
    shift = torch.zeros_like(scale)
    if branch.after is not None:
        scale, shift = _scale_and_shift(branch.after)
    width = channels // like.groups
    weight = torch.zeros(channels, width, 1, 1, dtype=torch.float64, device=like.weight.device)
    channel = torch.arange(channels, device=like.weight.device)
    weight[channel, channel % width, 0, 0] = scale
    return weight, shift


def _scale_and_shift(norm: Norm) -> tuple[Tensor, Tensor]:
    """Return what batch normalization with running statistics multiplies by and adds, float64."""
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None
    assert variance is not None
    scale = (variance.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


def _layer_like(layer: Any, weight: Any, bias: Any) -> nn.Conv2d | nn.Linear:
    """Return a layer of the same shape with other weights, and a bias."""
    kind: Any
    if isinstance(layer, nn.Linear):
        kind = nn.Linear(layer.in_features, layer.out_features, device='meta')
    else:
        options = {'stride': layer.stride, 'padding': layer.padding, 'dilation': layer.dilation}
        kind = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            groups=layer.groups,
            device='meta',
            **options,
        )
    kind.weight, kind.bias = (nn.Parameter(value.to(layer.weight.dtype)) for value in (weight, bias))
    return kind


def _replace(part: fx.GraphModule, node: fx.Node, layer: nn.Module, branches: list[_Branch]) -> None:
    """Put a layer in the place of a sum of branches."""
    target = next(branch.target for branch in branches if branch.layer is not None)
    part.set_submodule(target, layer)
    with part.graph.inserting_before(node):
        new = part.graph.call_module(target, (branches[0].source,))
    node.replace_all_uses_with(new)
    part.graph.eliminate_dead_code()


def _fold_all(part: fx.GraphModule) -> None:
    """Fold each batch normalization that follows a convolution."""
    for node in [*part.graph.nodes]:
        norm = part.get_submodule(str(node.target)) if node.op == 'call_module' else None
        if not isinstance(norm, Norm) or norm.running_var is None:
            continue
        before = node.args[0]
        conv = _module(part, before)
        if isinstance(conv, nn.Conv2d):
            folded = _affine(_Branch(before, conv, after=norm))
            part.set_submodule(str(before.target), _layer_like(conv, *folded))
            part.set_submodule(str(node.target), getattr(norm, 'act', nn.Identity()))
