"""Choice of the batched heads for a detector's config."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

# These imports register the classes.
from compactdet.heads import detectors, retina_head, roi_head, rpn_head  # noqa: F401

# Options of MMDetection's assigner that the batched one has.
ASSIGNER_OPTIONS = {
    'type', 'pos_iou_thr', 'neg_iou_thr', 'min_pos_iou', 'match_low_quality', 'ignore_iof_thr',
}  # fmt: skip
SAMPLER_OPTIONS = {'type', 'num', 'pos_fraction', 'neg_pos_ub', 'add_gt_as_proposals'}
CODER_OPTIONS = {'type', 'target_means', 'target_stds', 'clip_border'}
CLASS_LOSS_OPTIONS = {'type', 'use_sigmoid', 'loss_weight'}
ELEMENTWISE = ('L1Loss', 'SmoothL1Loss')  # losses of boxes that are a mean over coordinates
PREPROCESSOR_OPTIONS = {
    'type', 'mean', 'std', 'pad_size_divisor', 'pad_value', 'bgr_to_rgb', 'rgb_to_bgr',
}  # fmt: skip


def with_batched_heads(model: Mapping[str, Any]) -> Any:
    """Return a detector's config with the batched classes in place of MMDetection's.

    The result has the same parameters and the same names of them. The config is returned unchanged if one
    of its parts is none of those that the batched classes equal: other heads, losses, assigners, samplers.
    """
    if not _is_batchable(model):
        return model
    batched: Any = copy.deepcopy(model)
    batched['data_preprocessor']['type'] = 'BatchedDataPreprocessor'
    if batched['type'] == 'RetinaNet':
        batched['type'] = 'BatchedRetinaNet'
        batched['bbox_head']['type'] = 'BatchedRetinaHead'
    else:
        batched['type'] = 'BatchedFasterRCNN'
        batched['rpn_head']['type'] = 'BatchedRPNHead'
        batched['roi_head']['type'] = 'BatchedRoIHead'
        batched['roi_head']['bbox_roi_extractor']['type'] = 'BatchedRoIExtractor'
    return batched


def _is_batchable(model: Mapping[str, Any]) -> bool:
    preprocessor = model.get('data_preprocessor') or {}
    if preprocessor.get('type') != 'DetDataPreprocessor' or {*preprocessor} - PREPROCESSOR_OPTIONS:
        return False
    train = model.get('train_cfg') or {}
    if model.get('type') == 'RetinaNet':
        head = model['bbox_head']
        return (
            head['type'] == 'RetinaHead'
            and _plain_boxes(head)
            and _is(head.get('loss_cls'), 'FocalLoss')
            and _is(train.get('assigner'), 'MaxIoUAssigner', ASSIGNER_OPTIONS)
            and _is(train.get('sampler'), 'PseudoSampler')
        )
    if model.get('type') != 'FasterRCNN':
        return False
    rpn, roi = model['rpn_head'], model['roi_head']
    parts = (train.get('rpn') or {}, train.get('rcnn') or {})
    return (
        rpn['type'] == 'RPNHead'
        and roi['type'] == 'StandardRoIHead'
        and not {*roi} & {'mask_head', 'mask_roi_extractor'}
        and roi['bbox_head']['type'] in ('BBoxHead', 'Shared2FCBBoxHead')
        and roi['bbox_roi_extractor']['type'] == 'SingleRoIExtractor'
        and _is(roi['bbox_roi_extractor'].get('roi_layer'), 'RoIAlign')
        and _plain_boxes(rpn)
        and _plain_boxes(roi['bbox_head'])
        and _is(rpn.get('loss_cls'), 'CrossEntropyLoss', CLASS_LOSS_OPTIONS)
        and rpn['loss_cls'].get('use_sigmoid') is True
        and _is(roi['bbox_head'].get('loss_cls'), 'CrossEntropyLoss', CLASS_LOSS_OPTIONS)
        and not roi['bbox_head']['loss_cls'].get('use_sigmoid')
        and _is((train.get('rpn_proposal') or {}).get('nms'), 'nms', {'type', 'iou_threshold'})
        and all(_is(part.get('assigner'), 'MaxIoUAssigner', ASSIGNER_OPTIONS) for part in parts)
        and all(_is(part.get('sampler'), 'RandomSampler', SAMPLER_OPTIONS) for part in parts)
    )


def _plain_boxes(head: Mapping[str, Any]) -> bool:
    """Return True if a head has the usual targets and an elementwise loss of boxes."""
    return (
        _is(head.get('bbox_coder'), 'DeltaXYWHBBoxCoder', CODER_OPTIONS)
        and (head.get('loss_bbox') or {}).get('type') in ELEMENTWISE
        and not head.get('reg_decoded_bbox')
    )


def _is(part: Mapping[str, Any] | None, name: str, options: set[str] | None = None) -> bool:
    return part is not None and part.get('type') == name and (options is None or not {*part} - options)
