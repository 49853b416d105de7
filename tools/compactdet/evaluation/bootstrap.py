"""AP of any weighted sample of the images, and how sure it makes AP: bootstrap over images.

The images of a test set are drawn again with replacement, many times; detections are matched once, since
matching never crosses images. This says how much AP owes to *these* test images. It says nothing of the
training's luck (the spread over seeds), which belongs in a column of its own.

Source of the bootstrap: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from rich.console import Console
from rich.table import Table

from compactdet.evaluation.matching import MatchTable

COCO_IOUS = np.linspace(0.5, 0.95, 10)
AREAS = {  # COCOeval's ranges, pixels squared
    'all': (0.0, 1e10),
    'small': (0.0, 32.0**2),
    'medium': (32.0**2, 96.0**2),
    'large': (96.0**2, 1e10),
}
AREA_UNDER_CURVE = 0  # in place of a number of recall points


@dataclass(frozen=True)
class Figure:
    """One AP: which table, how many recall points, which of the table's thresholds."""

    table: str
    points: int
    thresholds: slice


def list_figures(voc_ious: Sequence[float] = (0.5,)) -> dict[str, Figure]:
    """Names every AP that is computed, such as ``voc/ap50_11point`` and ``coco/ap_small``."""
    figures = {}
    for i, iou in enumerate(voc_ious):
        figures[f'voc/ap{100 * iou:g}_11point'] = Figure('voc', 11, slice(i, i + 1))
        figures[f'voc/ap{100 * iou:g}_area'] = Figure('voc', AREA_UNDER_CURVE, slice(i, i + 1))
    figures['coco/ap'] = Figure('all', 101, slice(None))
    figures['coco/ap50'] = Figure('all', 101, slice(0, 1))
    figures['coco/ap75'] = Figure('all', 101, slice(5, 6))
    for area in ('small', 'medium', 'large'):
        figures[f'coco/ap_{area}'] = Figure(area, 101, slice(None))
    return figures


def _steps(recall: np.ndarray, points: int) -> np.ndarray:
    """How much of the recall axis lies at or below each of (n,) recalls, 0 to 1."""
    if points == AREA_UNDER_CURVE:
        return recall
    grid = np.arange(points + 1) * (1 / (points - 1))
    grid[points - 1], grid[points] = 1, np.inf
    last = (recall * (points - 1)).astype(np.int32)  # may be one off by rounding: settled below
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
    """Curves of all classes and thresholds.

    Only true positives are looked at: between two of them precision falls, so the envelope touches the
    curve at true positives alone.

    Args:
        table: The matches.
        weights: (num_images,) integers, how often each image counts; None for once.
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
    """AP of a table's curves over recall points (11, 101) or as ``AREA_UNDER_CURVE``.

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
    figures: Mapping[str, Figure],
    weights: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Figures by class, each (classes,), NaN for a class without ground truth; weights as above."""
    curves = {name: make_curve(tables[name], weights) for name in {f.table for f in figures.values()}}
    kinds = {(figure.table, figure.points) for figure in figures.values()}
    aps = {(name, points): integrate(tables[name], curves[name], points) for name, points in kinds}
    return {
        name: aps[figure.table, figure.points][:, figure.thresholds].mean(axis=1)
        for name, figure in figures.items()
    }


def _running(values: np.ndarray) -> np.ndarray:
    """Running sum of (n,) integers with a leading 0."""
    total = np.zeros(len(values) + 1, np.int32)
    np.cumsum(values, out=total[1:], dtype=np.int32)
    return total


def recall_at(table: MatchTable, max_dets: int) -> np.ndarray:
    """Recall of each class (classes, thresholds) with ``max_dets`` detections an image; NaN as above."""
    positives = np.diff(table.gt_start)[:, None]
    found = np.diff(_running(table.tp_rank < max_dets)[table.tp_start])
    found = found.reshape(-1, len(table.thresholds))
    return np.where(positives > 0, found / np.maximum(positives, 1), np.nan)


def class_figures(
    tables: dict[str, MatchTable], voc_ious: Sequence[float] = (0.5,)
) -> dict[str, np.ndarray]:
    """All figures by name, each (classes,) with NaN for a class without ground truth."""
    values = average_precision(tables, list_figures(voc_ious))
    for max_dets in (1, 10, 100):
        values[f'coco/ar_{max_dets}'] = recall_at(tables['all'], max_dets).mean(axis=1)
    for area in ('small', 'medium', 'large'):
        values[f'coco/ar_{area}'] = recall_at(tables[area], 100).mean(axis=1)
    return values


@dataclass(frozen=True)
class Samples:
    """One figure: its value on the test set, and on resampled images (num,), NaN where it has none."""

    estimate: float
    values: np.ndarray


@dataclass(frozen=True)
class Interval:
    """An estimate and its interval; ``bias`` is how far the resamples' mean lies above the estimate."""

    estimate: float
    low: float
    high: float
    standard_error: float
    bias: float


@dataclass(frozen=True)
class Comparison:
    """Second minus first of two models; ``won`` is the share of resamples that the second won."""

    difference: Interval
    won: float
    p_value: float


def resample(
    tables: Mapping[str, MatchTable],
    figures: Mapping[str, Figure],
    num: int = 1000,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Figures by class on resampled images, each (num, classes); NaN where a class has no box.

    The same seed and number of images draw the same images, so that two models can be compared.
    """
    num_images = next(iter(tables.values())).num_images
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(num):
        drawn = rng.integers(0, num_images, num_images)
        rows.append(average_precision(tables, figures, np.bincount(drawn, minlength=num_images)))
    return {name: np.array([row[name] for row in rows]) for name in figures}


def mean_over_classes(values: np.ndarray) -> np.ndarray:
    """Means over the last axis (..., classes) of what is not NaN; NaN if nothing is."""
    there = ~np.isnan(values)
    count = there.sum(axis=-1)
    total = np.where(there, values, 0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def bootstrap(
    tables: Mapping[str, MatchTable],
    figures: Mapping[str, Figure],
    num: int = 1000,
    seed: int = 0,
) -> dict[str, Samples]:
    """Resamples means over classes; a figure without any ground truth is left out."""
    rows = resample(tables, figures, num, seed)
    own = average_precision(tables, figures)
    samples = {
        name: Samples(float(mean_over_classes(own[name])), mean_over_classes(rows[name]))
        for name in figures
    }
    return {name: sample for name, sample in samples.items() if not np.isnan(sample.estimate)}


def interval(samples: Samples, level: float = 0.95) -> Interval:
    """Interval from resampled values, with the resamples' bias taken off.

    An image drawn twice repeats its true positives in a row and so lifts the precision envelope: AP on
    resamples lies above AP on the set itself, by about as much as it spreads, and the plain percentile
    interval with it. Here the resamples are moved until their mean is the estimate, then their
    quantiles taken: an interval for the mean AP over test sets of this size.

    Why not BC or BCa (Efron): a bias as large as the spread drives their quantiles into one tail. On 200
    made test sets of 300 images (200 resamples each) the 95 % intervals of COCO AP, VOC 11-point and
    VOC area AP held that mean in 96, 95 and 92 % of cases, BC's in 85, 86 and 88 % (BCa's in 85, 86 and
    89 %), the plain percentile interval's in 88, 93 and 91 %. (AP on ever more images lies lower, by
    about the bias.)
    """
    values = samples.values[~np.isnan(samples.values)]
    bias = float(values.mean() - samples.estimate)
    low, high = np.quantile(values - bias, [(1 - level) / 2, (1 + level) / 2])
    error = float(values.std(ddof=1))
    return Interval(samples.estimate, float(low), float(high), error, bias)


def compare(first: Samples, second: Samples, level: float = 0.95) -> Comparison:
    """Compares two models that were resampled with the same seed on the same images.

    The p-value is two-sided: twice the share of resampled differences, moved as in `interval`, that lie
    on the other side of 0.
    """
    values = second.values - first.values
    difference = interval(Samples(second.estimate - first.estimate, values), level)
    values = values[~np.isnan(values)]
    moved = values - difference.bias
    tail = min(int((moved <= 0).sum()), int((moved >= 0).sum()))
    won = float((values > 0).mean() + (values == 0).mean() / 2)
    return Comparison(difference, won, min(1.0, 2 * (tail + 1) / (len(values) + 1)))


def format_bootstrap(intervals: Mapping[str, Interval], comparisons: Mapping[str, Comparison]) -> str:
    """Intervals of one model, and its comparison with a second where there is one, in percent."""
    table = Table('95 % over images', 'figure', 'interval')
    if comparisons:
        for title in ('second - first', 'interval', 'second won', 'p (two-sided)'):
            table.add_column(title)
    for name, own in intervals.items():
        row = [name, f'{100 * own.estimate:.2f}', f'{100 * own.low:.2f} to {100 * own.high:.2f}']
        if name in comparisons:
            other = comparisons[name]
            gain = other.difference
            row += [
                f'{100 * gain.estimate:+.2f}',
                f'{100 * gain.low:+.2f} to {100 * gain.high:+.2f}',
                f'{100 * other.won:.1f} %',
                f'{other.p_value:.3g}',
            ]
        table.add_row(*row)
    return render(table)


def render(table: Table) -> str:
    """A table as plain text."""
    text = io.StringIO()
    Console(file=text, width=120).print(table)
    return text.getvalue().rstrip()
