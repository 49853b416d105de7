"""mmcv's NMS and soft-NMS as served by torchvision, through mmcv's own Python API."""

import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from backbones import mmcv_ops  # puts the ops in place, so it comes before mmcv.ops

# isort: split
from mmcv import ops

pytestmark = pytest.mark.skipif(
    sys.modules['mmcv._ext'].__spec__.origin != mmcv_ops.__name__,
    reason='mmcv has its own compiled ops',
)


def iou(a: np.ndarray, b: np.ndarray, offset: int) -> float:
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b)]
    overlap = width * height
    return overlap / (sum(areas) - overlap) if overlap else 0.0


def brute_force_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float, offset: int):
    kept: list[int] = []
    for i in np.argsort(-scores):
        if all(iou(boxes[i], boxes[j], offset) <= threshold for j in kept):
            kept.append(int(i))
    return kept


def brute_force_soft_nms(boxes, scores, threshold, sigma, min_score, method, offset):
    scores = scores.copy()
    left, kept = list(range(len(scores))), []
    while left:
        best = max(left, key=lambda i: scores[i])
        kept.append(best)
        left.remove(best)
        for i in left:
            overlap = iou(boxes[best], boxes[i], offset)
            if method == 'gaussian':
                scores[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                scores[i] *= 1 - overlap if method == 'linear' else 0
        left = [i for i in left if scores[i] >= min_score]
    return kept, scores[kept]


@st.composite
def detections(draw) -> tuple[np.ndarray, np.ndarray]:
    """Boxes on a coarse grid, so that they touch, nest and coincide; scores without ties."""
    count = draw(st.integers(1, 12))
    cell = st.integers(0, 12)
    rows = [[draw(cell), draw(cell), draw(cell), draw(cell)] for _ in range(count)]
    boxes = np.array([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=np.float64)
    order = np.array(draw(st.permutations(range(count))), dtype=np.float64)
    return boxes, (order + 1) / (count + 1)


# A threshold that no quotient of these small whole areas equals.
THRESHOLDS = st.floats(0.05, 0.95).map(lambda value: value + math.pi * 1e-7)


@pytest.mark.parametrize(('offset', 'kept'), [(0, [1, 0, 2]), (1, [1, 2])])
def test_nms_by_hand(offset, kept):
    # Boxes 0 and 1: overlap 2 x 2 of areas 6 and 6, IoU 4 / 8 = 0.5. With the offset 3 x 3 of
    # areas 12 and 12, IoU 9 / 15 = 0.6. Box 2 touches them in a line only.
    boxes = torch.tensor([[0.0, 0, 3, 2], [1.0, 0, 4, 2], [4.0, 2, 9, 9]])
    scores = torch.tensor([0.8, 0.9, 0.7])
    dets, inds = ops.nms(boxes, scores, iou_threshold=0.55, offset=offset)
    assert inds.tolist() == kept
    assert torch.equal(dets, torch.cat([boxes, scores[:, None]], dim=1)[kept])


def test_nms_options_of_mmcv():
    boxes = np.array([[0, 0, 2, 2], [10, 10, 12, 12], [20, 20, 22, 22]], dtype=np.float32)
    scores = np.array([0.2, 0.9, 0.5], dtype=np.float32)
    assert ops.nms(boxes, scores, 0.5, score_threshold=0.3)[1].tolist() == [1, 2]
    assert ops.nms(boxes, scores, 0.5, max_num=1)[1].tolist() == [1]
    dets, inds = ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert dets.shape == (0, 5)
    assert inds.shape == (0,)


@given(detections(), THRESHOLDS, st.sampled_from([0, 1]))
@settings(deadline=None)
def test_nms_equals_brute_force(found, threshold, offset):
    boxes, scores = found
    _, inds = ops.nms(boxes, scores, threshold, offset=offset)
    assert inds.tolist() == brute_force_nms(boxes, scores, threshold, offset)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_nms_in_half_precision(dtype):
    boxes = torch.tensor([[0.0, 0, 4, 4], [0.0, 0, 4, 3], [8.0, 8, 9, 9]], dtype=dtype)
    dets, inds = ops.nms(boxes, torch.tensor([0.25, 0.5, 0.75]), 0.5)
    assert inds.tolist() == [2, 1]
    assert dets.shape == (2, 5)


@pytest.mark.parametrize('split_thr', [10000, 1])
def test_batched_nms_keeps_the_classes_apart(split_thr):
    boxes = torch.tensor([[0.0, 0, 4, 4], [0.0, 0, 4, 4], [0.0, 0, 4, 3]])
    scores, classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0])
    config = {'type': 'nms', 'iou_threshold': 0.5, 'split_thr': split_thr}
    dets, inds = ops.batched_nms(boxes, scores, classes, config)
    assert inds.tolist() == [0, 1]
    assert torch.equal(dets[:, :4], boxes[:2])
    _, inds = ops.batched_nms(boxes, scores, classes, {**config, 'class_agnostic': True})
    assert inds.tolist() == ([0] if split_thr > 3 else [0, 1])  # mmcv splits by class


@pytest.mark.parametrize(
    ('method', 'scores'),
    [
        ('linear', [0.9, 0.5, 0.4]),  # 0.8 * (1 - 0.5)
        ('gaussian', [0.9, 0.5, 0.8 * math.exp(-0.25 / 0.5)]),
        ('naive', [0.9, 0.5]),
    ],
)
def test_soft_nms_by_hand(method, scores):
    boxes = torch.tensor([[0.0, 0, 4, 2], [0.0, 0, 4, 4], [9.0, 9, 10, 10]])
    dets, inds = ops.soft_nms(
        boxes, torch.tensor([0.8, 0.9, 0.5]), iou_threshold=0.5, sigma=0.5, method=method
    )
    rank = sorted(zip(scores, [1, 2, 0], strict=False), reverse=True)
    assert inds.tolist() == [index for _, index in rank]
    assert torch.equal(dets[:, :4], boxes[inds])
    torch.testing.assert_close(dets[:, 4], torch.tensor([score for score, _ in rank]))


@given(
    detections(),
    THRESHOLDS,
    st.sampled_from(['naive', 'linear', 'gaussian']),
    st.sampled_from([0, 1]),
    st.sampled_from([0.001, 0.2]),
)
@settings(deadline=None)
def test_soft_nms_equals_a_plain_loop(found, threshold, method, offset, min_score):
    boxes, scores = found
    scores = scores + 1e-3 * np.sin(np.arange(len(scores)))  # no ties after lowering either
    dets, inds = ops.soft_nms(boxes, scores, threshold, 0.4, min_score, method, offset)
    kept, lowered = brute_force_soft_nms(boxes, scores, threshold, 0.4, min_score, method, offset)
    assert inds.tolist() == kept
    np.testing.assert_allclose(dets, np.column_stack([boxes[kept], lowered]), rtol=1e-9)


def test_soft_nms_of_nothing_and_of_boxes_without_area():
    dets, inds = ops.soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5)
    assert inds.shape == (0,)
    dets, _ = ops.soft_nms(torch.ones(2, 4), torch.tensor([0.5, 0.4]), method='gaussian')
    assert dets[:, 4].tolist() == pytest.approx([0.5, 0.4])
