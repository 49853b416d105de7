"""Average precision (AP) of weighted images, by VOC's and COCO's rules, from match tables.

11-point AP is the mean of the highest precision at 11 recalls (VOC 2007), area AP the area under the
precision-recall curve (VOC 2010 on), COCO AP the mean over 101 recalls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from compactdet.evaluation.matching import MatchTable

COCO_IOUS = np.linspace(0.5, 0.95, 10)

AREAS = {  # ranges of COCOeval, in square pixels
    'all': (0.0, 1e10),
    'small': (0.0, 32.0**2),
    'medium': (32.0**2, 96.0**2),
    'large': (96.0**2, 1e10),
}

AREA_UNDER_CURVE = 0  # instead of a number of recall points


@dataclass(frozen=True)
class MetricSpec:
    """One AP: its match table, number of recall points and thresholds."""

    table: str
    points: int
    thresholds: slice


def list_metrics(voc_ious: Sequence[float] = (0.5,)) -> dict[str, MetricSpec]:
    """Return the name and definition of every AP, such as ``voc/ap50_11point`` and ``coco/ap_small``."""
    metrics = {}
    for i, iou in enumerate(voc_ious):
        metrics[f'voc/ap{100 * iou:g}_11point'] = MetricSpec('voc', 11, slice(i, i + 1))
        metrics[f'voc/ap{100 * iou:g}_area'] = MetricSpec('voc', AREA_UNDER_CURVE, slice(i, i + 1))
    metrics['coco/ap'] = MetricSpec('all', 101, slice(None))
    metrics['coco/ap50'] = MetricSpec('all', 101, slice(0, 1))
    metrics['coco/ap75'] = MetricSpec('all', 101, slice(5, 6))
    for area in ('small', 'medium', 'large'):
        metrics[f'coco/ap_{area}'] = MetricSpec(area, 101, slice(None))
    return metrics


def _steps(recall: np.ndarray, points: int) -> np.ndarray:
    """Return the share of recall points at or below each of (n,) recalls, 0 to 1."""
    if points == AREA_UNDER_CURVE:
        return recall
    grid = np.arange(points + 1) * (1 / (points - 1))
    grid[points - 1], grid[points] = 1, np.inf
    last = (recall * (points - 1)).astype(np.int32)  # may be off by one through rounding; corrected below
    return (last + 1 + (grid[last + 1] <= recall) - (grid[last] > recall)) / points


@dataclass(frozen=True)
class Curve:
    """Precision-recall curves at their true positives, (N,) in the order of a `MatchTable`.

    Attributes:
        precision: The envelope: the highest precision at this recall or above.
        recall: Recall.
        known: (classes,) bool, whether there is ground truth.
    """

    precision: np.ndarray
    recall: np.ndarray
    known: np.ndarray


def make_curve(table: MatchTable, weights: np.ndarray | None = None) -> Curve:
    """Return the precision-recall curves of all classes and thresholds.

    Only true positives are needed: between two of them precision falls, so the envelope touches the curve
    only there.

    Args:
        table: The matches.
        weights: (num_images,) integers, weight of each image; None for 1.
    """
    weight = np.ones(table.num_images + 1, np.int32)  # one more for detections that do not count
    if weights is not None:
        weight[:-1] = weights
    weight[-1] = 0
    seen = _running(weight.take(table.det_image))
    changed = _running(weight.take(table.change_image) * table.change_sign)
    found = _running(weight.take(table.tp_image))
    positives = np.diff(_running(weight.take(table.gt_image))[table.gt_start])

    num_thresholds = len(table.thresholds)
    starts = table.tp_start
    length = np.diff(starts)
    seen_before = np.repeat(seen[table.det_start[:-1]], num_thresholds)
    counted = seen.take(table.tp_pos + 1) + changed.take(table.tp_change)
    counted -= np.repeat(seen_before + changed[table.change_start[:-1]], length)
    true = found[1:] - np.repeat(found[starts[:-1]], length)
    precision = true / np.maximum(counted, 1)
    for begin, end in pairwise(starts.tolist()):
        if end - begin > 1:
            backwards = precision[begin:end][::-1]
            np.maximum.accumulate(backwards, out=backwards)
    recall = true / np.repeat(np.repeat(np.maximum(positives, 1), num_thresholds), length)
    return Curve(precision, recall, positives > 0)


def integrate(table: MatchTable, curve: Curve, points: int) -> np.ndarray:
    """Return the AP of curves over recall points (11, 101) or as ``AREA_UNDER_CURVE``.

    Returns:
        (classes, thresholds) float64; NaN for a class without ground truth.
    """
    reached = _steps(curve.recall, points)
    gain = np.diff(reached, prepend=0.0)
    filled = np.diff(table.tp_start) > 0
    first = table.tp_start[:-1][filled]
    gain[first] = reached[first]
    flat = np.zeros(len(filled))
    if len(first):
        flat[filled] = np.add.reduceat(gain * curve.precision, first)
    result = flat.reshape(-1, len(table.thresholds))
    result[~curve.known] = np.nan
    return result


def average_precision(
    tables: Mapping[str, MatchTable],
    metrics: Mapping[str, MetricSpec],
    weights: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Return each AP by class, (classes,), NaN for a class without ground truth; weights as above."""
    curves = {name: make_curve(tables[name], weights) for name in {f.table for f in metrics.values()}}
    kinds = {(metric.table, metric.points) for metric in metrics.values()}
    aps = {(name, points): integrate(tables[name], curves[name], points) for name, points in kinds}
    return {
        name: aps[metric.table, metric.points][:, metric.thresholds].mean(axis=1)
        for name, metric in metrics.items()
    }


def _running(values: np.ndarray) -> np.ndarray:
    """Return the running sum of (n,) integers with a leading 0."""
    total = np.zeros(len(values) + 1, np.int32)
    np.cumsum(values, out=total[1:], dtype=np.int32)
    return total


def recall_at(table: MatchTable, max_dets: int) -> np.ndarray:
    """Return the recall of each class (classes, thresholds) with ``max_dets`` detections per image; NaN as
    above.
    """
    positives = np.diff(table.gt_start)[:, None]
    found = np.diff(_running(table.tp_rank < max_dets)[table.tp_start])
    found = found.reshape(-1, len(table.thresholds))
    return np.where(positives > 0, found / np.maximum(positives, 1), np.nan)


def metrics_per_class(
    tables: dict[str, MatchTable], voc_ious: Sequence[float] = (0.5,)
) -> dict[str, np.ndarray]:
    """Return all metrics by name, each (classes,), NaN for a class without ground truth."""
    values = average_precision(tables, list_metrics(voc_ious))
    for max_dets in (1, 10, 100):
        values[f'coco/ar_{max_dets}'] = recall_at(tables['all'], max_dets).mean(axis=1)
    for area in ('small', 'medium', 'large'):
        values[f'coco/ar_{area}'] = recall_at(tables[area], 100).mean(axis=1)
    return values


def mean_over_classes(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis (..., classes), ignoring NaN; NaN if all are."""
    there = ~np.isnan(values)
    count = there.sum(axis=-1)
    total = np.where(there, values, 0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
