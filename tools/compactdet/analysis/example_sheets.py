"""Draw sheets of images with correct, wrong and missed detections."""

from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from compactdet.analysis.charts import NAMES, shorten
from compactdet.analysis.error_types import Analysis, Verdicts
from compactdet.analysis.examples import NUM_ERRORS, Files, Scene, choose_errors, choose_images, find_scene
from compactdet.chart_style import encode, new_figure, styled
from compactdet.data.annotations import Annotations, Detections
from compactdet.errors import UserError
from compactdet.evaluation.average_precision import mean_over_classes

# Inches: width of a sheet, space for names, space for the legend, gap between tiles.
WIDTH, LEFT, LEGEND, GAP = 9.6, 0.45, 0.36, 0.05
TILE = 440  # most pixels of the longer side of a tile
RIGHT, WRONG, MISSED, IGNORED = '#0072b2', '#d55e00', '#f0e442', '#999999'
# Color, color below it, width in points, dashes: correct, wrong and missed differ in all of them.
LINES: dict[str, tuple[str, str, float, Any]] = {
    'right': (RIGHT, 'white', 1.1, '-'),
    'wrong': (WRONG, 'white', 2.0, '-'),
    'missed': (MISSED, 'black', 1.8, (0, (3, 2))),
    'ignored': (IGNORED, 'white', 1.1, (0, (1, 1.5))),
}
MEANING = {
    'right': 'right',
    'wrong': 'wrong',
    'missed': 'not found',
    'ignored': 'ignored (difficult, crowd)',
}


def draw_error_sheet(gt: Annotations, dt: Detections, analysis: Analysis, files: Files) -> bytes | None:
    """Return a row of worst cases per error type as JPEG; None if there are none, or no images."""
    verdicts = analysis.verdicts
    chosen = choose_errors(gt, dt, verdicts, files)
    if not chosen:
        return None
    with styled():
        width = (WIDTH - LEFT) / NUM_ERRORS
        figure, grid = _new_sheet(len(chosen), NUM_ERRORS, (width, width), Margins(left=LEFT, below=0.46))
        for axes_row, (name, rows) in zip(grid, chosen.items(), strict=True):
            for axes, row in zip(axes_row, rows, strict=False):
                picture = read_image(files[int((gt if name == 'miss' else dt).image_index[row])])
                _draw_error(axes, picture, (gt, dt), analysis, name, row)
            gain = 100 * mean_over_classes(analysis.gains[name])
            number = (verdicts.missed if name == 'miss' else verdicts.kind == name).sum()
            axes_row[0].set_ylabel(f'{NAMES[name]}\n{number}, {gain:.1f} points', fontsize=9)
        _add_legend(figure, bool((~verdicts.wanted).any()))
        return encode(figure, 'jpg')


def draw_image_sheet(gt: Annotations, dt: Detections, analysis: Analysis, files: Files) -> bytes | None:
    """Return the images with most errors as JPEG; None if there are none, or no images."""
    verdicts, score = analysis.verdicts, analysis.point.score
    chosen = choose_images(gt, dt, verdicts, score, files)
    if not chosen:
        return None
    pictures = [read_image(files[image]) for image in chosen]
    with styled():
        columns = min(3, len(chosen))
        width = WIDTH / columns
        tallest = max(min(1.3, picture.shape[0] / picture.shape[1]) for picture in pictures)
        rows = -(-len(chosen) // columns)
        figure, grid = _new_sheet(rows, columns, (width, tallest * width), Margins(above=0.24))
        for axes, image, picture in zip(chain(*grid), chosen, pictures, strict=False):
            scene = find_scene(gt, dt, verdicts, image, score)
            _show(axes, picture, (0, 0, picture.shape[1], picture.shape[0]))
            _draw_scene(axes, gt, dt, scene)
            for row in scene.missed:
                _write(axes, gt.boxes[row], shorten(gt.classes[gt.labels[row]], 12), MISSED, 'black')
            for row in scene.wrong:
                text = (
                    f'{verdicts.kind[row]}: {shorten(gt.classes[dt.labels[row]], 12)} {dt.scores[row]:.2f}'
                )
                _write(axes, dt.boxes[row], text, WRONG, 'white')
            counts = f'{len(scene.right)} right, {len(scene.wrong)} wrong, {len(scene.missed)} not found'
            axes.set_title(f'{_name(gt, image)}: {counts}', fontsize=7.5)
        _add_legend(figure, bool((~verdicts.wanted).any()))
        return encode(figure, 'jpg')


def read_image(path: Path) -> np.ndarray:
    """Read an image with its pixels as stored, as its annotations require: (H, W, 3) uint8 RGB.

    Raises:
        UserError: It cannot be decoded.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise UserError(
            f'{path}: cannot be decoded; get it again (tools/data.py check finds all such images)'
        )
    return np.ascontiguousarray(image[..., ::-1])


def _draw_error(
    axes: Axes,
    picture: np.ndarray,
    boxes: tuple[Annotations, Detections],
    analysis: Analysis,
    name: str,
    row: int,
) -> None:
    """Draw an error on its image, and its surroundings with thinner lines."""
    (gt, dt), verdicts = boxes, analysis.verdicts
    missed = name == 'miss'
    image = int((gt if missed else dt).image_index[row])
    box = row if missed else int(verdicts.box[row])
    none = np.zeros(0, int)
    about = none if box < 0 else np.array([box])
    taker = verdicts.taker[about][verdicts.taker[about] >= 0]  # also below the operating point
    error = none if missed else np.array([row])
    focus = Scene(taker, error, none if len(taker) else about, none)
    around = find_scene(gt, dt, verdicts, image, analysis.point.score)
    around = Scene(
        np.setdiff1d(around.right, taker),
        around.wrong if missed else none,
        np.setdiff1d(around.missed, about),
        around.ignored,
    )
    parts = np.concatenate([dt.boxes[error], gt.boxes[about]])
    _show(axes, picture, _surroundings(parts, picture.shape))
    _draw_scene(axes, gt, dt, around, 0.6)
    _draw_scene(axes, gt, dt, focus)
    caption = f'{_caption(gt, dt, verdicts, name, row)}\n{_name(gt, image)}'
    axes.set_xlabel(caption, fontsize=7.5, labelpad=3)


def _caption(gt: Annotations, dt: Detections, verdicts: Verdicts, name: str, row: int) -> str:
    """Describe an error in two lines."""
    if name == 'miss':
        width, height = gt.sizes[row]
        return f'{shorten(gt.classes[gt.labels[row]])}\n{width:.0f}x{height:.0f} pixels'
    box, iou = verdicts.box[row], verdicts.iou[row]
    truth = shorten(gt.classes[gt.labels[box]], 16)
    return (
        f'{shorten(gt.classes[dt.labels[row]])} {dt.scores[row]:.2f}\n'
        + {
            'cls': f'is {truth}',
            'loc': f'IoU {iou:.2f}',
            'both': f'IoU {iou:.2f} with {truth}',
            'dup': f'IoU {iou:.2f}, taken by {dt.scores[verdicts.taker[box]]:.2f}',
            'bkg': 'no box there',
        }[name]
    )


def _surroundings(boxes: np.ndarray, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return a square around boxes (n, 4) inside the image: twice their size, at least an eighth of the
    image.
    """
    height, width = shape[:2]
    x1, y1 = boxes[:, :2].min(axis=0)
    x2, y2 = boxes[:, 2:].max(axis=0)
    side = max(1, round(min(max(2 * (x2 - x1), 2 * (y2 - y1), max(height, width) / 8), max(height, width))))
    left = round(min(max(0, (x1 + x2 - side) / 2), max(0, width - side)))
    top = round(min(max(0, (y1 + y2 - side) / 2), max(0, height - side)))
    return left, top, min(width, left + side), min(height, top + side)


class Margins(NamedTuple):
    """Space in inches: beside the grid of a sheet, and above and below each of its tiles."""

    left: float = 0.0
    above: float = 0.0
    below: float = 0.0


def _new_sheet(
    rows: int, columns: int, tile: tuple[float, float], margins: Margins
) -> tuple[Figure, list[list[Axes]]]:
    """Return a figure with a grid of blank axes, row by row; ``tile`` is width and height in inches."""
    (width, height), (left, above, below) = tile, margins
    pitch = above + height + below
    total = (left + columns * width, rows * pitch + LEGEND)
    figure = new_figure(*total, layout=None)
    grid: list[list[Axes]] = []
    for row in range(rows):
        grid.append([])
        for column in range(columns):
            x, y = left + column * width + GAP / 2, total[1] - row * pitch - above - height
            place = (x / total[0], y / total[1], (width - GAP) / total[0], (height - GAP / 2) / total[1])
            axes = figure.add_axes(place, xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            grid[-1].append(axes)
    return figure, grid


def _show(axes: Axes, picture: np.ndarray, region: tuple[int, int, int, int]) -> None:
    """Show a region x1, y1, x2, y2 of an image; the axes are in pixels of the image."""
    x1, y1, x2, y2 = region
    part = picture[y1:y2, x1:x2]
    scale = TILE / max(part.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    size = (max(1, round(scale * part.shape[1])), max(1, round(scale * part.shape[0])))
    axes.imshow(
        cv2.resize(part, size, interpolation=how), extent=(x1, x2, y2, y1), interpolation='antialiased'
    )
    axes.set(xlim=(x1, x2), ylim=(y2, y1))


def _draw_scene(axes: Axes, gt: Annotations, dt: Detections, scene: Scene, thickness: float = 1.0) -> None:
    for name, boxes in {
        'ignored': gt.boxes[scene.ignored],
        'right': dt.boxes[scene.right],
        'missed': gt.boxes[scene.missed],
        'wrong': dt.boxes[scene.wrong],
    }.items():
        color, under, width, dashes = LINES[name]
        for x1, y1, x2, y2 in boxes:
            for ink, points, line in ((under, width + 1.4, '-'), (color, width, dashes)):
                corner, size = (x1, y1), (x2 - x1, y2 - y1)
                axes.add_artist(
                    Rectangle(
                        corner,
                        *size,
                        fill=False,
                        edgecolor=ink,
                        linewidth=thickness * points,
                        linestyle=line,
                    )
                )


def _write(axes: Axes, box: np.ndarray, text: str, plate: str, ink: str) -> None:
    """Write a text on a background above the upper side of a box, or inside it if there is no space."""
    right, bottom = axes.get_xlim()[1], axes.get_ylim()[0]
    x, side = (min(box[2], right), 'right') if box[0] > 0.8 * right else (max(box[0], 0), 'left')
    edge = 'bottom' if box[1] > 0.06 * bottom else 'top'
    axes.text(
        x, max(box[1], 0), text, fontsize=5.5, color=ink, ha=side, va=edge, clip_on=True,
        bbox={'facecolor': plate, 'edgecolor': 'none', 'pad': 0.8},
    )  # fmt: skip


def _add_legend(figure: Figure, ignored: bool) -> None:
    lines = []
    for name, (color, under, width, dashes) in LINES.items():
        if name != 'ignored' or ignored:
            halo = [withStroke(linewidth=width + 2, foreground='black' if under == 'black' else '#e0e0e0')]
            lines.append(
                Line2D(
                    [],
                    [],
                    color=color,
                    linewidth=width,
                    linestyle=dashes,
                    path_effects=halo,
                    label=MEANING[name],
                )
            )
    figure.legend(handles=lines, loc='lower center', ncols=len(lines), handlelength=3)


def _name(gt: Annotations, image: int) -> str:
    return shorten(str(gt.image_ids[image]), 24)
