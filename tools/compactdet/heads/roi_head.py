"""MMDetection's RoI head and RoI extractor for a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor

from compactdet.heads.assignment import assign
from compactdet.heads.ground_truth import GroundTruth
from compactdet.heads.rpn_head import Proposals
from compactdet.heads.sampling import encode_matched, mean_loss, sample, take
from compactdet.mmdetection import MODELS


@MODELS.register_module()
class BatchedRoIHead(StandardRoIHead):
    """MMDetection's ``StandardRoIHead`` whose training step has no loop over images.

    One deviation: every image has the same number of RoIs. Where fewer boxes can be sampled, RoIs of the
    image are repeated; they have no weight in the losses, but a BN layer after RoIAlign that is trained
    sees them.
    """

    def batch_loss(
        self, features: Sequence[Tensor], proposals: Proposals, truth: GroundTruth
    ) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Args:
            features: Maps of all levels, each (N, C, H, W).
            proposals: Proposals of the RPN.
            truth: Ground truth of the batch.
        """
        with torch.no_grad():
            boxes, objects, labels, positive, valid = self._sample(proposals, truth)
            num_images, num_rois = valid.shape
            image = torch.arange(num_images, device=boxes.device, dtype=boxes.dtype)
            rois = torch.cat([image[:, None, None].expand(-1, num_rois, 1), boxes], 2).view(-1, 5)
        found = self._bbox_forward(features, rois)
        head, weight = self.bbox_head, self.train_cfg.pos_weight
        scores = _wide(found['cls_score'])
        with torch.no_grad():
            count = valid.sum()
            labels = torch.where(positive, labels, head.num_classes).flatten()
            targets = encode_matched(head.bbox_coder, boxes, objects, positive).view(-1, 4)
            weights = torch.where(positive, weight if weight > 0 else 1.0, 1.0) * valid
            right = (scores.argmax(1) == labels) & valid.flatten()
        loss_cls = head.loss_cls(scores, labels, reduction_override='none')
        deltas = _wide(found['bbox_pred']).view(len(rois), -1, 4)
        of_class = 0 if head.reg_class_agnostic else labels.clamp(max=head.num_classes - 1)
        deltas = deltas[torch.arange(len(rois), device=deltas.device), of_class]
        loss_bbox = head.loss_bbox(deltas, targets, reduction_override='none')
        return {
            'loss_cls': mean_loss(loss_cls, weights.flatten(), count.clamp(min=1)),
            'acc': right.sum() * 100 / count.clamp(min=1),
            'loss_bbox': mean_loss(loss_bbox, positive.view(-1, 1), count),
        }

    def _sample(
        self, proposals: Proposals, truth: GroundTruth
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return boxes, objects and labels assigned to them, which are positive, and which count."""
        boxes = proposals.boxes
        assigned = assign(boxes, proposals.valid, truth, self.train_cfg.assigner)
        if self.train_cfg.sampler.get('add_gt_as_proposals', True):
            own = torch.arange(1, truth.valid.shape[1] + 1, device=boxes.device)
            assigned = torch.cat([torch.where(truth.valid, own, -1), assigned], 1)
            boxes = torch.cat([truth.boxes, boxes], 1)
        chosen = sample(assigned, self.train_cfg.sampler)
        size = chosen.indices.shape[1]
        repeated = torch.arange(size, device=boxes.device) % chosen.valid.sum(1, keepdim=True).clamp(min=1)
        index = take(chosen.indices, repeated)
        matched = (take(assigned, index) - 1).clamp(min=0)
        return (
            take(boxes, index),
            take(truth.boxes, matched),
            take(truth.labels, matched),
            chosen.positive,
            chosen.valid,
        )


@MODELS.register_module()
class BatchedRoIExtractor(SingleRoIExtractor):
    """MMDetection's ``SingleRoIExtractor`` with one RoIAlign for all levels, in float32.

    The maps of the levels are copied into one map, each with a border that repeats its outermost values, as
    RoIAlign does outside of a map. RoIs must be inside the image. Coordinates are not rounded to half
    precision, unlike MMDetection's.
    """

    def forward(
        self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None
    ) -> Tensor:
        """Pool RoIs, (K, 5): image index and x1 y1 x2 y2 -> (K, C, bins, bins)."""
        dtype = feats[0].dtype
        feats, rois = [_wide(level) for level in feats], rois.to(_wide(feats[0]).dtype)
        if roi_scale_factor is not None:
            rois = self.roi_rescale(rois, roi_scale_factor)
        if len(feats) == 1:
            return self.roi_layers[0](feats[0], rois).to(dtype)
        level = self.map_roi_levels(rois, len(feats))
        canvas, corners = _one_map(feats)
        scales = rois.new_tensor([1 / stride for stride in self.featmap_strides])[level, None]
        shift = corners.to(rois)[level].repeat(1, 2)
        moved = torch.cat([rois[:, :1], rois[:, 1:] * scales + shift], 1)
        layer = self.roi_layers[0]
        return _roi_align(canvas, moved, layer).to(dtype)


def _one_map(feats: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the maps of all levels in one map, and the place x y of each one's first pixel, (levels, 2).

    The first level is at the top, the others are in a row below.
    """
    bordered = [F.pad(level, (1, 1, 1, 1), 'replicate') for level in feats]
    width = max(bordered[0].shape[-1], sum(level.shape[-1] for level in bordered[1:]))
    height = max(level.shape[-2] for level in bordered[1:])
    below = [F.pad(level, (0, 0, 0, height - level.shape[-2])) for level in bordered[1:]]
    row = torch.cat(below, 3)
    canvas = torch.cat([F.pad(one, (0, width - one.shape[-1])) for one in (bordered[0], row)], 2)
    corners, x = [(1, 1)], 1
    for level in bordered[1:]:
        corners.append((x, bordered[0].shape[-2] + 1))
        x += level.shape[-1]
    return canvas, torch.tensor(corners)


def _roi_align(features: Tensor, rois: Tensor, layer: Any) -> Tensor:
    """Pool RoIs in pixels of the map with the settings of a RoIAlign layer of mmcv."""
    from mmcv.ops import roi_align  # here: needs the operators that backbones provides

    return roi_align(
        features, rois, layer.output_size, 1.0, layer.sampling_ratio, layer.pool_mode, layer.aligned
    )


def _wide(tensor: Tensor) -> Tensor:
    """Convert half precision to float32."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
