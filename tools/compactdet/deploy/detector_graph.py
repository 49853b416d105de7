"""Detectors as one graph of tensor operations, from the image to the detections, for export.

MMDetection's prediction code loops over images and levels in Python and returns objects. The modules here
compute the same detections for one image with PyTorch and torchvision operators only:

- ``TwoStageGraph``: Faster R-CNN, on one feature map (C4) or on a pyramid (FPN);
- ``OneStageGraph``: RetinaNet.

The number of outputs is fixed (``max_per_img``): rows without a detection have score 0. Deviation from
MMDetection: detections of equal score may come in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import nms, roi_align

from compactdet.errors import UserError

LARGEST_RATIO = 16 / 1000  # of DeltaXYWHBBoxCoder: the largest change of a side is a factor of 1000 / 16


class _Graph(nn.Module):
    """The preprocessing, backbone and neck of a detector.

    ``forward(image)`` takes (1, 3, H, W) float32, BGR, 0 to 255, resized as in the test pipeline. It
    returns boxes (K, 4) as x1, y1, x2, y2 in pixels of that image, scores (K,) and labels (K,) int64.

    Args:
        detector: An MMDetection detector in evaluation mode.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, detector: Any) -> None:
        super().__init__()
        preprocessor = detector.data_preprocessor
        self.swap_channels = bool(getattr(preprocessor, '_channel_conversion', False))
        normalize = bool(getattr(preprocessor, '_enable_normalize', False))
        mean = preprocessor.mean if normalize else torch.zeros(3, 1, 1)
        std = preprocessor.std if normalize else torch.ones(3, 1, 1)
        self.register_buffer('mean', mean.detach().clone())
        self.register_buffer('std', std.detach().clone())
        self.pad_divisor = int(preprocessor.pad_size_divisor)
        self.backbone: Any = detector.backbone
        self.neck: Any = detector.neck if detector.with_neck else None

    def feature_maps(self, image: Tensor) -> Sequence[Tensor]:
        """Normalize and pad the image; return the maps that the heads use."""
        if self.swap_channels:
            image = image.flip(1)
        image = (image - self.mean) / self.std
        if self.pad_divisor > 1:
            height, width = image.shape[2:]
            image = F.pad(image, (0, -width % self.pad_divisor, 0, -height % self.pad_divisor))
        maps = self.backbone(image)
        return self.neck(maps) if self.neck is not None else maps


class OneStageGraph(_Graph):
    """RetinaNet."""

    def __init__(self, detector: Any) -> None:
        super().__init__(detector)
        head = detector.bbox_head
        if not head.use_sigmoid_cls:
            raise UserError(f'{type(head).__name__} with softmax scores cannot be exported')
        self.head: Any = head
        self.anchors = _Anchors(head.prior_generator)
        self.config: Any = head.test_cfg

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, scores and labels; see `_Graph`."""
        scores, boxes, labels = [], [], []
        size = image.shape[2:]
        maps = self.feature_maps(image)
        outputs = self.head(maps)
        threshold = self.config['score_thr']
        for level, (logits, deltas) in enumerate(zip(*outputs, strict=True)):
            num_classes = self.head.cls_out_channels
            score = logits[0].permute(1, 2, 0).reshape(-1, num_classes).sigmoid().flatten()
            score = torch.where(score > threshold, score, 0.0)
            score, index = _top(score, self.config['nms_pre'])
            place = index // num_classes
            anchors = self.anchors(level, logits)[place]
            delta = deltas[0].permute(1, 2, 0).reshape(-1, 4)[place]
            box = decode(anchors, delta, self.head.bbox_coder, size)
            scores.append(_without_small(score, box, self.config.get('min_bbox_size', -1)))
            boxes.append(box)
            labels.append(index % num_classes)
        found = torch.cat(scores), torch.cat(boxes), torch.cat(labels)
        return _detections(*found, self.config['nms']['iou_threshold'], self.config['max_per_img'], size)


class TwoStageGraph(_Graph):
    """Faster R-CNN."""

    def __init__(self, detector: Any) -> None:
        super().__init__(detector)
        self.rpn: Any = detector.rpn_head
        self.roi_head: Any = detector.roi_head
        self.anchors = _Anchors(self.rpn.prior_generator)
        self.rpn_config: Any = self.rpn.test_cfg
        self.config: Any = self.roi_head.test_cfg

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes, scores and labels; see `_Graph`."""
        size = image.shape[2:]
        maps = self.feature_maps(image)
        proposals = self.proposals(maps, size)
        logits, deltas = self.roi_outputs(maps, proposals)
        num_classes = logits.shape[1] - 1
        probability = logits.softmax(-1)[:, :num_classes]
        head = self.roi_head.bbox_head
        if head.reg_class_agnostic:
            deltas = deltas.repeat(1, num_classes)
        proposals = proposals[:, None].expand(-1, num_classes, -1).reshape(-1, 4)
        boxes = decode(proposals, deltas.reshape(-1, 4), head.bbox_coder, size)
        scores = probability.flatten()
        labels = torch.arange(num_classes, device=scores.device).repeat(logits.shape[0])
        scores = torch.where(scores > self.config['score_thr'], scores, 0.0)
        return _detections(
            scores, boxes, labels, self.config['nms']['iou_threshold'], self.config['max_per_img'], size
        )

    def proposals(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """Return (max_per_img, 4) proposals; missing ones are empty boxes."""
        scores, boxes, levels = [], [], []
        for level, (logits, deltas) in enumerate(zip(*self.rpn(maps), strict=True)):
            score = logits[0].permute(1, 2, 0)
            if self.rpn.use_sigmoid_cls:
                score = score.reshape(-1).sigmoid()
            else:
                score = score.reshape(-1, 2).softmax(-1)[:, 0]
            score, place = _top(score, self.rpn_config['nms_pre'])
            delta = deltas[0].permute(1, 2, 0).reshape(-1, 4)[place]
            box = decode(self.anchors(level, logits)[place], delta, self.rpn.bbox_coder, size)
            scores.append(_without_small(score, box, self.rpn_config.get('min_bbox_size', -1)))
            boxes.append(box)
            levels.append(torch.full_like(place, level))
        iou = self.rpn_config['nms']['iou_threshold']
        found = torch.cat(scores), torch.cat(boxes), torch.cat(levels)
        proposals, score, _ = _detections(*found, iou, self.rpn_config['max_per_img'], size)
        return torch.where(score[:, None] > 0, proposals, 0.0)

    def roi_outputs(self, maps: Sequence[Tensor], proposals: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits (R, classes + 1) and box deltas of the proposals."""
        extractor = self.roi_head.bbox_roi_extractor
        rois = F.pad(proposals, (1, 0))  # the image's index, 0, in front
        layers = extractor.roi_layers
        if len(layers) == 1:
            features = _align(maps[0], rois, layers[0])
        else:
            sides = proposals[:, 2:] - proposals[:, :2]
            scale = (sides[:, 0] * sides[:, 1]).sqrt()
            level = torch.floor(torch.log2(scale / extractor.finest_scale + 1e-6))
            level = level.clamp(0, len(layers) - 1).long()
            features = maps[0].new_zeros(rois.shape[0], maps[0].shape[1], *layers[0].output_size)
            for number, layer in enumerate(layers):
                index = (level == number).nonzero()[:, 0]
                features = features.index_copy(0, index, _align(maps[number], rois[index], layer))
        if self.roi_head.with_shared_head:
            features = self.roi_head.shared_head(features)
        return self.roi_head.bbox_head(features)


class _Anchors(nn.Module):
    """Anchors of every level, by the size of its feature map."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self.strides = [tuple(stride) for stride in generator.strides]
        for level, base in enumerate(generator.base_anchors):
            self.register_buffer(f'base{level}', base.detach().clone(), persistent=False)

    def forward(self, level: int, outputs: Tensor) -> Tensor:
        """Return (H * W * A, 4) anchors for outputs of shape (1, C, H, W)."""
        height, width = outputs.shape[2:]
        stride_x, stride_y = self.strides[level]
        base = getattr(self, f'base{level}')
        x = torch.arange(width, device=base.device) * stride_x
        y = torch.arange(height, device=base.device) * stride_y
        x, y = x.repeat(height), y[:, None].expand(-1, width).reshape(-1)
        shift = torch.stack([x, y, x, y], -1).to(base)
        return (shift[:, None] + base).reshape(-1, 4)


def decode(anchors: Tensor, deltas: Tensor, coder: Any, size: Sequence[int]) -> Tensor:
    """Apply box deltas (n, 4) to anchors (n, 4), as MMDetection's ``DeltaXYWHBBoxCoder`` does.

    Args:
        anchors: x1, y1, x2, y2 in pixels.
        deltas: Normalized changes of center and logarithm of the sides.
        coder: The coder, for its means, standard deviations and clipping.
        size: Height and width of the image, to which boxes are clipped.
    """
    deltas = deltas * deltas.new_tensor(coder.stds) + deltas.new_tensor(coder.means)
    sides = anchors[:, 2:] - anchors[:, :2]
    center = (anchors[:, :2] + anchors[:, 2:]) * 0.5 + deltas[:, :2] * sides
    limit = abs(float(torch.tensor(LARGEST_RATIO).log()))
    sides = sides * deltas[:, 2:].clamp(-limit, limit).exp()
    low, high = center - sides * 0.5, center + sides * 0.5
    if coder.clip_border:
        height, width = size
        low = torch.stack([low[:, 0].clamp(0, width), low[:, 1].clamp(0, height)], -1)
        high = torch.stack([high[:, 0].clamp(0, width), high[:, 1].clamp(0, height)], -1)
    return torch.cat([low, high], -1)


def _align(feature_map: Tensor, rois: Tensor, layer: Any) -> Tensor:
    return roi_align(
        feature_map, rois, layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned
    )


def _top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the ``count`` highest scores, or all, and their indices."""
    if isinstance(scores.shape[0], int):
        return scores.topk(min(count, scores.shape[0])) if count > 0 else scores.sort(descending=True)
    return scores.topk(torch.sym_min(count, scores.shape[0]))


def _without_small(scores: Tensor, boxes: Tensor, min_size: int) -> Tensor:
    """Return the scores (n,), 0 for boxes (n, 4) with a side of at most ``min_size``; -1 keeps all."""
    if min_size < 0:
        return scores
    return torch.where((boxes[:, 2:] - boxes[:, :2] > min_size).all(1), scores, 0.0)


def _detections(
    scores: Tensor, boxes: Tensor, groups: Tensor, iou_threshold: float, count: int, size: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """Suppress non-maxima within groups; return ``count`` boxes, scores and groups, highest score first.

    Candidates of score 0 are none. Rows beyond the last detection have score 0.
    """
    real = scores.nonzero()[:, 0]
    offset = groups[real, None].to(boxes) * (max(size) + 1)  # boxes of two groups never overlap
    kept = real[nms(boxes[real] + offset, scores[real], iou_threshold)]
    keep = torch.zeros_like(scores).index_fill(0, kept, 1.0)
    scores = F.pad(scores * keep, (0, count))  # there may be fewer candidates than rows
    best, index = scores.topk(count)
    index = torch.where(best > 0, index, 0)
    return boxes[index], best, groups[index]
