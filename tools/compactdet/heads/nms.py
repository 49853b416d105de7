"""Greedy non-maximum suppression of all images of a batch in one operator of fixed shapes.

On the CPU it calls torchvision's kernel for each image. On a GPU, that kernel leaves most of the time to
one block of threads and waits for the result after each image; there the images are processed in parallel,
by the kernels of ``compactdet.heads.nms_triton``.
"""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import torch
import torchvision
from torch import Tensor


class Kept(NamedTuple):
    """The boxes that NMS keeps.

    Attributes:
        indices: (N, K), numbers of the kept boxes by descending score.
        valid: (N, K), False where fewer boxes are kept.
    """

    indices: Tensor
    valid: Tensor


def batch_nms(boxes: Tensor, group: Tensor, valid: Tensor, iou_threshold: float, most: int) -> Kept:
    """Return the first boxes that greedy NMS keeps; boxes of different groups do not suppress each other.

    Groups are kept apart as in mmcv's ``batched_nms``: by an offset that is larger than all coordinates of
    the image.

    Args:
        boxes: (N, B, 4), x1 y1 x2 y2, by descending score.
        group: (B,) or (N, B), numbers from 0.
        valid: (N, B), False for boxes that are left out.
        iou_threshold: A box that overlaps a kept one by more than this is dropped.
        most: Largest number K of boxes to keep.
    """
    farthest = boxes.masked_fill(~valid[..., None], 0).amax((1, 2), keepdim=True)
    shifted = boxes + (group.to(boxes.dtype)[..., None] * (farthest + 1))
    flags = keep_flags(shifted, valid, iou_threshold, most)
    rank = flags.cumsum(1) - 1
    most = min(most, boxes.shape[1])
    slot = torch.where(flags & (rank < most), rank, most)
    places = torch.arange(boxes.shape[1], device=boxes.device).expand(len(boxes), -1)
    index = places.new_zeros(len(boxes), most + 1).scatter_(1, slot, places)[:, :most]
    found = torch.arange(most, device=boxes.device) < flags.sum(1, keepdim=True)
    return Kept(torch.where(found, index, 0), found)


@torch.library.custom_op('compactdet::nms_keep_flags', mutates_args=())
def keep_flags(boxes: Tensor, valid: Tensor, iou_threshold: float, most: int) -> Tensor:
    """Return which boxes greedy NMS keeps, (N, B); after the first ``most`` kept ones it is not defined.

    Args:
        boxes: (N, B, 4), x1 y1 x2 y2, by descending score.
        valid: (N, B), False for boxes that are left out.
        iou_threshold: A box that overlaps a kept one by more than this is dropped.
        most: Number of kept boxes that are needed.
    """
    if boxes.is_cuda and importlib.util.find_spec('triton'):
        from compactdet.heads import nms_triton  # here: Triton exists on machines with a GPU only

        return nms_triton.keep_flags(boxes, valid, iou_threshold, most)
    flags = torch.zeros_like(valid)
    falling = torch.arange(boxes.shape[1], 0, -1, dtype=boxes.dtype, device=boxes.device)
    for image_boxes, image_valid, image_flags in zip(boxes, valid, flags, strict=True):
        places = image_valid.nonzero().squeeze(1)
        kept = torchvision.ops.nms(image_boxes[places], falling[places], iou_threshold)
        image_flags[places[kept]] = True
    return flags


@keep_flags.register_fake
def _(boxes: Tensor, valid: Tensor, iou_threshold: float, most: int) -> Tensor:
    return torch.empty_like(valid)
