"""Error types of detections and the AP that each type costs.

Source: TIDE (Bolya et al., ECCV 2020, arXiv:2008.08115), sections 2.2 and 2.3. Each false positive has one
type, by its highest IoU with a box; t_f = 0.5 is the foreground threshold, t_b = 0.1 the background
threshold:

- ``cls``: IoU >= t_f with a box of another class;
- ``loc``: t_b <= IoU < t_f with a box of its class;
- ``both``: t_b <= IoU < t_f with a box of another class;
- ``dup``: IoU >= t_f with a box of its class that is matched with a detection of higher score;
- ``bkg``: IoU < t_b with every box;
- ``miss``, of boxes: not found, and not the box of a ``cls`` or ``loc`` error.

The cost of a type is the increase of AP50 when only that type is corrected (the oracles of the paper). A
``cls`` or ``loc`` error becomes a true positive of its box; if the box then has two, the one of lower score
is removed. ``both``, ``dup`` and ``bkg`` errors are removed. ``miss`` boxes are subtracted from the number
of boxes. ``fp`` removes every false positive; ``fn`` sets the number of boxes to those found.

Not stated in the paper: if several types apply, the first of loc, cls, dup, bkg, both is taken, as in the
authors' toolbox; an IoU equal to a threshold counts as above it, as in matching; a class that has no box
left after a correction has AP 1 if it has no detection left either, otherwise 0.

Deviations: AP is COCO's over 101 recalls (100 detections per image and class; classes without boxes
excluded from means), so that AP50 equals the evaluator's. Difficult boxes and crowds are ignored: a
detection matched with one does not count, and they cause no error. The authors' toolbox (tidecv 1.0.1)
differs from the paper: it does not remove the detection that is already matched with a corrected error's
box, and a ``loc`` error can prevent a ``cls`` error from getting its box (and the reverse) although only
one type is corrected. Its counts, and the costs of the other types, are equal.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from compactdet.data.annotations import Annotations, Detections
from compactdet.evaluation.average_precision import integrate, make_curve, metrics_per_class
from compactdet.evaluation.evaluate import match
from compactdet.evaluation.matching import MatchTable, find_pairs

FOREGROUND, BACKGROUND = 0.5, 0.1  # t_f and t_b
MAX_DETS = 100  # per image and class, as in COCO's AP
FALSE = ('cls', 'loc', 'both', 'dup', 'bkg')  # of detections
ERRORS = (*FALSE, 'miss')
SPECIAL = ('fp', 'fn')
CURVE_IOUS = (0.5, 0.75)
POINTS = 101


@dataclass(frozen=True)
class Verdicts:
    """Classification of D detections and n boxes.

    Attributes:
        kind: (D,) text: ``right``, one of ``FALSE``, ``ignored`` (matched with an ignored box) or
            ``beyond`` (not among the first 100 of its image and class).
        box: (D,) the box that the detection is matched with, or the box of its error; -1 for none.
        iou: (D,) IoU with that box; 0 for none.
        taker: (n,) the detection matched with each box; -1 for none.
        wanted: (n,) bool, whether the box counts: neither difficult nor a crowd.
        missed: (n,) bool, whether the box is a ``miss`` error.
    """

    kind: np.ndarray
    box: np.ndarray
    iou: np.ndarray
    taker: np.ndarray
    wanted: np.ndarray
    missed: np.ndarray


@dataclass(frozen=True)
class OperatingPoint:
    """The score threshold of the highest F1 over all classes, and the counts at it."""

    score: float
    right: int
    wrong: int
    not_found: int

    @property
    def precision(self) -> float:
        """Share of the detections that are correct; 0 without detections."""
        return self.right / max(1, self.right + self.wrong)

    @property
    def recall(self) -> float:
        """Share of the boxes that are found; 0 without boxes."""
        return self.right / max(1, self.right + self.not_found)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.right / max(1, 2 * self.right + self.wrong + self.not_found)


@dataclass(frozen=True)
class Analysis:
    """All results of an analysis; values by class are NaN for a class without ground truth.

    Attributes:
        verdicts: Classification of each detection and box.
        metrics: Each AP of the evaluator, (classes,), VOC's at IoU 0.5 and 0.75.
        ap50: (classes,) before any correction.
        gains: Increase of AP50 when each of ``ERRORS`` and ``SPECIAL`` is corrected, (classes,).
        point: Operating point from which detections are drawn.
        curves: Precision at 101 recalls by rule (``voc``, ``coco``), (classes, 2 IoUs, 101).
    """

    verdicts: Verdicts
    metrics: Mapping[str, np.ndarray]
    ap50: np.ndarray
    gains: Mapping[str, np.ndarray]
    point: OperatingPoint
    curves: Mapping[str, np.ndarray]


def analyze(gt: Annotations, dt: Detections) -> Analysis:
    """Compute all results."""
    verdicts = judge(gt, dt)
    ap50 = corrected_ap(gt, dt, verdicts, ())
    tables = match(gt, dt, CURVE_IOUS)
    voc, coco = interpolate(tables['voc']), interpolate(tables['all'])
    at = [int(np.abs(tables['all'].thresholds - iou).argmin()) for iou in CURVE_IOUS]
    return Analysis(
        verdicts,
        metrics_per_class(tables, CURVE_IOUS),
        ap50,
        {name: corrected_ap(gt, dt, verdicts, (name,)) - ap50 for name in (*ERRORS, *SPECIAL)},
        find_operating_point(dt, verdicts),
        {'voc': voc, 'coco': coco[:, at]},
    )


def judge(gt: Annotations, dt: Detections) -> Verdicts:
    """Match by COCO's rule at IoU 0.5 and find the type of every error."""
    wanted = ~(gt.difficult | gt.crowd)
    kind, box, iou, taker = _match(gt, dt, wanted)
    same, same_iou, other, other_iou = _nearest(gt, dt, wanted)
    fits = {
        'loc': (same_iou >= BACKGROUND) & (same_iou < FOREGROUND),
        'cls': other_iou >= FOREGROUND,
        'dup': same_iou >= FOREGROUND,
        'bkg': np.maximum(same_iou, other_iou) < BACKGROUND,
    }
    kind = np.where(kind == '', np.select(list(fits.values()), list(fits), 'both'), kind)
    of_same, of_other = np.isin(kind, ('loc', 'dup')), np.isin(kind, ('cls', 'both'))
    box = np.select([of_same, of_other], [same, other], box)
    iou = np.select([of_same, of_other], [same_iou, other_iou], iou)
    covered = np.zeros(len(wanted), bool)
    covered[box[np.isin(kind, ('cls', 'loc'))]] = True
    return Verdicts(kind, box, iou, taker, wanted, wanted & (taker < 0) & ~covered)


def _match(gt: Annotations, dt: Detections, wanted: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return kind ('' for a false positive), box and IoU of each detection, and the detection of each box.

    The rule is that of `compactdet.evaluation.matching.match_coco`, which does not return the pairs.
    """
    pairs = find_pairs(gt, dt, FOREGROUND)
    kind = np.full(len(dt.scores), '', '<U7')
    kind[pairs.order[pairs.rank >= MAX_DETS]] = 'beyond'
    box, iou = np.full(len(dt.scores), -1), np.zeros(len(dt.scores))
    taker = np.full(len(wanted), -1)
    # Highest score first; of its boxes those that count first, then the nearest, then the last.
    by = np.lexsort((-pairs.gt, -pairs.overlap, ~wanted[pairs.gt], pairs.det))
    by = by[pairs.rank[pairs.det[by]] < MAX_DETS]
    columns = pairs.order[pairs.det[by]], pairs.gt[by], pairs.iou[by]
    for det, number, overlap in zip(*(column.tolist() for column in columns), strict=True):
        if box[det] < 0 and (taker[number] < 0 or gt.crowd[number]):
            box[det], iou[det], taker[number] = number, overlap, det
            kind[det] = 'right' if wanted[number] else 'ignored'
    return kind, box, iou, taker


def _nearest(gt: Annotations, dt: Detections, wanted: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return each detection's nearest box of its class with its IoU, then the same for other classes.

    Boxes below IoU 0.1 count as none: index -1, IoU 0.

    Boxes below IoU 0.1 are none: -1, IoU 0.
    """
    kept = np.flatnonzero(wanted)
    arrays = ('image_index', 'boxes', 'sizes', 'areas', 'difficult', 'crowd')
    blind = replace(gt, classes=('any',), **{name: getattr(gt, name)[kept] for name in arrays})
    blind = replace(blind, labels=np.zeros(len(kept), np.int64))
    pairs = find_pairs(blind, replace(dt, labels=np.zeros_like(dt.labels)), BACKGROUND)
    det, box = pairs.order[pairs.det], kept[pairs.gt]
    alike = gt.labels[box] == dt.labels[det]
    result: list[np.ndarray] = []
    for rows in (np.flatnonzero(alike), np.flatnonzero(~alike)):
        by = rows[np.lexsort((box[rows], -pairs.iou[rows], det[rows]))]
        first = by[np.unique(det[by], return_index=True)[1]]
        nearest, iou = np.full(len(dt.scores), -1), np.zeros(len(dt.scores))
        nearest[det[first]], iou[det[first]] = box[first], pairs.iou[first]
        result += [nearest, iou]
    return tuple(result)


def corrected_ap(gt: Annotations, dt: Detections, verdicts: Verdicts, types: Collection[str]) -> np.ndarray:
    """Return AP50 of each class (classes,) with these of ``ERRORS`` and ``SPECIAL`` corrected together."""
    kind, box = verdicts.kind, verdicts.box
    num_classes = len(gt.classes)
    boxes = np.bincount(gt.labels[verdicts.wanted], minlength=num_classes)
    known = boxes > 0
    counts = ~np.isin(kind, ('ignored', 'beyond', *({'both', 'dup', 'bkg'} & set(types))))

    rivals = np.flatnonzero((kind == 'right') | np.isin(kind, list({'cls', 'loc'} & set(types))))
    by = rivals[np.lexsort((kind[rivals] != 'right', -dt.scores[rivals], box[rivals]))]
    best = by[np.unique(box[by], return_index=True)[1]]  # the highest score on each box
    counts[rivals], counts[best] = False, True
    true, labels = np.zeros(len(kind), bool), dt.labels.copy()
    true[best], labels[best] = True, gt.labels[box[best]]

    if 'fp' in types:
        counts &= true
    if 'miss' in types:
        boxes -= np.bincount(gt.labels[verdicts.missed], minlength=num_classes)
    if 'fn' in types:
        boxes = np.bincount(labels[true], minlength=num_classes)
    rows = np.flatnonzero(counts)
    rows = rows[
        np.lexsort((dt.image_index[rows], -dt.scores[rows], labels[rows]))
    ]  # ties as in `find_pairs`
    table = _one_image(labels[rows], true[rows], boxes)
    result = integrate(table, make_curve(table), POINTS)[:, 0]
    result[known & (boxes == 0)] = 1
    result[known & (boxes == 0) & (np.diff(table.det_start) > 0)] = 0
    return result


def _one_image(labels: np.ndarray, true: np.ndarray, boxes: np.ndarray) -> MatchTable:
    """Return a table of ranked detections, (D,) labels in ascending order and whether they are true."""
    none, classes = np.zeros(0, np.int64), np.arange(len(boxes) + 1)
    found = np.flatnonzero(true)
    return MatchTable(
        num_images=1,
        num_classes=len(boxes),
        thresholds=np.array([FOREGROUND]),
        det_image=np.zeros(len(labels), np.int64),
        det_start=np.searchsorted(labels, classes),
        gt_image=np.zeros(boxes.sum(), np.int64),
        gt_start=np.append(0, np.cumsum(boxes)),
        tp_image=np.zeros(len(found), np.int64),
        tp_pos=found,
        tp_rank=np.zeros(len(found), np.int64),
        tp_start=np.searchsorted(labels[found], classes),
        change_image=none,
        change_sign=none,
        change_start=np.zeros(len(boxes) + 1, np.int64),
        tp_change=np.zeros(len(found), np.int64),
    )


def interpolate(table: MatchTable, points: int = POINTS) -> np.ndarray:
    """Return the highest precision at or beyond each of evenly spaced recalls; its mean is AP.

    Returns:
        (classes, thresholds, points) float64; NaN for a class without ground truth.
    """
    curve = make_curve(table)
    grid = np.arange(points) * (1 / (points - 1))
    grid[-1] = 1
    result = np.zeros((len(table.tp_start) - 1, points))
    for row, start, stop in zip(result, table.tp_start[:-1], table.tp_start[1:], strict=True):
        place = np.searchsorted(curve.recall[start:stop], grid)
        row[:] = np.append(curve.precision[start:stop], 0)[place]
    by_class = result.reshape(-1, len(table.thresholds), points)
    by_class[~curve.known] = np.nan
    return by_class


def find_operating_point(dt: Detections, verdicts: Verdicts) -> OperatingPoint:
    """Find the score of the highest F1; of equals, or without correct detections, the highest score."""
    num_boxes = int(verdicts.wanted.sum())
    rows = np.flatnonzero(~np.isin(verdicts.kind, ('ignored', 'beyond')))
    if not len(rows):
        return OperatingPoint(1.0, 0, 0, num_boxes)
    rows = rows[np.argsort(-dt.scores[rows], kind='stable')]
    scores = dt.scores[rows]
    right = np.cumsum(verdicts.kind[rows] == 'right')
    f1 = 2 * right / (np.arange(1, len(rows) + 1) + num_boxes)
    f1[:-1][scores[:-1] == scores[1:]] = -1  # no threshold separates equal scores
    best = int(f1.argmax())
    found = int(right[best])
    return OperatingPoint(float(scores[best]), found, best + 1 - found, num_boxes - found)


def confusions(
    gt: Annotations, dt: Detections, verdicts: Verdicts, score: float
) -> list[tuple[str, str, int, int]]:
    """Return class of the detection, class of the box, number of such ``cls`` errors, and number from
    ``score`` on.

    Sorted by the number from ``score`` on, then by the number.

    Those with most from ``score`` on come first, then those with most.
    """
    rows = np.flatnonzero(verdicts.kind == 'cls')
    num_classes = len(gt.classes)
    place = dt.labels[rows] * num_classes + gt.labels[verdicts.box[rows]]
    number = np.bincount(place, minlength=num_classes**2)
    surer = np.bincount(place[dt.scores[rows] >= score], minlength=num_classes**2)
    order = np.lexsort((-number, -surer))[: int((number > 0).sum())]
    return [
        (gt.classes[i // num_classes], gt.classes[i % num_classes], int(number[i]), int(surer[i]))
        for i in order.tolist()
    ]
