"""Scatter plots of AP against accuracy, one per setting. Points are labeled where there is space."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Mapping
from itertools import product
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from compactdet.chart_style import OKABE_ITO, new_figure, styled
from compactdet.leaderboard.groups import METRICS
from compactdet.transfer.study import SettingStudy

TEXT_COLOR = '#1b1b1c'  # replaced by the text color of the HTML page
GRID_COLOR = '#8a8a8a'
COLORS = OKABE_ITO[:6]
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')  # 7 markers and 6 colors: 42 different combinations
WIDTH, HEIGHT = 5.2, 3.9  # inches, without legend; small, so that the text is legible on a phone
FONT = 8
AXES_BOX = (
    0.62,
    0.45,
    4.45,
    3.08,
)  # inches above the legend: left, bottom, width, height; two lines of title
LEGEND_COLUMNS, LEGEND_ROW = 3, 0.17  # number, height in inches
TITLE_WIDTH = 88  # characters per line
# Positions of a label relative to its point, preferred ones first.
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
DISTANCES = (5, 12, 20, 32)  # points
POSITIONS = tuple(product(DISTANCES, DIRECTIONS))
HORIZONTAL_ALIGNMENT = {1: 'left', -1: 'right', 0: 'center'}
VERTICAL_ALIGNMENT = {1: 'bottom', -1: 'top', 0: 'center'}
STYLE: dict[Any, Any] = {
    'font.size': FONT,
    'text.parse_math': True,
    'svg.fonttype': 'none',
    'svg.hashsalt': 'compactdet',
    'text.color': TEXT_COLOR,
    'axes.labelcolor': TEXT_COLOR,
    'axes.edgecolor': GRID_COLOR,
    'xtick.color': TEXT_COLOR,
    'ytick.color': TEXT_COLOR,
}


def draw_scatter(study: SettingStudy) -> dict[str, bytes]:
    """Draw the scatter plot of a setting.

    Returns:
        The plot as 'png' and as 'svg'; equal studies give equal bytes.
    """
    handles = _legend_handles(study)
    below = LEGEND_ROW * math.ceil(len(handles) / LEGEND_COLUMNS)
    height = HEIGHT + below
    left, bottom, *size = AXES_BOX
    with styled(STYLE):
        figure = new_figure(WIDTH, height, None)
        axes = figure.add_axes((left / WIDTH, (below + bottom) / height, size[0] / WIDTH, size[1] / height))
        figure.legend(
            handles=handles, loc='lower left', bbox_to_anchor=(0.09, 0), ncols=LEGEND_COLUMNS,
            fontsize=FONT - 1, borderpad=0.1,
            labelspacing=0.3, handletextpad=0.4, columnspacing=1,
        )  # fmt: skip
        _draw(axes, study)
        axes.autoscale_view()  # fixes the pixel positions for the labels
        _place_labels(axes, study)
        plot = {}
        for kind, metadata in (('png', {'Software': None}), ('svg', {'Date': None, 'Creator': None})):
            buffer = io.BytesIO()
            transparent = kind == 'svg'
            figure.savefig(buffer, format=kind, dpi=200, metadata=metadata, transparent=transparent)
            plot[kind] = buffer.getvalue()
    return plot


def to_inline_svg(svg: bytes, label: str) -> str:
    """Return an SVG file as an element of an HTML page, with the page's font and text color.

    Group ids are removed, because they would not be unique in the page.

    Args:
        svg: An SVG file from `draw_scatter`.
        label: Text for screen readers.
    """
    text = svg.decode()
    text = text[text.index('<svg') :]
    text = re.sub(r'<metadata>.*?</metadata>|<style.*?</style>', '', text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', '<g', text)
    text = re.sub(r'font-family: [^;]*; ', '', text)
    text = re.sub(
        r'<svg([^>]*?) width="[^"]*" height="[^"]*"',
        lambda found: f'<svg role="img" aria-label={quoteattr(label)}{found[1]}', text, count=1,
    )  # fmt: skip
    return text.replace(TEXT_COLOR, 'currentColor')


def family_styles(study: SettingStudy) -> Mapping[str, tuple[str, str]]:
    """Return the color and the marker of each family."""
    families = sorted({network.family for network in study.nets})
    return {
        family: (COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]) for i, family in enumerate(families)
    }


def _legend_handles(study: SettingStudy) -> list[Line2D]:
    """Return the symbols of the legend: the families, the bars and the line."""
    style = family_styles(study)
    handles = [
        Line2D(
            [], [], color=color, marker=marker, markersize=5, linestyle='none', label=f' {_plain(family)}'
        )
        for family, (color, marker) in style.items()
    ]  # the space: Matplotlib hides labels that begin with _
    if any(network.spread for network in study.nets):
        label = '± 1 standard deviation over seeds'
        handles.append(
            Line2D([], [], color=GRID_COLOR, marker='|', markersize=8, linestyle='none', label=label)
        )
    if study.line:
        handles.append(Line2D([], [], color=GRID_COLOR, linewidth=1, label='least-squares line'))
    return handles


def _draw(axes: Axes, study: SettingStudy) -> None:
    style = family_styles(study)
    for network in study.nets:
        color, marker = style[network.family]
        spread = None if network.spread is None else [network.spread]
        axes.errorbar(
            [network.accuracy or 0.0], [network.ap], yerr=spread, color=color,
            marker=marker, markersize=6, linestyle='none', capsize=2, zorder=3,
        )  # fmt: skip
    if study.line:
        axes.plot(*zip(*_fitted_line(study, 2), strict=True), color=GRID_COLOR, linewidth=1, zorder=2)
    axes.margins(0.12)
    axes.grid(color=GRID_COLOR, alpha=0.25, linewidth=0.6)
    figure = study.setting.figure
    title = textwrap.fill(_plain(study.setting.title), TITLE_WIDTH)
    axes.set_title(title, fontsize=FONT - 1, loc='left')
    axes.set_xlabel(f'top-1 accuracy on {_plain(study.setting.start)} (%)')
    axes.set_ylabel(f'{_plain(METRICS.get(figure, figure))} (%)')


def _fitted_line(study: SettingStudy, count: int) -> list[tuple[float, float]]:
    """Return ``count`` points on the fitted line, from the lowest accuracy to the highest."""
    if study.line is None:
        return []
    constant, slope = study.line.coefficients
    low, high = (f(network.accuracy or 0.0 for network in study.nets) for f in (min, max))
    xs = [low + (high - low) * i / (count - 1) for i in range(count)]
    return [(x, constant + slope * x) for x in xs]


def _plain(text: str) -> str:
    """Return a text in which nothing is a formula and every character is allowed in SVG."""
    return ''.join(c if c.isprintable() else ' ' for c in text).replace('$', r'\$')


def _place_labels(axes: Axes, study: SettingStudy) -> None:
    """Label the networks, highest AP first.

    Each label takes the position that covers the least. It is omitted if it would cover a point or another
    label at every position.
    """
    points = [axes.transData.transform((network.accuracy or 0.0, network.ap)) for network in study.nets]
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in points]
    lines = [
        Bbox.from_bounds(x - 2, y - 2, 4, 4)
        for x, y in (axes.transData.transform(point) for point in _fitted_line(study, 80))
    ]
    bars = []
    for network in study.nets:
        if network.spread:
            ends = [(network.accuracy or 0.0, network.ap + side * network.spread) for side in (-1, 1)]
            bars.append(Bbox(axes.transData.transform(ends)).padded(4))
    frame = axes.get_window_extent()
    pixels = axes.figure.dpi / 72  # per point
    for i in sorted(range(len(points)), key=lambda i: (-study.nets[i].ap, study.nets[i].name)):
        network = study.nets[i]
        label = axes.annotate(
            _plain(network.name), (network.accuracy or 0.0, network.ap), xytext=(0, 0),
            textcoords='offset points', fontsize=FONT - 1, zorder=4,
        )  # fmt: skip
        size = label.get_window_extent().padded(1)
        others = [box for j, box in enumerate(taken) if j != i]
        boxes = [_label_box(points[i], size, dx, dy, distance * pixels) for distance, (dx, dy) in POSITIONS]
        scores = []
        for index, (box, (distance, _)) in enumerate(zip(boxes, POSITIONS, strict=True)):
            covered = box.count_overlaps(others) + _outside(box, frame)
            far = distance > DISTANCES[1]  # a label across the line is better than one far from its point
            crossed = box.count_overlaps(bars) > 0
            scores.append((covered, crossed, far, box.count_overlaps(lines) > 0, index))
        covered, *_, best = min(scores)
        if covered:
            label.remove()
            continue
        distance, (dx, dy) = POSITIONS[best]
        offset = (dx * distance, dy * distance)
        label.set(position=offset, ha=HORIZONTAL_ALIGNMENT[dx], va=VERTICAL_ALIGNMENT[dy])
        if distance > DISTANCES[0]:
            line = dict(arrowstyle='-', color=GRID_COLOR, linewidth=0.6, shrinkA=0, shrinkB=0)
            axes.annotate(
                '', label.xy, xytext=offset, textcoords='offset points', arrowprops=line, zorder=1
            )
        taken.append(boxes[best])


def _label_box(point: np.ndarray, size: Bbox, dx: int, dy: int, distance: float) -> Bbox:
    """Return the box of a label, in pixels.

    Args:
        point: Position of the labeled point.
        size: A box of the label's size.
        dx: -1 for left of the point, 0 for centered, 1 for right of it.
        dy: -1 for below the point, 0 for centered, 1 for above it.
        distance: Distance from the point.
    """
    left = point[0] + dx * distance - (1 - dx) / 2 * size.width
    bottom = point[1] + dy * distance - (1 - dy) / 2 * size.height
    return Bbox.from_bounds(left, bottom, size.width, size.height)


def _outside(box: Bbox, frame: Bbox) -> bool:
    return not (
        box.x0 >= frame.x0 - 2 and box.x1 <= frame.x1 + 14 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    )
