"""Charts of an error analysis: precision-recall curves, and the AP that the error types cost.

Lines in one chart differ in their dashes too.
"""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from compactdet.analysis.error_types import CURVE_IOUS, ERRORS, FOREGROUND, POINTS, SPECIAL, Analysis
from compactdet.chart_style import FAINT, OKABE_ITO, encode, new_figure, styled
from compactdet.evaluation.average_precision import mean_over_classes

NAMES = {
    'cls': 'classification',
    'loc': 'localisation',
    'both': 'both',
    'dup': 'duplicate',
    'bkg': 'background',
    'miss': 'missed',
    'fp': 'all false positives',
    'fn': 'all boxes not found',
}
COLORS = {
    'cls': '#e69f00',
    'loc': '#56b4e9',
    'both': '#009e73',
    'dup': '#cc79a7',
    'bkg': '#d55e00',
    'miss': '#0072b2',
    'fp': '#595959',
    'fn': '#b3b3b3',
}
PALE = '#d0d0d0'
MAX_NAMED = 8  # number of colored curves; of more classes, the three best and the three worst
MAX_ROWS = 20  # classes in the chart of errors


def shorten(text: str, length: int = 22) -> str:
    """Return a text of at most this many characters."""
    return text if len(text) <= length else text[: length - 1] + '…'


def draw_curves(classes: Sequence[str], analysis: Analysis, rule: str) -> bytes:
    """Return the precision-recall curves at IoU 0.5 and 0.75, of classes and their mean, as PNG.

    Args:
        classes: Class names.
        analysis: The results.
        rule: ``voc`` (its matching; the 11 points are marked and give AP) or ``coco``.
    """
    curves = analysis.curves[rule]
    names = [
        f'voc/ap{100 * iou:g}_11point' if rule == 'voc' else f'coco/ap{100 * iou:g}' for iou in CURVE_IOUS
    ]
    known = np.flatnonzero(~np.isnan(analysis.metrics[names[0]]))
    ranked = known[np.argsort(-analysis.metrics[names[0]][known], kind='stable')]
    named = ranked if len(ranked) <= MAX_NAMED else np.concatenate([ranked[:3], ranked[-3:]])
    styles = list(zip(OKABE_ITO, cycle(('-', (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1, 1, 1))))))
    recall = np.linspace(0, 1, POINTS)
    with styled():
        figure = new_figure(9, 4.3 + 0.2 * ((len(named) + 3) // 2))
        for column, (iou, name) in enumerate(zip(CURVE_IOUS, names, strict=True)):
            axes = figure.add_subplot(1, 2, column + 1)
            values = analysis.metrics[name]
            others = np.setdiff1d(known, named)
            for k in others:
                axes.plot(recall, curves[k, column], color=PALE, linewidth=0.8, drawstyle='steps-pre')
            for (color, dashes), k in zip(styles, named, strict=False):
                # The space: matplotlib hides labels that begin with _.
                label = f' {shorten(classes[k])}  {100 * values[k]:.1f}'
                look = {'color': color, 'linestyle': dashes, 'linewidth': 1.5}
                _plot(axes, curves[k, column], rule, label, look)
            mean = f'{100 * mean_over_classes(values):.1f}' if len(known) else '-'
            label = f'mean of {len(known)}  {mean}'
            look = {'color': 'black', 'linewidth': 2.4}
            _plot(axes, mean_over_classes(curves[:, column].T), rule, label, look)
            if len(others):
                axes.plot([], [], color=PALE, label=f'the other {len(others)}')
            axes.set(xlim=(0, 1.005), ylim=(0, 1.02), xlabel='recall', title=f'IoU ≥ {iou:g}')
            axes.set_aspect('equal')
            axes.grid(color=FAINT)
            axes.legend(loc='upper center', bbox_to_anchor=(0.5, -0.13), ncols=2, handlelength=3)
        figure.axes[0].set_ylabel('highest precision at this recall or beyond')
        what = '11-point AP (dots)' if rule == 'voc' else 'AP over 101 recalls'
        figure.suptitle(f"Precision and recall, {rule.upper()}'s matching; beside the names: {what} in %")
        return encode(figure)


def _plot(axes: Axes, precision: np.ndarray, rule: str, label: str, look: dict[str, Any]) -> None:
    """Draw one curve, given at 101 recalls; VOC's 11 points are every tenth."""
    recall = np.linspace(0, 1, POINTS)
    marks: dict[str, Any] = {'marker': 'o', 'markersize': 3.5, 'markevery': 10} if rule == 'voc' else {}
    axes.plot(recall, precision, label=label, drawstyle='steps-pre', clip_on=False, **marks, **look)


def draw_errors(classes: Sequence[str], analysis: Analysis) -> bytes:
    """Return a chart of the AP that each error type costs, for the mean and for classes, as PNG."""
    gains = {name: 100 * values for name, values in analysis.gains.items()}
    total = np.sum([gains[name] for name in ERRORS], axis=0)
    known = np.flatnonzero(~np.isnan(total))
    worst = known[np.argsort(-total[known], kind='stable')][:MAX_ROWS]
    shown = known if len(known) <= MAX_ROWS else worst
    labels = ['mean', *(shorten(classes[k]) for k in shown)]
    rows = {name: np.nan_to_num([mean_over_classes(v), *v[shown]]) for name, v in gains.items()}
    place = np.array([0, *(np.arange(len(shown)) + 1.4)])  # the mean is set apart
    with styled():
        figure = new_figure(9, 1.7 + 0.34 * len(place))
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 1))
        start = np.zeros(len(place))
        widest = max(1e-9, np.sum([rows[name] for name in ERRORS], axis=0).max())
        for name in ERRORS:
            look = {'color': COLORS[name], 'edgecolor': 'white', 'linewidth': 0.8}
            bars = left.barh(place, rows[name], 0.74, start, label=NAMES[name], **look)
            texts = [f'{width:.1f}' if width > 0.035 * widest else '' for width in rows[name]]
            left.bar_label(bars, texts, label_type='center', fontsize=8, color=_ink(COLORS[name]))
            start += rows[name]
        for name, offset in zip(SPECIAL, (-0.19, 0.19), strict=True):
            bars = right.barh(place + offset, rows[name], 0.36, color=COLORS[name], label=NAMES[name])
            right.bar_label(bars, fmt='%.1f', fontsize=7, padding=2)
        left.set_yticks(place, labels)
        left.get_yticklabels()[0].set_fontweight('bold')
        left.set(xlim=(0, 1.02 * widest), ylim=(place[-1] + 0.6, -0.6))
        right.set_xlim(0, 1.2 * max(1e-9, *(rows[name].max() for name in SPECIAL)))
        if len(shown) < len(known):
            left.set_ylabel(f'the {len(shown)} of {len(known)} classes that lose most')
        left.set_xlabel(f'points of AP{100 * FOREGROUND:g} gained by putting one type right, each alone')
        right.set_xlabel(f'points of AP{100 * FOREGROUND:g}')
        for axes, columns in ((left, 6), (right, 1)):
            axes.grid(axis='x', color=FAINT)
            axes.tick_params(axis='y', length=0)
            axes.legend(
                loc='lower left', bbox_to_anchor=(-0.01, 1), ncols=columns, handlelength=1, columnspacing=1
            )
        return encode(figure)


def _ink(color: str) -> str:
    """Return black or white, whichever has more contrast to a color."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return 'black' if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else 'white'
