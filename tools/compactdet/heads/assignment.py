"""Assignment of ground truth to boxes, for all images of a batch.

The rule is that of MMDetection's ``MaxIoUAssigner`` (its numbers and its order of steps), the arithmetic
that of its ``bbox_overlaps``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from compactdet.heads.ground_truth import GroundTruth

_EPS = 1e-6


def assign(boxes: Tensor, usable: Tensor | None, truth: GroundTruth, rule: Mapping[str, Any]) -> Tensor:
    """Return what is assigned to each box, (N, B): object index + 1, 0 for background, -1 for neither.

    Args:
        boxes: (N, B, 4), or (1, B, 4) for the same boxes in every image.
        usable: (N, B), False for boxes that are not assigned anything (-1); None if all are.
        truth: Ground truth of the batch.
        rule: Parameters of ``MaxIoUAssigner``.
    """
    overlaps = _iou(truth.boxes, boxes)
    ignore_above = rule.get('ignore_iof_thr', -1)
    if ignore_above > 0 and truth.ignored.shape[1]:
        covered = _covered_share(boxes, truth) > ignore_above
        overlaps.masked_fill_(covered[:, None], -1)
    overlaps.masked_fill_(~truth.valid[..., None], -1)
    if usable is not None:
        overlaps.masked_fill_(~usable[:, None], -2)

    highest, best = overlaps.max(1)
    any_object = truth.valid.any(1)[:, None]
    highest = torch.where(any_object, highest, 0)
    if usable is not None:
        highest = highest.masked_fill(~usable, -2)
    low, high = _negative_range(rule['neg_iou_thr'])
    # Without objects everything is background, in ignored regions too.
    background = ((highest >= low) & (highest < high)) | (~any_object & (highest >= 0))
    assigned = torch.where(background, 0, -1)
    assigned = torch.where(highest >= rule['pos_iou_thr'], best + 1, assigned)
    if rule.get('match_low_quality', True):
        # Each object takes the boxes that overlap it most; of several objects, the last takes a box.
        most = overlaps.amax(2, keepdim=True)
        taken = (overlaps == most) & (most >= rule.get('min_pos_iou', 0.0)) & truth.valid[..., None]
        number = torch.arange(1, overlaps.shape[1] + 1, device=overlaps.device)
        last = (taken * number[:, None]).amax(1)
        assigned = torch.where(last > 0, last, assigned)
    return assigned


def _negative_range(threshold: float | tuple[float, float]) -> tuple[float, float]:
    return (0.0, threshold) if isinstance(threshold, float | int) else (threshold[0], threshold[1])


def _intersection(one: Tensor, other: Tensor) -> Tensor:
    """Return the intersection areas of boxes (N, K, 4) and (N, B, 4): (N, K, B)."""
    one, other = one[:, :, None], other[:, None]
    width = torch.minimum(one[..., 2], other[..., 2]) - torch.maximum(one[..., 0], other[..., 0])
    height = torch.minimum(one[..., 3], other[..., 3]) - torch.maximum(one[..., 1], other[..., 1])
    return width.clamp_(min=0).mul_(height.clamp_(min=0))


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _iou(one: Tensor, other: Tensor) -> Tensor:
    """Return the IoU of boxes (N, K, 4) and (N, B, 4), or (1, B, 4): (N, K, B)."""
    overlap = _intersection(one, other)
    union = (_area(one)[:, :, None] + _area(other)[:, None]).sub_(overlap).clamp_(min=_EPS)
    return overlap.div_(union)


def _covered_share(boxes: Tensor, truth: GroundTruth) -> Tensor:
    """Return the largest share of each box's area that one ignored region covers, (N, B)."""
    share = _intersection(truth.ignored, boxes) / _area(boxes)[:, None].clamp(min=_EPS)
    return share.masked_fill_(~truth.ignored_valid[..., None], -1).amax(1)
