"""MMDetection's RPN head (Ren et al. 2015, arXiv:1506.01497) for a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmdet.models.dense_heads import RPNHead
from torch import Tensor

from compactdet.heads.anchors import GridAnchors, flatten_levels
from compactdet.heads.assignment import assign
from compactdet.heads.ground_truth import GroundTruth
from compactdet.heads.nms import batch_nms
from compactdet.heads.sampling import encode_matched, mean_loss, sample, take
from compactdet.mmdetection import MODELS


class Proposals(NamedTuple):
    """At most P proposals of each image, by descending score.

    Attributes:
        boxes: (N, P, 4), x1 y1 x2 y2 in pixels of the network's input.
        scores: (N, P).
        valid: (N, P), False where an image has fewer proposals.
    """

    boxes: Tensor
    scores: Tensor
    valid: Tensor


@MODELS.register_module()
class BatchedRPNHead(RPNHead):
    """MMDetection's ``RPNHead`` whose training step has no loop over images.

    Parameters and predictions are those of ``RPNHead``. The losses are computed on the sampled anchors
    only, of all levels at once.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._anchors = GridAnchors(self.prior_generator)

    def batch_loss(
        self, features: Sequence[Tensor], truth: GroundTruth, proposal_cfg: Mapping[str, Any]
    ) -> tuple[dict[str, Tensor], Proposals]:
        """Return the losses and the proposals of a batch.

        Args:
            features: Maps of all levels, each (N, C, H, W).
            truth: Ground truth of the batch.
            proposal_cfg: ``train_cfg.rpn_proposal`` of the detector.
        """
        cls_scores, bbox_preds = self(features)
        anchors, usable = self._anchors(cls_scores, truth, self.train_cfg['allowed_border'])
        scores = flatten_levels(cls_scores, 1).squeeze(-1)
        deltas = flatten_levels(bbox_preds, 4)
        with torch.no_grad():
            counts = self._anchors.counts(cls_scores, self.num_base_priors)
            found = scores.detach(), deltas.detach()
            proposals = self._propose(*found, anchors, counts, truth, proposal_cfg)
        return self._loss(scores, deltas, anchors, usable, truth), proposals

    def _loss(
        self, scores: Tensor, deltas: Tensor, anchors: Tensor, usable: Tensor | None, truth: GroundTruth
    ) -> dict[str, Tensor]:
        with torch.no_grad():
            assigned = assign(anchors[None], usable, truth, self.train_cfg['assigner'])
            chosen = sample(assigned, self.train_cfg['sampler'])
            boxes = take(anchors[None], chosen.indices)
            objects = take(truth.boxes, (take(assigned, chosen.indices) - 1).clamp(min=0))
            targets = encode_matched(self.bbox_coder, boxes, objects, chosen.positive)
            negative = chosen.valid & ~chosen.positive
            positives, negatives = chosen.positive.sum(1), negative.sum(1)
            count = (positives.clamp(min=1) + negatives.clamp(min=1)).sum()
            weight = self.train_cfg['pos_weight'] if self.train_cfg['pos_weight'] > 0 else 1.0
            weights = chosen.positive * weight + negative
        loss_cls = self.loss_cls(
            take(scores, chosen.indices).flatten(),
            chosen.positive.long().flatten(),
            reduction_override='none',
        )
        loss_bbox = self.loss_bbox(take(deltas, chosen.indices), targets, reduction_override='none')
        return {
            'loss_rpn_cls': mean_loss(loss_cls, weights.flatten(), count),
            'loss_rpn_bbox': mean_loss(loss_bbox, chosen.positive[..., None], count),
        }

    def _propose(
        self,
        scores: Tensor,
        deltas: Tensor,
        anchors: Tensor,
        counts: Sequence[int],
        truth: GroundTruth,
        cfg: Mapping[str, Any],
    ) -> Proposals:
        """Return the proposals: the best anchors of each level, decoded, after NMS inside each level."""
        levels, start = [], 0
        for count in counts:
            index = scores[:, start : start + count].sort(1, descending=True).indices + start
            limit = cfg['nms_pre']
            levels.append(index[:, :limit] if 0 < limit < count else index)
            start += count
        index = torch.cat(levels, 1)
        scores = take(scores, index).sigmoid()
        level = torch.cat([scores.new_full((one.shape[1],), i) for i, one in enumerate(levels)])
        boxes = self.bbox_coder.decode(
            take(anchors[None], index).view(-1, 4), take(deltas, index).view(-1, 4)
        ).view(*scores.shape, 4)
        if self.bbox_coder.clip_border:
            limits = truth.image_sizes.flip(1).to(boxes.dtype).repeat(1, 2)[:, None]
            boxes = torch.minimum(boxes.clamp(min=0), limits)
        valid = torch.ones_like(scores, dtype=torch.bool)
        smallest = cfg.get('min_bbox_size', -1)
        if smallest >= 0:
            valid = ((boxes[..., 2:] - boxes[..., :2]) > smallest).all(-1)
        if len(levels) > 1:
            scores, order = scores.sort(dim=1, descending=True, stable=True)
            boxes, valid, level = take(boxes, order), take(valid, order), level[order]
        kept = batch_nms(boxes, level, valid, cfg['nms']['iou_threshold'], cfg['max_per_img'])
        return Proposals(take(boxes, kept.indices), take(scores, kept.indices), kept.valid)
