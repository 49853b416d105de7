"""Costs of a detector: parameters and multiply-adds by part.

A part that cannot be measured, such as a head whose forward pass depends on the detections, is None with
the reason; it is never an error, so that a training of any detector ends with a record.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from torch import nn

from backbones.libraries.reparameterize import reparameterize
from backbones.wiring import halves
from compactdet.costs import has_learned_sparsity
from compactdet.errors import one_line
from compactdet.layer_costs import LayerCounter, num_params
from compactdet.mmdetection import MODELS


@dataclass(frozen=True)
class DetectorCosts:
    """Costs of a detector for one image. None: not measured.

    Attributes:
        height: Height of the padded image in pixels.
        width: Width of the padded image in pixels.
        backbone_macs: Multiply-adds of backbone and neck.
        neck_macs: Multiply-adds of the neck alone; 0 without neck.
        dense_head_macs: Multiply-adds of the RPN, or of the only head of a single-stage detector.
        roi_head_macs_per_proposal: Multiply-adds of the RoI head, in all its stages, for one proposal; 0
            without RoI head.
        num_proposals: Number of proposals at test; 0 without RoI head.
        backbone_params: Parameters of backbone and neck.
        dense_head_params: Parameters of the RPN, or of the only head of a single-stage detector.
        roi_head_params: Parameters of the RoI head; 0 without RoI head.
        total_params: Parameters of the whole detector.
        not_measured: Reason why a part is None, by name of the attribute; 'total_macs' if the detector has
            other parts.
    """

    height: int
    width: int
    backbone_macs: int | None
    neck_macs: int | None
    dense_head_macs: int | None
    roi_head_macs_per_proposal: int | None
    num_proposals: int | None
    backbone_params: int
    dense_head_params: int
    roi_head_params: int
    total_params: int
    not_measured: Mapping[str, str] = field(default_factory=dict)

    @property
    def roi_head_macs(self) -> int | None:
        """Multiply-adds of the RoI head for all proposals."""
        if self.roi_head_macs_per_proposal is None or self.num_proposals is None:
            return None
        return self.roi_head_macs_per_proposal * self.num_proposals

    @property
    def total_macs(self) -> int | None:
        """Multiply-adds of the whole detector."""
        backbone, dense, roi = self.backbone_macs, self.dense_head_macs, self.roi_head_macs
        if backbone is None or dense is None or roi is None or 'total_macs' in self.not_measured:
            return None
        return backbone + dense + roi


def detector_costs(
    detector: Mapping[str, Any], height: int, width: int, *, test_time: bool = True
) -> DetectorCosts:
    """Return the costs of an MMDetection detector for one image.

    Args:
        detector: The config of the detector.
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
    dense_head = getattr(model, 'rpn_head' if roi_head is not None else 'bbox_head', None)
    meter = _Meter(model)

    maps = meter.measure(
        'backbone_macs', model.extract_feat, torch.empty(1, 3, height, width, device='meta')
    )
    if dense_head is None:
        meter.not_measured['dense_head_macs'] = f'a {type(model).__name__} has no dense head'
    else:
        meter.measure('dense_head_macs', dense_head, maps)
    num_proposals: int | None = 0
    if roi_head is None:
        meter.macs['roi_head_macs_per_proposal'] = 0
    else:
        meter.measure('roi_head_macs_per_proposal', _run_roi_head, roi_head, maps)
        num_proposals = (model.test_cfg.get('rpn') or {}).get('max_per_img')
        if num_proposals is None:
            meter.not_measured['num_proposals'] = 'test_cfg.rpn.max_per_img is not set'
    meter.check_all_ran()
    parts = [part for part in (model.backbone, getattr(model, 'neck', None)) if part is not None]
    return DetectorCosts(
        height=height,
        width=width,
        **{name: None if name in meter.not_measured else meter.macs[name] for name in PARTS},
        neck_macs=None if 'backbone_macs' in meter.not_measured else meter.neck_macs,
        num_proposals=num_proposals,
        backbone_params=sum(num_params(part.parameters()) for part in parts),
        dense_head_params=0 if dense_head is None else num_params(dense_head.parameters()),
        roi_head_params=0 if roi_head is None else num_params(roi_head.parameters()),
        total_params=num_params(model.parameters()),
        not_measured=meter.not_measured,
    )


# Measured parts: the attribute of DetectorCosts, and the modules of the detector that it covers.
PARTS = {
    'backbone_macs': ('backbone', 'neck'),
    'dense_head_macs': ('rpn_head', 'bbox_head'),
    'roi_head_macs_per_proposal': ('roi_head',),
}


class _Meter:
    """Measures the parts of a detector on the meta device.

    Attributes:
        macs: Multiply-adds by part.
        neck_macs: Multiply-adds of the neck, a part of 'backbone_macs'.
        not_measured: Reason by part.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.macs: dict[str, int] = {}
        self.not_measured: dict[str, str] = {}
        self.neck_macs = 0
        self._ran: set[nn.Module] = set()
        self._counter: LayerCounter
        for module in model.modules():
            module.register_forward_pre_hook(lambda module, _: self._ran.add(module))
        neck = getattr(model, 'neck', None)
        if neck is not None:
            neck.register_forward_pre_hook(lambda *_: setattr(self._counter, 'part', 'neck'))
            neck.register_forward_hook(lambda *_: setattr(self._counter, 'part', ''))

    def measure(self, part: str, function: Callable[..., Any], *inputs: Any) -> Any:
        """Count a part and return its outputs, None if it cannot be counted or an input is None."""
        if any(x is None for x in inputs):
            self.not_measured[part] = 'the maps of the backbone were not measured'
            return None
        counter = self._counter = LayerCounter(self.model)
        try:
            with torch.no_grad(), counter:
                outputs = function(*inputs)
            counter.check_known()
        except Exception as error:  # a head can need anything: targets, decoded boxes, compiled operators
            self.not_measured[part] = one_line(error)
            return None
        self.macs[part] = counter.macs
        if part == 'backbone_macs':
            self.neck_macs = counter.costs['neck'].macs
        return outputs

    def check_all_ran(self) -> None:
        """Give up the parts with a layer that did not run, since its costs are missing."""
        covered = [m for m in self.model.modules() if isinstance(m, nn.MultiheadAttention)]
        ran = self._ran.union(*(attention.modules() for attention in covered))
        for name, module in self.model.named_modules():
            weights = [p for p in module.parameters(recurse=False) if p.dim() > 1]
            if not weights or module in ran:
                continue
            top = name.partition('.')[0]
            part = next((part for part, modules in PARTS.items() if top in modules), 'total_macs')
            self.not_measured.setdefault(part, f'{name} ({type(module).__name__}) is not measured')


def _run_roi_head(roi_head: Any, maps: Any) -> None:
    """Run the stages of a RoI head, without masks, on one proposal."""
    single = MODELS.get('SingleRoIExtractor')
    for extractor in roi_head.modules():
        if isinstance(extractor, single):  # its choice of a map needs the size of the proposal
            size = extractor.roi_layers[0].output_size
            roi = torch.empty(1, extractor.out_channels, *size, device='meta')
            extractor.forward = lambda *_args, roi=roi, **_kwargs: roi
    box = torch.empty(1, 5, device='meta')
    if not hasattr(roi_head, 'num_stages'):
        roi_head._bbox_forward(maps, box)
        return
    for stage in range(roi_head.num_stages):
        roi_head._bbox_forward(stage, maps, box)
