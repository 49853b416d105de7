"""Statistics of a data set: images, boxes, classes, sizes and aspect ratios, as a table, JSON and a
picture.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from rich.table import Table

from compactdet.chart_style import FAINT, OKABE_ITO, encode, new_figure, styled
from compactdet.console import render
from compactdet.data.annotations import Annotations
from compactdet.data.coco_file import find_annotation_file
from compactdet.data.layout import Layout
from compactdet.data.readers import read_coco, read_voc
from compactdet.data.voc_files import find_set
from compactdet.files import write_whole

MAX_LETTERS = 100  # of class names that fit below their bars side by side
SMALL, LARGE = 32**2, 96**2  # square pixels: COCO's limits of small, medium and large


def read_splits(layout: Layout) -> dict[str, Annotations]:
    """Read the boxes of every split.

    Raises:
        UserError: An annotation is not valid (``tools/data.py check`` lists all problems).
    """
    splits = {}
    for split, file in layout.splits.items():
        if layout.format == 'voc':
            folder, split_file = find_set(layout.root, file)
            splits[split] = read_voc(folder, split_file.stem, layout.classes)
        else:
            splits[split] = read_coco(find_annotation_file(layout.root, file))
    return splits


def report(layout: Layout, *, as_json: bool = False, out: Path | None = None) -> None:
    """Print tables or JSON, and draw a picture if ``out`` is given.

    Raises:
        UserError: An annotation is not valid, or the picture cannot be written.
    """
    splits = read_splits(layout)
    result = stats(splits)
    print(json.dumps(result, indent=2) if as_json else format_stats(result))
    if out:
        plot(splits, out)


def stats(splits: dict[str, Annotations]) -> dict[str, Any]:
    """Return counts and sizes by split.

    Sizes are COCO's: small is below 32 x 32 pixels and large is from 96 x 96 pixels, by the annotated area.
    ``ignored`` are VOC's difficult boxes and COCO's crowds. Sides and aspect ratios (width / height) are
    quantiles: 5, 25, 50, 75 and 95 %.
    """
    return {split: _stats(annotations) for split, annotations in splits.items()}


def _stats(gt: Annotations) -> dict[str, Any]:
    sides = np.maximum(gt.sizes, 1e-9)
    per_image = np.bincount(gt.image_index, minlength=len(gt.image_ids))
    counts = np.bincount(gt.labels, minlength=len(gt.classes))
    images = [len(np.unique(gt.image_index[gt.labels == k])) for k in range(len(gt.classes))]
    return {
        'images': len(gt.image_ids),
        'images_without_boxes': int((per_image == 0).sum()),
        'boxes': len(gt.boxes),
        'boxes_per_image': float(per_image.mean()) if len(per_image) else None,
        'ignored': int((gt.difficult | gt.crowd).sum()),
        'small': int((gt.areas < SMALL).sum()),
        'medium': int(((gt.areas >= SMALL) & (gt.areas < LARGE)).sum()),
        'large': int((gt.areas >= LARGE).sum()),
        'side_px': _quantiles(np.sqrt(sides[:, 0] * sides[:, 1])),
        'aspect_ratio': _quantiles(sides[:, 0] / sides[:, 1]),
        'classes': {
            name: {'boxes': int(count), 'images': in_images}
            for name, count, in_images in zip(gt.classes, counts, images, strict=True)
        },
    }


def _quantiles(values: np.ndarray) -> list[float] | None:
    return np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95)).tolist() if len(values) else None


def format_stats(result: dict[str, Any]) -> str:
    """Format two tables: the splits, and boxes by class."""
    splits = Table('split', title='images and boxes')
    for column in ('images', 'without boxes', 'boxes', 'ignored', 'small', 'medium', 'large'):
        splits.add_column(column, justify='right')
    for column in ('median side, pixels', 'width / height, 5 to 95 %'):
        splits.add_column(column, justify='right')
    for split, row in result.items():
        keys = ('images', 'images_without_boxes', 'boxes', 'ignored', 'small', 'medium', 'large')
        side, aspect = row['side_px'], row['aspect_ratio']
        forms = [f'{side[2]:.0f}', f'{aspect[0]:.2f} to {aspect[4]:.2f}'] if side else ['-', '-']
        splits.add_row(split, *(f'{row[key]:,}' for key in keys), *forms)
    classes = Table('class', title='boxes by class')
    names = {name: None for row in result.values() for name in row['classes']}
    for split in result:
        classes.add_column(split, justify='right')
    for name in names:
        counts = (row['classes'].get(name, {'boxes': 0})['boxes'] for row in result.values())
        classes.add_row(name, *(f'{count:,}' for count in counts))
    return f'{render(splits)}\n{render(classes)}'


def plot(splits: dict[str, Annotations], path: Path) -> None:
    """Draw boxes by class, sides, aspect ratios and boxes per image, one color a split, as a PNG.

    Raises:
        UserError: The file cannot be written.
    """
    names = list({name: None for gt in splits.values() for name in gt.classes})
    with styled():
        figure = new_figure(11, 7.5)
        grid = figure.add_gridspec(2, 3)
        by_class = figure.add_subplot(grid[0, :])
        side, aspect, crowd = (figure.add_subplot(grid[1, i]) for i in range(3))
        width = 0.8 / len(splits)
        for i, (split, gt) in enumerate(splits.items()):
            color = OKABE_ITO[i % len(OKABE_ITO)]
            share = np.zeros(len(names))
            counts = np.bincount(gt.labels, minlength=len(gt.classes)) / max(1, len(gt.labels))
            for name, value in zip(gt.classes, counts, strict=True):
                share[names.index(name)] = 100 * value
            place = np.arange(len(names)) + (i - (len(splits) - 1) / 2) * width
            label = f'{split}: {len(gt.boxes):,} boxes, {len(gt.image_ids):,} images'
            by_class.bar(place, share, width, label=label, color=color)
            sides = np.maximum(gt.sizes, 1e-9)
            _draw_shares(side, np.sqrt(sides.prod(1)), np.geomspace(1, 2000, 40), color)
            _draw_shares(aspect, sides[:, 0] / sides[:, 1], np.geomspace(0.1, 10, 40), color)
            per_image = np.bincount(gt.image_index, minlength=len(gt.image_ids))
            _draw_shares(crowd, per_image, np.arange(42) - 0.5, color)
        turned = sum(map(len, names)) > MAX_LETTERS
        by_class.set_xticks(np.arange(len(names)), names, rotation=90 if turned else 0)
        by_class.tick_params(axis='x', length=0, labelsize=9 if len(names) < 40 else 7)
        by_class.set(title='Boxes by class', ylabel='% of boxes')
        for border in (SMALL, LARGE):
            side.axvline(border**0.5, color='black', linewidth=1, linestyle=':')
        limits = f'{SMALL**0.5:g} and {LARGE**0.5:g} pixels: small | medium | large in COCO'
        side.plot([], [], color='black', linewidth=1, linestyle=':', label=limits)
        side.set(
            title='Size of the boxes', xlabel='√(width × height), pixels', ylabel='% of boxes', xscale='log'
        )
        aspect.set(title='Shape of the boxes', xlabel='width / height', ylabel='% of boxes', xscale='log')
        crowd.set(title='Boxes per image', xlabel='boxes in an image (40: or more)', ylabel='% of images')
        for axes in (side, aspect):
            axes.xaxis.set_major_formatter('{x:g}')
        for axes in (by_class, side, aspect, crowd):
            axes.grid(axis='y', color=FAINT)
        figure.legend(loc='outside upper center', ncols=max(2, min(3, len(splits))))
        write_whole(path, encode(figure))


def _draw_shares(axes: Axes, values: np.ndarray, edges: np.ndarray, color: str) -> None:
    """Outline a histogram in percent of the values; values outside the edges are in the outer bins."""
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    axes.stairs(100 * counts / max(1, len(values)), edges, color=color, linewidth=1.5)
