"""Match detections with ground truth by the rules of VOC and COCO, for all images at once.

Sources: VOC's ``VOCevaldet.m`` (development kits 2007 and 2012; Everingham et al., IJCV 2010, section 4.2);
COCO's ``COCOeval`` (pycocotools 2.0). Both rules process the detections of a class by descending score.
They differ in the box with which a detection is matched:

- VOC: the box of highest overlap among *all* boxes of that class in the image (the first of equals). If it
  is matched already, the detection is a false positive. The overlap must be at least the threshold (``>=``,
  as in the development kit and MMDetection; py-faster-rcnn requires more than the threshold). An ignored
  box (difficult, crowd) is never matched: detections on it count neither as true nor as false.
- COCO: the best *unmatched* box (the last of equals) at or above the threshold; an ignored box only if
  there is no other. An ignored box is matched once, except a crowd, which is matched any number of times
  and whose overlap is relative to the area of the detection.

Ties of scores: both rules use a stable sort, so equal scores keep the order of the images in ``image_ids``
and, within an image, of the input.

Exactness: where an overlap equals the threshold, rounding decides. Therefore IoU is computed by the same
operations as in pycocotools, from the width and height stated in the file (``sizes``).

A ``MatchTable`` holds only the true positives and the detections that do not count. All others are false
positives, whose number follows from the positions. This makes a table small, and AP under any weights of
the images fast (`compactdet.evaluation.bootstrap`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from compactdet.data.annotations import Annotations, Detections

MAX_DETECTIONS = 100  # of an image and class, COCO's rule
CHUNK_PAIRS = 1 << 18  # pairs whose IoU is computed at once, which limits memory


@dataclass(frozen=True)
class Pairs:
    """Detections in rank order, and the pairs of detection and box that overlap enough.

    Attributes:
        order: (D,) index into the detections: by class, then score, image, input.
        rank: (D,) position of each among the detections of its class in its image, from 0.
        det: (P,) position in ``order``. Pairs are sorted by image, class, rank, and box.
        gt: (P,) index into the annotations.
        iou: (P,) plain IoU.
        overlap: (P,) IoU, or for a crowd the intersection over the detection's area.
    """

    order: np.ndarray
    rank: np.ndarray
    det: np.ndarray
    gt: np.ndarray
    iou: np.ndarray
    overlap: np.ndarray


@dataclass(frozen=True)
class MatchTable:
    """Matches of one rule and area range; S = classes x thresholds segments, class-major.

    Attributes:
        num_images: Number of images.
        num_classes: Number of classes.
        thresholds: (T,) IoU thresholds.
        det_image: (D,) image of each ranked detection, by class and rank; num_images for one that does
            not count where it matches nothing (COCO: outside the area range).
        det_start: (classes + 1,) first detection of each class.
        gt_image: (G,) image of each box that must be found, by class.
        gt_start: (classes + 1,) first such box of each class.
        tp_image: (N,) image of each true positive, by segment and rank.
        tp_pos: (N,) its place in det_image.
        tp_rank: (N,) its place among the detections of its class in its image.
        tp_start: (S + 1,) first true positive of each segment.
        change_image: (C,) image of each detection whose match changes whether it counts.
        change_sign: (C,) +1 where it counts now, -1 where it does no longer.
        change_start: (S + 1,) first change of each segment.
        tp_change: (N,) number of changes (over all segments) up to each true positive.
    """

    num_images: int
    num_classes: int
    thresholds: np.ndarray
    det_image: np.ndarray
    det_start: np.ndarray
    gt_image: np.ndarray
    gt_start: np.ndarray
    tp_image: np.ndarray
    tp_pos: np.ndarray
    tp_rank: np.ndarray
    tp_start: np.ndarray
    change_image: np.ndarray
    change_sign: np.ndarray
    change_start: np.ndarray
    tp_change: np.ndarray


def _group_starts(keys: np.ndarray) -> np.ndarray:
    """Return the first index of each run of equal keys in a sorted (n,) array."""
    if not len(keys):
        return np.zeros(0, np.int64)
    return np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))


def _overlaps(
    gt: Annotations, dt: Detections, gi: np.ndarray, di: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which of the pairs (n,), (n,) intersect, their IoU, and their overlap for crowds."""
    width = np.minimum(dt.boxes[di, 2], gt.boxes[gi, 2]) - np.maximum(dt.boxes[di, 0], gt.boxes[gi, 0])
    height = np.minimum(dt.boxes[di, 3], gt.boxes[gi, 3]) - np.maximum(dt.boxes[di, 1], gt.boxes[gi, 1])
    meet = np.flatnonzero((width > 0) & (height > 0))
    inter, gi, di = width[meet] * height[meet], gi[meet], di[meet]
    dt_area = dt.sizes[di, 0] * dt.sizes[di, 1]
    iou = inter / (dt_area + gt.sizes[gi, 0] * gt.sizes[gi, 1] - inter)
    return meet, iou, np.where(gt.crowd[gi], inter / dt_area, iou)


def find_pairs(gt: Annotations, dt: Detections, min_iou: float = 0.5) -> Pairs:
    """Rank the detections and find all pairs of one image and class with IoU >= ``min_iou``."""
    order = np.lexsort((dt.image_index, -dt.scores, dt.labels))
    num_classes = len(gt.classes)
    key = dt.image_index[order].astype(np.int64) * num_classes + dt.labels[order]
    grouped = np.argsort(key, kind='stable')
    key = key[grouped]
    starts = _group_starts(key)
    group_sizes = np.diff(starts, append=len(key))
    rank = np.empty(len(key), np.int32)
    rank[grouped] = np.arange(len(key)) - np.repeat(starts, group_sizes)

    gt_key = gt.image_index.astype(np.int64) * num_classes + gt.labels
    gt_order = np.argsort(gt_key, kind='stable')
    gt_key = gt_key[gt_order]
    first = np.repeat(np.searchsorted(gt_key, key[starts], 'left'), group_sizes)
    count = np.repeat(np.searchsorted(gt_key, key[starts], 'right'), group_sizes) - first
    has = np.flatnonzero(count)
    grouped, first, count = grouped[has], first[has], count[has]

    ends = np.cumsum(count)
    found = []
    start = 0
    while start < len(ends):
        done = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + CHUNK_PAIRS, 'right')))
        n = count[start:stop]
        det = np.repeat(grouped[start:stop], n)
        offset = np.repeat(first[start:stop] - (ends[start:stop] - n - done), n)
        box = gt_order[offset + np.arange(len(det))]
        meet, iou, overlap = _overlaps(gt, dt, box, order[det])
        near = np.flatnonzero(overlap >= min_iou)
        found.append((det[meet[near]], box[meet[near]], iou[near], overlap[near]))
        start = stop
    empty = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    columns = [np.concatenate(parts) for parts in zip(empty, *found, strict=True)]
    return Pairs(order, rank, *columns)


@dataclass(frozen=True)
class _Matches:
    """The result of a matching rule in one area range.

    Attributes:
        kept: (D,) bool over ``pairs.order``: detections that take part.
        counts: (D,) bool: which count as false positives if they match nothing.
        wanted: (n,) bool over the annotations: boxes that must be found.
        det: (M,) places in ``pairs.order``, ascending, of the detections with a match.
        true: (M, T) bool, matched with a wanted box.
        ignored: (M, T) bool, to be left out of the count.
    """

    kept: np.ndarray
    counts: np.ndarray
    wanted: np.ndarray
    det: np.ndarray
    true: np.ndarray
    ignored: np.ndarray


def _build_table(
    gt: Annotations, dt: Detections, pairs: Pairs, thresholds: np.ndarray, matches: _Matches
) -> MatchTable:
    """Build the table of one rule and area range; ``thresholds`` (T,) are IoU."""
    counts, det, true, ignored = matches.counts, matches.det, matches.true, matches.ignored
    num_images, num_classes, num_thresholds = len(gt.image_ids), len(gt.classes), len(thresholds)
    kept = matches.kept & counts
    kept[det] = True  # drop detections that neither count nor match
    place = np.cumsum(kept, dtype=np.int32) - 1
    chosen = pairs.order[kept]
    boxes = np.flatnonzero(matches.wanted)
    boxes = boxes[np.argsort(gt.labels[boxes], kind='stable')]
    labels = dt.labels[pairs.order[det]]
    segment = labels[:, None] * num_thresholds + np.arange(num_thresholds)

    def by_segment(flags: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at_threshold, row = np.nonzero(flags.T)
        segments = segment[row, at_threshold]
        by = np.argsort(segments, kind='stable')
        bounds = np.searchsorted(segments[by], np.arange(num_classes * num_thresholds + 1))
        return det[row[by]], segments[by], bounds

    tp, tp_segment, tp_start = by_segment(true)
    inside = counts[det][:, None]
    change, change_segment, change_start = by_segment((ignored & inside) | (true & ~inside))
    scale = len(pairs.order) + 1
    return MatchTable(
        num_images=num_images,
        num_classes=num_classes,
        thresholds=thresholds,
        det_image=np.where(counts[kept], dt.image_index[chosen], num_images).astype(np.int32),
        det_start=np.searchsorted(dt.labels[chosen], np.arange(num_classes + 1)),
        gt_image=gt.image_index[boxes].astype(np.int32),
        gt_start=np.searchsorted(gt.labels[boxes], np.arange(num_classes + 1)),
        tp_image=dt.image_index[pairs.order[tp]].astype(np.int32),
        tp_pos=place[tp],
        tp_rank=pairs.rank[tp],
        tp_start=tp_start,
        change_image=dt.image_index[pairs.order[change]].astype(np.int32),
        change_sign=np.where(counts[change], -1, 1).astype(np.int32),
        change_start=change_start,
        tp_change=np.searchsorted(change_segment * scale + change, tp_segment * scale + tp, 'right'),
    )


def match_voc(
    gt: Annotations, dt: Detections, pairs: Pairs, thresholds: np.ndarray, ignore: np.ndarray
) -> MatchTable:
    """Match by VOC's rule.

    Args:
        gt: Ground truth.
        dt: Detections.
        pairs: From `find_pairs` with ``min_iou`` no higher than the thresholds.
        thresholds: (T,) IoU thresholds.
        ignore: (n,) bool over the annotations.
    """
    by = np.lexsort(
        (-pairs.gt, pairs.iou, pairs.det)
    )  # the last pair of a detection is its best, first box
    det = pairs.det[by]
    best = by[np.append(_group_starts(det)[1:], len(det)) - 1] if len(det) else by
    det, box, iou = pairs.det[best], pairs.gt[best], pairs.iou[best]
    hit = iou[:, None] >= thresholds
    ignored = hit & ignore[box][:, None]
    true = np.zeros_like(hit)
    for column in range(len(thresholds)):
        rows = np.flatnonzero(hit[:, column] & ~ignored[:, column])
        true[rows[np.unique(box[rows], return_index=True)[1]], column] = True
    everything = np.ones(len(pairs.order), bool)
    matches = _Matches(everything, everything, ~ignore, det, true, ignored)
    return _build_table(gt, dt, pairs, thresholds, matches)


def match_coco(
    gt: Annotations,
    dt: Detections,
    pairs: Pairs,
    thresholds: np.ndarray,
    ignore: np.ndarray,
    area_ranges: Sequence[tuple[float, float]],
) -> list[MatchTable]:
    """Match by COCO's rule, all thresholds and area ranges together.

    The rule processes the detections of an image and class one after another. Images and classes are
    independent, so the n-th detections of all of them are matched in one step.

    Args:
        gt: Ground truth.
        dt: Detections.
        pairs: From `find_pairs` with ``min_iou`` no higher than the thresholds.
        thresholds: (T,) IoU thresholds.
        ignore: (n,) bool over the annotations; crowds included.
        area_ranges: Lowest and highest area, both inclusive, pixels squared.

    Returns:
        One table an area range.
    """
    low, high = np.array(area_ranges, float).T
    outside = ignore[:, None] | (gt.areas[:, None] < low) | (gt.areas[:, None] > high)  # (n, A)
    kept = pairs.rank < MAX_DETECTIONS
    take = np.flatnonzero(kept[pairs.det])
    det, box, overlap = pairs.det[take], pairs.gt[take], pairs.overlap[take]

    # The pairs of each detection, numbered from 1 for the worst choice to the best.
    group = gt.image_index[box].astype(np.int64) * len(gt.classes) + gt.labels[box]
    starts = _group_starts(det)
    number = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(det)))
    first = _group_starts(group[starts])
    step = np.arange(len(starts)) - np.repeat(first, np.diff(first, append=len(starts)))
    by = np.lexsort((box, overlap, number, step[number]))
    det, box, overlap = det[by], box[by], overlap[by]
    starts = _group_starts(det)
    length = np.diff(starts, append=len(det))
    choice = (np.arange(len(det)) - np.repeat(starts, length) + 1).astype(np.int32)
    steps = np.searchsorted(np.sort(step), np.arange(step.max(initial=-1) + 2))

    bonus = np.int32(1 << 24)  # any wanted box comes before any ignored one
    value = choice[:, None] + bonus * ~outside[box]  # (P, A)
    enough = overlap[:, None] >= np.minimum(thresholds, 1 - 1e-10)  # as COCOeval, (P, T)
    num_columns = (len(thresholds), len(area_ranges))
    taken = np.zeros((len(gt.boxes), *num_columns), bool)
    best = np.zeros((len(starts), *num_columns), np.int32)
    for d0, d1 in pairwise(steps.tolist()):
        p0, p1 = starts[d0], starts[d1 - 1] + length[d1 - 1]
        free = enough[p0:p1, :, None] & ~taken[box[p0:p1]]
        offer = free * value[p0:p1, None, :]
        best[d0:d1] = np.maximum.reduceat(offer, starts[d0:d1] - p0)
        row, threshold, area = np.nonzero(best[d0:d1])
        pair = starts[d0 + row] + best[d0 + row, threshold, area] % bonus - 1
        taken[box[pair], threshold, area] = ~gt.crowd[box[pair]]

    matched = det[starts]
    ranked = np.argsort(matched)
    matched, chosen = matched[ranked], best[ranked]
    det_area = (dt.sizes[:, 0] * dt.sizes[:, 1])[pairs.order]
    return [
        _build_table(
            gt,
            dt,
            pairs,
            thresholds,
            _Matches(
                kept,
                counts=(det_area >= low[a]) & (det_area <= high[a]),
                wanted=~outside[:, a],
                det=matched,
                true=chosen[:, :, a] >= bonus,
                ignored=(chosen[:, :, a] > 0) & (chosen[:, :, a] < bonus),
            ),
        )
        for a in range(len(area_ranges))
    ]
