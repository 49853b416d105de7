"""Costs of a network or a detector: parameters, multiply-adds, memory traffic.

The multiply-adds of convolutions and fully connected layers are counted for one image; papers call them
"FLOPs". A multiply and its add count as one. Biases, BN, activations, pooling, sums and operators without
weights (NMS, RoIAlign) are not counted. Nothing is computed: the network runs on PyTorch's meta device,
whose tensors have no data.

>>> arch_costs('menet_228_12x1_g3')['macs']
144092352
"""

from __future__ import annotations

import copy
import functools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701, torch has no public name for it

from backbones import build_classifier, get_arch, list_archs
from backbones.base import family_of
from backbones.libraries.reparameterize import reparameterize
from backbones.spec import COUNTING_CONVENTIONS, Arch, UnknownArchError
from backbones.wiring import halves
from compactdet.errors import UserError

aten = torch.ops.aten
DEFAULT_SIZE = 224
CONV_FC, _ = COUNTING_CONVENTIONS

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

    Attributes:
        part: Name under which the next layers are counted.
        costs: ``{part: costs}``.
        elementwise: Operations without weights, counted as by the tool of CondenseNet's authors: one per
            input element of a ReLU, one per element of each average-pooling window, two per input element
            of a sigmoid.
    """

    def __init__(self) -> None:
        super().__init__()
        self.part = ''
        self.costs: dict[str, LayerCosts] = defaultdict(LayerCosts)
        self.elementwise = 0

    @property
    def macs(self) -> int:
        """Multiply-adds of all parts."""
        return sum(costs.macs for costs in self.costs.values())

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
        elif packet in (aten.addmm, aten.mm):
            x, weight = args[-2:]
            self._add(x.numel() * weight.shape[1], x, weight, out)
        elif packet in ELEMENTWISE:
            self.elementwise += ELEMENTWISE[packet](args[0], out, *args[1:])
        return out

    def _add(self, macs: int, x: Tensor, weight: Tensor, out: Tensor) -> None:
        costs = self.costs[self.part]
        costs.macs += macs
        costs.activations_read += x.numel()
        costs.activations_written += out.numel()
        costs.weights_read += weight.numel()


def count(module: nn.Module, *inputs: Any) -> LayerCounter:
    """Count the costs of a forward pass for each direct child of a module.

    Operators outside all children are counted under the name ''. The mode, weights and device of the module
    are not changed.
    """
    if not all(tensor.is_meta for tensor in module.state_dict().values()):
        module = copy.deepcopy(module).to('meta')
    modes = {part: part.training for part in module.modules()}
    module.eval()
    counter = LayerCounter()
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
    return counter


def num_params(params: Iterable[Tensor]) -> int:
    """Return the number of scalars of some tensors."""
    return sum(p.numel() for p in params)


class ArchCosts(TypedDict):
    """Costs of a network for one image: a row of the cost table, written as JSON and CSV.

    Learned sparsity and branches that can be merged are in their test-time form, except for ``training_*``.

    Attributes:
        arch: Registered name.
        family: Name of the class that builds the network.
        paper: Source of the network: arXiv id and table.
        size: Height and width of the image in pixels.
        params: Parameters of the classifier with the published number of classes.
        macs: Its multiply-adds.
        backbone_params: Parameters without the classifier's head.
        backbone_macs: Multiply-adds without the classifier's head.
        strides: Channels of the feature map by stride.
        stage_macs: Multiply-adds by part: 'stem', 'stage4', ..., 'head'.
        activations_read: Elements of the layers' inputs.
        activations_written: Elements of the layers' outputs.
        weights_read: Elements of the layers' weights.
        training_params: Parameters in training form.
        training_macs: Multiply-adds in training form.
        paper_mflops: Published cost in millions; None if the paper states none.
        paper_params_m: Published number of parameters in millions; None if the paper states none.
        paper_size: Input size of the paper.
        paper_convention: What the paper counts: a key of ``COUNTING_CONVENTIONS``.
        paper_size_macs: Cost at the input size and in the convention of the paper.
        difference_percent: Excess of ``paper_size_macs`` over ``paper_mflops`` in percent; None if the
            paper states no cost.
        cost_note: Reason of the difference.
    """

    arch: str
    family: str
    paper: str
    size: int
    params: int
    macs: int
    backbone_params: int
    backbone_macs: int
    strides: dict[str, int]
    stage_macs: dict[str, int]
    activations_read: int
    activations_written: int
    weights_read: int
    training_params: int
    training_macs: int
    paper_mflops: float | None
    paper_params_m: float | None
    paper_size: int
    paper_convention: str
    paper_size_macs: int
    difference_percent: float | None
    cost_note: str


def arch_costs(name: str | Arch, size: int | None = None) -> ArchCosts:
    """Return the costs of a network.

    Args:
        name: A name from ``list_archs()``, a ``LIBRARY:NAME``, or a row.
        size: Height and width of the image; None for 224, or the published size if that is smaller.

    Raises:
        UnknownArchError: There is no such network.
        UserError: The image is smaller than the last stride of the network.
    """
    arch = get_arch(name)
    size = size or min(DEFAULT_SIZE, arch.input_size)
    if size < arch.stages[-1].stride:
        raise UserError(
            f'size {size} is smaller than the last stride of {arch.name}, {arch.stages[-1].stride}'
        )
    sparse = has_learned_sparsity(arch.name)
    image, published_image = (torch.empty(1, 3, n, n, device='meta') for n in (size, arch.input_size))
    with torch.device('meta'):
        model = build_classifier(arch, conventions={'sparsity': 'converted'} if sparse else None)
        two_forms = reparameterize(model) or sparse
        training = build_classifier(arch) if two_forms else model
    counted = trained = at_published_size = count(model, image)
    if two_forms:
        trained = count(training, image)
    if arch.input_size != size:
        at_published_size = count(model, published_image)
    parts = counted.costs
    macs = counted.macs
    paper_macs = at_published_size.macs
    if arch.paper_convention != CONV_FC:
        paper_macs += at_published_size.elementwise
    difference = 100 * (paper_macs / 1e6 / arch.paper_mflops - 1) if arch.paper_mflops else None
    return {
        'arch': arch.name,
        'family': arch.family,
        'paper': arch.paper,
        'size': size,
        'params': num_params(model.parameters()),
        'macs': macs,
        'backbone_params': num_params(model.parameters()) - num_params(model.head.parameters()),
        'backbone_macs': macs - parts['head'].macs,
        'strides': {str(stride): channels for stride, channels in arch.strides.items()},
        'stage_macs': {part: costs.macs for part, costs in parts.items()},
        'activations_read': sum(costs.activations_read for costs in parts.values()),
        'activations_written': sum(costs.activations_written for costs in parts.values()),
        'weights_read': sum(costs.weights_read for costs in parts.values()),
        'training_params': num_params(training.parameters()),
        'training_macs': trained.macs,
        'paper_mflops': arch.paper_mflops,
        'paper_params_m': arch.paper_params_m,
        'paper_size': arch.input_size,
        'paper_convention': arch.paper_convention,
        'paper_size_macs': paper_macs,
        'difference_percent': None if difference is None else round(difference, 2),
        'cost_note': arch.cost_note,
    }


def select_archs(patterns: list[str]) -> list[str]:
    """Return the names of the networks that match any of the patterns, each once.

    Raises:
        UserError: A pattern matches nothing. The message lists similar names.
    """
    names: dict[str, None] = {}
    for pattern in patterns or ['*']:
        matches = list_archs(pattern)
        if not matches:
            try:
                get_arch(pattern)
            except UnknownArchError as error:
                raise UserError(str(error)) from None
        names.update(dict.fromkeys(matches))
    return list(names)


def has_learned_sparsity(name: str) -> bool:
    """Return True if a network has learned sparsity, in a training form and a test-time form."""
    return 'sparsity' in family_of(get_arch(name)).takes_conventions


@functools.cache
def has_two_forms(name: str) -> bool:
    """Return True if a network's test-time form is another: learned sparsity, or branches to merge."""
    if has_learned_sparsity(name):
        return True
    with torch.device('meta'):
        return reparameterize(build_classifier(name))


@dataclass(frozen=True)
class DetectorCosts:
    """Costs of a detector for one image.

    Attributes:
        height: Height of the padded image in pixels.
        width: Width of the padded image in pixels.
        backbone_macs: Multiply-adds of backbone and neck.
        dense_head_macs: Multiply-adds of the RPN, or of the only head of a single-stage detector.
        roi_head_macs_per_proposal: Multiply-adds of the RoI head for one proposal; 0 without RoI head.
        num_proposals: Number of proposals at test; 0 without RoI head.
        backbone_params: Parameters of backbone and neck.
        dense_head_params: Parameters of the RPN, or of the only head of a single-stage detector.
        roi_head_params: Parameters of the RoI head; 0 without RoI head.
    """

    height: int
    width: int
    backbone_macs: int
    dense_head_macs: int
    roi_head_macs_per_proposal: int
    num_proposals: int
    backbone_params: int
    dense_head_params: int
    roi_head_params: int

    @property
    def roi_head_macs(self) -> int:
        """Multiply-adds of the RoI head for all proposals."""
        return self.roi_head_macs_per_proposal * self.num_proposals

    @property
    def total_macs(self) -> int:
        """Multiply-adds of the whole detector."""
        return self.backbone_macs + self.dense_head_macs + self.roi_head_macs

    @property
    def total_params(self) -> int:
        """Parameters of the whole detector."""
        return self.backbone_params + self.dense_head_params + self.roi_head_params


def detector_costs(
    detector: Mapping[str, Any], height: int, width: int, *, test_time: bool = True
) -> DetectorCosts:
    """Return the costs of an MMDetection detector for one image.

    Args:
        detector: The config of a two-stage detector with one RoI head, or of a single-stage one.
        height: Height of the padded image in pixels.
        width: Width of the padded image in pixels.
        test_time: Whether learned sparsity and branches that can be merged are counted in their test-time
            form; False counts the form that the config has.
    """
    cfg = ConfigDict(copy.deepcopy(dict(detector)))
    for half in halves(cfg) if test_time else ():
        if 'arch' in half and has_learned_sparsity(half['arch']):
            half['conventions'] = {**(half.get('conventions') or {}), 'sparsity': 'converted'}
    with DefaultScope.overwrite_default_scope('mmdet'):  # needed to look up classes by name
        model: Any = MODELS.build(cfg).to('meta').eval()
    if test_time:
        reparameterize(model)
    roi_head = getattr(model, 'roi_head', None)
    dense_head = model.bbox_head if roi_head is None else model.rpn_head

    maps, backbone_macs = _macs(model.extract_feat, torch.empty(1, 3, height, width, device='meta'))
    _, dense_macs = _macs(dense_head, maps)
    per_proposal = num_proposals = 0
    if roi_head is not None:
        extractor = roi_head.bbox_roi_extractor
        size = extractor.roi_layers[0].output_size
        roi = torch.empty(1, extractor.out_channels, *size, device='meta')
        shared = 0
        if roi_head.with_shared_head:
            roi, shared = _macs(roi_head.shared_head, roi)
        per_proposal = shared + _macs(roi_head.bbox_head, roi)[1]
        num_proposals = model.test_cfg.rpn.max_per_img

    dense_params = num_params(dense_head.parameters())
    roi_params = num_params(roi_head.parameters()) if roi_head is not None else 0
    return DetectorCosts(
        height=height,
        width=width,
        backbone_macs=backbone_macs,
        dense_head_macs=dense_macs,
        roi_head_macs_per_proposal=per_proposal,
        num_proposals=num_proposals,
        backbone_params=num_params(model.parameters()) - dense_params - roi_params,
        dense_head_params=dense_params,
        roi_head_params=roi_params,
    )


def _macs(function: Callable[..., Any], *inputs: Any) -> tuple[Any, int]:
    """Return the outputs and the multiply-adds of a function."""
    with torch.no_grad(), LayerCounter() as counter:
        outputs = function(*inputs)
    return outputs, counter.macs
