"""What a network or a detector costs: parameters, multiply-adds, memory traffic.

Counted are convolutions and fully connected layers, for one image: the papers' "FLOPs". A multiply and
its add are one; biases, BN, activations, pooling and sums are free, as is what has no weights (NMS,
RoIAlign). Nothing is computed: the network runs on PyTorch's meta device, which knows shapes only.

>>> arch_costs('menet_228_12x1_g3')['macs']
144092352
"""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmdet.registry import MODELS
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from backbones import build_classifier, get_arch, list_archs
from backbones.base import family_of
from backbones.spec import COUNTING_CONVENTIONS, Arch, UnknownArchError
from backbones.wiring import halves
from compactdet.errors import UserError

aten = torch.ops.aten
PAPERS_SIZE = 224
CONV_FC, _ = COUNTING_CONVENTIONS

# Operations of each kind: (input, output, *arguments) -> number.
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

# On the meta device, PyTorch finds the result's shape of these in Python code that takes milliseconds.
KEEP_SHAPE: dict[Any, Callable[[Tensor], Any]] = {
    aten.native_batch_norm: lambda x: (torch.empty_like(x), x.new_empty(0), x.new_empty(0)),
    **dict.fromkeys((aten.relu, aten.sigmoid, aten.hardswish, aten.silu), torch.empty_like),
    **{op: lambda x: x for op in (aten.relu_, aten.hardtanh_, aten.hardswish_, aten.silu_, aten.sigmoid_)},
}


@dataclass
class Costs:
    """What a group of layers costs for one forward pass.

    The sum of the last three, in elements, is the memory-access cost of the ShuffleNet v2 paper (Ma et
    al. 2018, arXiv:1807.11164): h w (c1 + c2) + c1 c2 / g for a 1x1 convolution.

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
    """Counts every convolution and fully connected layer that runs inside the context.

    Attributes:
        part: What the next layers are booked under.
        costs: ``{part: costs}``.
        elementwise: Operations without weights, as the CondenseNet authors' tool counts them: one for
            each element that enters a ReLU, one for each element of each average-pooling window, two for
            each element that enters a sigmoid.
    """

    def __init__(self) -> None:
        super().__init__()
        self.part = ''
        self.costs: dict[str, Costs] = defaultdict(Costs)
        self.elementwise = 0

    @property
    def macs(self) -> int:
        """Multiply-adds of all parts."""
        return sum(costs.macs for costs in self.costs.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Runs an operator and books it if it is a layer."""
        packet = func.overloadpacket
        if packet in KEEP_SHAPE and args[0].is_meta:
            out = KEEP_SHAPE[packet](args[0])
        else:
            out = func(*args, **(kwargs or {}))
        if packet is aten.convolution:
            x, weight, transposed = args[0], args[1], args[6]
            # each output element (each input element of a transposed one) meets one filter
            self._book((x if transposed else out).numel() * math.prod(weight.shape[1:]), x, weight, out)
        elif packet in (aten.addmm, aten.mm):
            x, weight = args[-2:]
            self._book(x.numel() * weight.shape[1], x, weight, out)
        elif packet in ELEMENTWISE:
            self.elementwise += ELEMENTWISE[packet](args[0], out, *args[1:])
        return out

    def _book(self, macs: int, x: Tensor, weight: Tensor, out: Tensor) -> None:
        costs = self.costs[self.part]
        costs.macs += macs
        costs.activations_read += x.numel()
        costs.activations_written += out.numel()
        costs.weights_read += weight.numel()


def count(module: nn.Module, *inputs: Any) -> LayerCounter:
    """Costs of a forward pass by direct child: their names are the parts, '' is what runs in no child.

    The module's mode, weights and device are left as they are.
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
    """Number of scalars, buffers not counted where ``params`` comes from ``Module.parameters``."""
    return sum(p.numel() for p in params)


def arch_costs(name: str | Arch, size: int | None = None) -> dict[str, Any]:
    """One network's row of the cost table, ready for JSON.

    ``params`` and ``macs`` are the classifier's with the paper's number of classes, ``backbone_*``
    without its head; ``stage_macs`` splits ``macs`` by part. What is compared with the paper's figure is
    ``paper_size_macs``: counted at the paper's input size and in the paper's convention. A network with
    learned sparsity is costed in its test-time form; ``training_params`` and ``training_macs`` are the
    other form's.

    Args:
        name: A name from ``list_archs()``, one an adapter knows, or a row.
        size: Height and width of the image; None is 224, or the paper's own size where that is less.

    Raises:
        UnknownArchError: No such arch.
        UserError: The image is smaller than the network's last stride.
    """
    arch = get_arch(name)
    size = size or min(PAPERS_SIZE, arch.input_size)
    if size < arch.stages[-1].stride:
        raise UserError(
            f'size {size} is smaller than the last stride of {arch.name}, {arch.stages[-1].stride}'
        )
    sparse = has_two_forms(arch.name)
    image, papers_image = (torch.empty(1, 3, n, n, device='meta') for n in (size, arch.input_size))
    with torch.device('meta'):
        model = build_classifier(arch, conventions={'sparsity': 'converted'} if sparse else None)
        training = build_classifier(arch) if sparse else model
    counted = trained = at_papers = count(model, image)
    if sparse:
        trained = count(training, image)
    if arch.input_size != size:
        at_papers = count(model, papers_image)
    parts = counted.costs
    macs = counted.macs
    paper_macs = at_papers.macs
    if arch.paper_convention != CONV_FC:
        paper_macs += at_papers.elementwise
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


def select(patterns: list[str]) -> list[str]:
    """Names that match any of the patterns, each once.

    Raises:
        UserError: A pattern matches nothing; says what comes near.
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


def has_two_forms(name: str) -> bool:
    """Whether a network's family has learned sparsity: it trains dense and ends sparse."""
    return 'sparsity' in family_of(get_arch(name)).takes_conventions


def detector_costs(
    detector: Mapping[str, Any], height: int, width: int, *, test_time: bool = True
) -> dict[str, Any]:
    """What an MMDetection detector costs on one image, as ``record.json`` stores it.

    Learned sparsity is costed in its test-time form, whichever form the detector has: they compute the
    same. ``backbone_macs`` includes a neck. ``rpn_macs`` is the dense head's: the RPN or, in a single-stage
    detector, its only head, whose RoI figures are 0. The RoI head runs once a proposal, on
    ``test_cfg.rpn.max_per_img`` of them.

    Args:
        detector: The config of a two-stage detector with one RoI head, or of a single-stage one.
        height: Of the padded image, pixels.
        width: Of the padded image, pixels.
        test_time: False costs learned sparsity in the form that the detector has.
    """
    cfg = ConfigDict(copy.deepcopy(dict(detector)))
    for half in halves(cfg) if test_time else ():
        if 'arch' in half and has_two_forms(half['arch']):
            half['conventions'] = {**(half.get('conventions') or {}), 'sparsity': 'converted'}
    with DefaultScope.overwrite_default_scope('mmdet'):  # whose names MMEngine's parts look up
        model: Any = MODELS.build(cfg).to('meta').eval()
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

    roi_macs = per_proposal * num_proposals
    total_params = num_params(model.parameters())
    dense_params = num_params(dense_head.parameters())
    roi_params = num_params(roi_head.parameters()) if roi_head is not None else 0
    return {
        'height': height,
        'width': width,
        'backbone_macs': backbone_macs,
        'rpn_macs': dense_macs,
        'roi_head_macs_per_proposal': per_proposal,
        'num_proposals': num_proposals,
        'roi_head_macs': roi_macs,
        'total_macs': backbone_macs + dense_macs + roi_macs,
        'params': {
            'backbone': total_params - dense_params - roi_params,
            'rpn': dense_params,
            'roi_head': roi_params,
            'total': total_params,
        },
    }


def _macs(function: Callable[..., Any], *inputs: Any) -> tuple[Any, int]:
    """A function's outputs and multiply-adds."""
    with torch.no_grad(), LayerCounter() as counter:
        outputs = function(*inputs)
    return outputs, counter.macs
