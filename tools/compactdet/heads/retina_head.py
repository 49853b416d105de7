"""MMDetection's RetinaNet head (Lin et al. 2017, arXiv:1708.02002) for a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.dense_heads import RetinaHead
from torch import Tensor

from compactdet.heads.anchors import GridAnchors, flatten_levels
from compactdet.heads.assignment import assign
from compactdet.heads.ground_truth import GroundTruth
from compactdet.heads.sampling import encode_matched, mean_loss, take
from compactdet.mmdetection import MODELS


@MODELS.register_module()
class BatchedRetinaHead(RetinaHead):
    """MMDetection's ``RetinaHead`` whose training step has no loop over images.

    Parameters and predictions are those of ``RetinaHead``. The losses of all levels are computed at once.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._anchors = GridAnchors(self.prior_generator)

    def batch_loss(self, features: Sequence[Tensor], truth: GroundTruth) -> dict[str, Tensor]:
        """Return the losses of a batch.

        Args:
            features: Maps of all levels, each (N, C, H, W).
            truth: Ground truth of the batch.
        """
        cls_scores, bbox_preds = self(features)
        anchors, usable = self._anchors(cls_scores, truth, self.train_cfg['allowed_border'])
        with torch.no_grad():
            assigned = assign(anchors[None], usable, truth, self.train_cfg['assigner'])
            matched, positive = (assigned - 1).clamp(min=0), assigned > 0
            labels = torch.where(positive, take(truth.labels, matched), self.num_classes)
            boxes = anchors.expand(len(assigned), -1, -1)
            targets = encode_matched(self.bbox_coder, boxes, take(truth.boxes, matched), positive)
            count = positive.sum(1).clamp(min=1).sum()
            weight = self.train_cfg['pos_weight'] if self.train_cfg['pos_weight'] > 0 else 1.0
            weights = positive * weight + (assigned == 0)
        loss_cls = self.loss_cls(
            flatten_levels(cls_scores, self.cls_out_channels).flatten(0, 1),
            self._class_targets(labels.flatten()),
            weights.flatten(),
            avg_factor=count,
        )
        loss_bbox = self.loss_bbox(flatten_levels(bbox_preds, 4), targets, reduction_override='none')
        return {'loss_cls': loss_cls, 'loss_bbox': mean_loss(loss_bbox, positive[..., None], count)}

    def _class_targets(self, labels: Tensor) -> Tensor:
        """Return labels as the focal loss takes them: as they are on a GPU, one-hot on the CPU."""
        if labels.is_cuda:
            return labels
        return (labels[:, None] == torch.arange(self.cls_out_channels)).to(torch.get_default_dtype())
