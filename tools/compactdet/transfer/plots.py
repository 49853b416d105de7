"""Plots of accuracy against AP, one per setting, with labels where there is space."""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Mapping
from itertools import product
from typing import Any
from xml.sax.saxutils import quoteattr

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from compactdet.leaderboard.board import FIGURES
from compactdet.transfer.study import SettingStudy

INK = '#1b1b1c'  # replaced by the text color of the page
GRID = '#8a8a8a'
# Colors of Okabe and Ito for color-blind readers, without black and yellow.
COLORS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9')
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')  # 7 and 6 have no common factor: 42 different pairs
SIZE = (5.2, 3.9)  # inches; small, so that text stays legible on a phone
FONT = 8
FRAME = (0.12, 0.115, 0.855, 0.79)  # left, bottom, width, height; two lines of title fit above
TITLE_WIDTH = 88  # characters in a line
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
DISTANCES = (5, 12, 20, 32)  # points
SIDES = {1: 'left', -1: 'right', 0: 'center'}
HEIGHTS = {1: 'bottom', -1: 'top', 0: 'center'}
STYLE: dict[Any, Any] = {
    'font.family': ['DejaVu Sans', 'sans-serif'],
    'font.size': FONT,
    'svg.fonttype': 'none',
    'svg.hashsalt': 'compactdet',
    'text.color': INK,
    'axes.labelcolor': INK,
    'axes.edgecolor': GRID,
    'xtick.color': INK,
    'ytick.color': INK,
}


def scatter(study: SettingStudy) -> dict[str, bytes]:
    """Draw the plot of a setting.

    Returns:
        The picture as 'png' and as 'svg', the same bytes for the same study.
    """
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing')  # drawn as a box; the tables contain the name
        figure = Figure(figsize=SIZE)
        FigureCanvasAgg(figure)
        axes = figure.add_axes(FRAME)
        _draw(axes, study)
        axes.autoscale_view()  # pixel positions are known from here on
        _place_labels(axes, study)
        pictures = {}
        for kind, metadata in (('png', {'Software': None}), ('svg', {'Date': None, 'Creator': None})):
            buffer = io.BytesIO()
            transparent = kind == 'svg'
            figure.savefig(buffer, format=kind, dpi=200, metadata=metadata, transparent=transparent)
            pictures[kind] = buffer.getvalue()
    return pictures


def inline(svg: bytes, label: str) -> str:
    """Return an SVG file as part of a page: in the page's font and text color, without ids of groups.

    Args:
        svg: A picture from `scatter`.
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
    return text.replace(INK, 'currentColor')


def styles(study: SettingStudy) -> Mapping[str, tuple[str, str]]:
    """Return color and marker of each family."""
    families = sorted({net.family for net in study.nets})
    return {
        family: (COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)]) for i, family in enumerate(families)
    }


def _draw(axes: Axes, study: SettingStudy) -> None:
    style = styles(study)
    for net in study.nets:
        color, marker = style[net.family]
        axes.errorbar(
            [net.accuracy or 0.0], [net.ap], yerr=None if net.spread is None else [net.spread],
            color=color, marker=marker, markersize=6, linestyle='none', capsize=2, zorder=3,
        )  # fmt: skip
    if study.line:
        axes.plot(*zip(*_line(study, 2), strict=True), color=GRID, linewidth=1, zorder=2)
    axes.margins(0.12)
    axes.grid(color=GRID, alpha=0.25, linewidth=0.6)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)
    figure = study.setting.figure
    title = textwrap.fill(_plain(study.setting.title), TITLE_WIDTH)
    axes.set_title(title, fontsize=FONT - 1, loc='left')
    axes.set_xlabel(f'top-1 accuracy on {_plain(study.setting.start)} (%)')
    axes.set_ylabel(f'{_plain(FIGURES.get(figure, figure))} (%)')


def _line(study: SettingStudy, count: int) -> list[tuple[float, float]]:
    """Return the points along the fitted line, from the lowest accuracy to the highest."""
    if study.line is None:
        return []
    constant, slope = study.line.coefficients
    low, high = (f(net.accuracy or 0.0 for net in study.nets) for f in (min, max))
    xs = [low + (high - low) * i / (count - 1) for i in range(count)]
    return [(x, constant + slope * x) for x in xs]


def _plain(text: str) -> str:
    """Return a text without formulas and without characters that SVG does not allow."""
    return ''.join(letter if letter.isprintable() else ' ' for letter in text).replace('$', r'\$')


def _place_labels(axes: Axes, study: SettingStudy) -> None:
    """Label the networks, best first, where the labels cover least; labels that would cover another are
    omitted.
    """
    points = [axes.transData.transform((net.accuracy or 0.0, net.ap)) for net in study.nets]
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in points]
    lines = [
        Bbox.from_bounds(x - 2, y - 2, 4, 4)
        for x, y in (axes.transData.transform(point) for point in _line(study, 80))
    ]
    for net in study.nets:
        if net.spread:
            ends = [(net.accuracy or 0.0, net.ap + side * net.spread) for side in (-1, 1)]
            lines.append(Bbox(axes.transData.transform(ends)).padded(4))
    frame = axes.get_window_extent()
    pixels = axes.figure.dpi / 72  # in a point
    places = list(product(DISTANCES, DIRECTIONS))
    for i in sorted(range(len(points)), key=lambda i: (-study.nets[i].ap, study.nets[i].name)):
        net = study.nets[i]
        label = axes.annotate(
            _plain(net.name), (net.accuracy or 0.0, net.ap), xytext=(0, 0), textcoords='offset points',
            fontsize=FONT - 1, zorder=4,
        )  # fmt: skip
        size = label.get_window_extent().padded(1)
        others = [box for j, box in enumerate(taken) if j != i]
        scores = []
        for index, (distance, (dx, dy)) in enumerate(places):
            box = _beside(points[i], size, dx, dy, distance * pixels)
            covered = box.count_overlaps(others) + _outside(box, frame)
            far = (
                distance > DISTANCES[1]
            )  # a line through a label is better than a label far from its point
            scores.append((covered, far, box.count_overlaps(lines) > 0, index))
        covered, *_, index = min(scores)
        if covered:
            label.remove()
            continue
        distance, (dx, dy) = places[index]
        label.set(position=(dx * distance, dy * distance), ha=SIDES[dx], va=HEIGHTS[dy])
        if distance > DISTANCES[0]:
            axes.annotate(
                '', label.xy, xytext=(dx * distance, dy * distance), textcoords='offset points',
                arrowprops=dict(arrowstyle='-', color=GRID, linewidth=0.6, shrinkA=0, shrinkB=0), zorder=1,
            )  # fmt: skip
        taken.append(_beside(points[i], size, dx, dy, distance * pixels))


def _beside(point: np.ndarray, size: Bbox, dx: int, dy: int, distance: float) -> Bbox:
    """Return the pixels of a label at a distance from its point, left (-1) or right (1), and so on."""
    left = point[0] + dx * distance - (1 - dx) / 2 * size.width
    bottom = point[1] + dy * distance - (1 - dy) / 2 * size.height
    return Bbox.from_bounds(left, bottom, size.width, size.height)


def _outside(box: Bbox, frame: Bbox) -> bool:
    return not (
        box.x0 >= frame.x0 - 2 and box.x1 <= frame.x1 + 14 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    )
