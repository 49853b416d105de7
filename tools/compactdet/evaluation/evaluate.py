"""VOC's and COCO's average precision from one read and one set of overlaps.

- VOC: AP over 11 recalls (VOC2007) and as area under the curve (VOC2010 on), at IoU 0.5 or any list.
- COCO: the 12 figures of ``COCOeval`` (10 IoUs, 101 recalls, areas, 1/10/100 detections).

Sources: Everingham et al., IJCV 2010, section 4.2; VOC development kits; pycocotools 2.0. The matching
rules and their ties stand in `compactdet.evaluation.matching`.

Boxes are continuous (x1 = xmin - 1, x2 = xmax for VOC's 1-based inclusive pixels), so a side of
``x2 - x1`` is VOC's ``xmax - xmin + 1`` and an intersection of ``min(x2) - max(x1)`` is VOC's
``min(xmax) - max(xmin) + 1``: IoU is the development kit's, "+1" and all, and no second formula is needed.

``difficult`` boxes are ignored; figures with ``_with_difficult`` count them as any other. Under COCO's
rule, which has no such flag, an ignored difficult box acts as a box outside the area range does: its IoU
is the ordinary one, and it excuses one detection. (MMDetection's ``CocoMetric`` makes crowds of them,
which excuse any number at a laxer overlap.) Under VOC's rule, which knows no crowds, a crowd is ignored
like a difficult box, in both kinds of figures.

Deviations:

- The 11 recalls are 0.1 * k in floating point, as in MMDetection: a recall of exactly 3/10, 6/10 or
  7/10 misses its point by one rounding (VOC2007's Matlab misses 3/10 alone).
- COCO: an annotation of id 0 is found like any other (COCOeval takes its match for none); no
  ``np.spacing(1)`` in the precision (2e-16).
- Classes without ground truth are left out of means and are None, never -1 or NaN.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table

from compactdet.data.problems import brief
from compactdet.errors import UserError
from compactdet.evaluation.bootstrap import AREAS, COCO_IOUS, class_figures, mean_over_classes, render
from compactdet.evaluation.matching import (
    Annotations,
    Detections,
    MatchTable,
    Pairs,
    find_pairs,
    match_coco,
    match_voc,
)
from compactdet.files import load_json

VERSION = 1  # raised whenever a figure can change; part of a run's protocol
LIMIT = 1e100  # of what a file may hold: sums and areas stay finite
VOC_CLASSES = (
    'aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person '
    'pottedplant sheep sofa train tvmonitor'
)


def match(
    gt: Annotations,
    dt: Detections,
    voc_ious: Sequence[float] = (0.5,),
    *,
    with_difficult: bool = False,
    pairs: Pairs | None = None,
) -> dict[str, MatchTable]:
    """Matches by both rules; tables ``voc``, ``all``, ``small``, ``medium`` and ``large``."""
    if pairs is None:
        pairs = find_pairs(gt, dt, min(0.5, *voc_ious))
    ignore = gt.crowd if with_difficult else gt.crowd | gt.difficult
    coco = match_coco(gt, dt, pairs, COCO_IOUS, ignore, list(AREAS.values()))
    voc = match_voc(gt, dt, pairs, np.array(voc_ious, float), ignore)
    return {'voc': voc, **dict(zip(AREAS, coco, strict=True))}


def evaluate(gt: Annotations, dt: Detections, voc_ious: Sequence[float] = (0.5,)) -> dict[str, Any]:
    """Computes every figure.

    Args:
        gt: Ground truth.
        dt: Detections.
        voc_ious: IoU thresholds of the VOC figures.

    Returns:
        ``{'evaluator_version', 'images', 'boxes', 'detections', 'voc': {...}, 'coco': {...}}``. The
        last two hold figures as plain floats (``ap50_11point``, ``ap50_11point_with_difficult``,
        ``ap``, ``ar_100``, ...), None where no class has ground truth, and the same by class name
        under ``per_class``.
    """
    pairs = find_pairs(gt, dt, min(0.5, *voc_ious))
    values = counted = class_figures(match(gt, dt, voc_ious, pairs=pairs), voc_ious)
    if gt.difficult.any():
        tables = match(gt, dt, voc_ious, with_difficult=True, pairs=pairs)
        counted = class_figures(tables, voc_ious)
    values = values | {f'{name}_with_difficult': value for name, value in counted.items()}
    result: dict[str, Any] = {
        'evaluator_version': VERSION,
        'images': len(gt.image_ids),
        'boxes': len(gt.boxes),
        'detections': len(dt.scores),
    }
    for rule in ('voc', 'coco'):
        own = {name.split('/')[1]: value for name, value in values.items() if name.startswith(rule)}
        result[rule] = {name: _mean(value) for name, value in own.items()}
        result[rule]['per_class'] = {
            label: {name: _mean(value[i : i + 1]) for name, value in own.items()}
            for i, label in enumerate(gt.classes)
        }
    return result


def _mean(values: np.ndarray) -> float | None:
    """Mean of (n,) over what is not NaN; None if nothing is left."""
    mean = float(mean_over_classes(values))
    return None if np.isnan(mean) else mean


def format_table(result: dict[str, Any]) -> str:
    """The main figures of `evaluate`, by class and as means, in percent; a dash where there is none."""
    columns = {
        'voc': [name for name in result['voc'] if name.startswith('ap') and 'with' not in name],
        'coco': ['ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large', 'ar_100'],
    }
    table = Table('class')
    for rule, names in columns.items():
        for name in names:
            table.add_column(f'{rule}\n{name}', justify='right')
    classes = result['voc']['per_class']
    for label in [*classes, None]:
        if label is None:
            table.add_section()
        figures = [
            (result[rule] if label is None else result[rule]['per_class'][label])[name]
            for rule, names in columns.items()
            for name in names
        ]
        texts = ['-' if figure is None else f'{100 * figure:.1f}' for figure in figures]
        table.add_row(escape(label or 'mean'), *texts)
    return render(table)


def make_annotations(
    image_ids: Sequence[int | str],
    classes: Sequence[str],
    image_index: Any,
    labels: Any,
    boxes: Any,
    *,
    category_ids: Sequence[int] | None = None,
    sizes: Any = None,
    areas: Any = None,
    difficult: Any = None,
    crowd: Any = None,
) -> Annotations:
    """Makes `Annotations` from sequences; sizes and areas default to the boxes', flags to False."""
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    sizes = boxes[:, 2:] - boxes[:, :2] if sizes is None else np.asarray(sizes, float).reshape(-1, 2)
    return Annotations(
        image_ids,
        classes,
        range(1, len(classes) + 1) if category_ids is None else category_ids,
        np.asarray(image_index, np.int64),
        np.asarray(labels, np.int64),
        boxes,
        sizes,
        sizes[:, 0] * sizes[:, 1] if areas is None else np.asarray(areas, float),
        np.zeros(len(boxes), bool) if difficult is None else np.asarray(difficult, bool),
        np.zeros(len(boxes), bool) if crowd is None else np.asarray(crowd, bool),
    )


def make_detections(
    image_index: Any, labels: Any, boxes: Any, scores: Any, sizes: Any = None
) -> Detections:
    """Makes `Detections` from sequences; sizes default to the boxes'."""
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    sizes = boxes[:, 2:] - boxes[:, :2] if sizes is None else np.asarray(sizes, float).reshape(-1, 2)
    index, label = np.asarray(image_index, np.int64), np.asarray(labels, np.int64)
    return Detections(index, label, boxes, sizes, np.asarray(scores, float))


def _columns(
    entries: Any,
    what: str,
    images: dict[Any, int],
    labels: dict[Any, int],
    number_key: str | None,
    names: dict[Any, int] | None = None,
) -> tuple[list[int], list[int], np.ndarray, np.ndarray]:
    """Image index, label, (n, 4) x y w h and (n,) number of each entry; ``what`` names file and list.

    Labels are found by ``category`` in ``names``, if both are there, else by ``category_id``.

    Raises:
        UserError: Names the first bad entry by its index.
    """
    if not isinstance(entries, list):
        raise UserError(f'{what} is a {type(entries).__name__}, must be a list of entries')
    try:
        boxes = [entry['bbox'] for entry in entries]
        numbers = [entry[number_key] for entry in entries] if number_key else []
        columns = (
            [images[entry['image_id']] for entry in entries],
            [
                names[entry['category']]
                if names is not None and 'category' in entry
                else labels[entry['category_id']]
                for entry in entries
            ],
            np.array(boxes, float).reshape(len(boxes), 4),
            np.array(numbers, float),
        )
        plain = set(map(type, chain(chain.from_iterable(boxes), numbers))) <= {int, float}
    except (KeyError, TypeError, ValueError, OverflowError):
        plain = False
    if plain:
        box, number = columns[2:]
        if (abs(box) < LIMIT).all() and (abs(number) < LIMIT).all() and (box[:, 2:] >= 0).all():
            return columns
    keys = ['image_id', 'category_id', 'bbox', *([number_key] if number_key else [])]
    for i, entry in enumerate(entries):
        problem = _problem(entry, keys, images, labels, names)
        if problem:
            raise UserError(f'{what}, entry {i}: {problem}')
    raise AssertionError(f'{what}: bad, but no entry is')


def _problem(
    entry: Any,
    keys: list[str],
    images: dict[Any, int],
    labels: dict[Any, int],
    names: dict[Any, int] | None,
) -> str | None:
    """What is wrong with one entry, in words."""
    if not isinstance(entry, dict):
        return f'is a {type(entry).__name__}, must be an object with {", ".join(keys)}'
    if names is not None and 'category' in entry:
        keys = ['category' if key == 'category_id' else key for key in keys]
    for key in keys:
        if key not in entry:
            return f'has no "{key}"; needed are {", ".join(keys)}'
        value = entry[key]
        known = {'image_id': images, 'category_id': labels, 'category': names}.get(key)
        if known is not None:
            if isinstance(value, list | dict) or value not in known:
                some = ', '.join(map(repr, list(known)[:3])) or 'none'
                hint = '; of a VOC set, name every class with --classes' if key == 'category' else ''
                return f'{key} {brief(repr(value))} is not in the ground truth, which has {some}, ...{hint}'
            continue
        numbers = value if key == 'bbox' else [value]
        length = 4 if key == 'bbox' else 1
        if (
            not isinstance(numbers, list)
            or len(numbers) != length
            or not all(type(x) in (int, float) and abs(x) < LIMIT for x in numbers)
        ):
            return f'{key} is {brief(repr(value))}, must be {length} finite number{"s" * (length > 1)}'
        if key == 'bbox' and min(value[2:]) < 0:
            return f'bbox {value} has a negative width or height; it is [x, y, width, height]'
    return None


def _unique(entries: Any, key: str, what: str) -> list[Any]:
    """The values of one key of every entry, checked to be there and different."""
    if not isinstance(entries, list):
        raise UserError(f'{what} is a {type(entries).__name__}, must be a list of objects with "{key}"')
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or type(entry.get(key)) not in (int, str):
            raise UserError(
                f'{what}, entry {i}: {brief(repr(entry))} has no "{key}", a whole number or text'
            )
    values = [entry[key] for entry in entries]
    if len(set(values)) != len(values):
        twice = Counter(values).most_common(1)[0][0]
        raise UserError(f'{what}: {key} {twice!r} is there twice; keep one')
    return values


def read_coco(path: str | Path) -> Annotations:
    """Reads a COCO annotation file; images and categories are ordered by id, as in COCOeval.

    ``iscrowd`` may be absent (0), ``area`` too (the box's area).

    Raises:
        UserError: The file is not in COCO's format; names the list and entry.
    """
    path = Path(path)
    data = load_json(path)
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(data, dict) or key not in data:
            raise UserError(f'{path}: has no "{key}": not a COCO annotation file')
    image_ids = _unique(data['images'], 'id', f'{path}: images')
    category_ids = _unique(data['categories'], 'id', f'{path}: categories')
    names = dict(zip(category_ids, _unique(data['categories'], 'name', f'{path}: categories'), strict=True))
    try:
        image_ids.sort()
        category_ids.sort()
    except TypeError:
        raise UserError(f'{path}: ids mix numbers and text; use one kind') from None
    entries = data['annotations']
    what = f'{path}: annotations'
    images = {image_id: i for i, image_id in enumerate(image_ids)}
    labels = {category_id: i for i, category_id in enumerate(category_ids)}
    image_index, label, boxes, _ = _columns(entries, what, images, labels, None)
    areas = [entry.get('area', entry['bbox'][2] * entry['bbox'][3]) for entry in entries]
    crowd = [entry.get('iscrowd', 0) for entry in entries]
    for i, (area, flag) in enumerate(zip(areas, crowd, strict=True)):
        if type(area) not in (int, float) or not 0 <= area < LIMIT or flag not in (0, 1):
            raise UserError(f'{what}, entry {i}: area {area!r} must be a number, iscrowd {flag!r} 0 or 1')
    return make_annotations(
        image_ids,
        [names[category_id] for category_id in category_ids],
        image_index,
        label,
        np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]]),
        category_ids=category_ids,
        sizes=boxes[:, 2:],
        areas=areas,
        crowd=crowd,
    )


def read_voc(folder: str | Path, split: str = 'test', classes: Sequence[str] | None = None) -> Annotations:
    """Reads a split of a data set in VOC format (Annotations, ImageSets/Main).

    Boxes without area (``xmax <= xmin``), a known defect, are left out and listed in ``notes``.

    Args:
        folder: The folder that holds ``Annotations``, or its ``VOC2007`` does (the development kit).
        split: Name of a file in ``ImageSets/Main``.
        classes: None for VOC's 20 if every name is one of them, else the sorted names.

    Raises:
        UserError: A file is absent or bad, or an object's class is not in ``classes``.
    """
    from compactdet.data.voc import (
        parse_annotation,
        read_split,
    )  # late: loads MMDetection, which takes seconds

    folder = Path(folder)
    if classes is not None and len(set(classes)) < len(classes):
        raise UserError(f'classes {", ".join(classes)}: one is there twice; name each once')
    kit = folder / 'VOC2007'
    folder = kit if (kit / 'ImageSets').is_dir() and not (folder / 'ImageSets').is_dir() else folder
    if not (folder / 'ImageSets' / 'Main').is_dir():
        raise UserError(
            f"'{folder}' is no data set in VOC format (no folder ImageSets/Main): name such a folder, or "
            "COCO's annotation file"
        )
    image_ids = sorted(read_split(folder / 'ImageSets' / 'Main' / f'{split}.txt'))
    files = [folder / 'Annotations' / f'{image_id}.xml' for image_id in image_ids]
    parts = [parse_annotation(file, drop_empty=True) for file in files]
    names = [name for part in parts for name in part.names]
    notes = [
        f'left out {image_id}: object {number} has no area'
        for image_id, part in zip(image_ids, parts, strict=True)
        for number in part.dropped
    ]
    known = VOC_CLASSES.split()
    if classes is None and set(names) <= set(known):
        classes = known
    elif classes is None:
        classes = sorted(set(names))
        listed = ', '.join(classes)
        notes.append(f'category_id without a name: 1 to {len(classes)} are {listed}; else use --classes')
    if unknown := sorted(set(names) - set(classes)):
        raise UserError(f'{folder}: class {unknown[0]!r} is not one of {", ".join(classes)}')
    index = {name: i for i, name in enumerate(classes)}
    gt = make_annotations(
        image_ids,
        classes,
        np.repeat(np.arange(len(parts)), [len(part.names) for part in parts]),
        [index[name] for name in names],
        np.concatenate([part.boxes for part in parts]),
        difficult=np.concatenate([part.difficult for part in parts]),
    )
    return replace(gt, notes=tuple(notes))


def read_predictions(path: str | Path, gt: Annotations) -> Detections:
    """Reads predictions.json: a list of image_id, category_id, bbox (x, y, width, height), score.

    An entry with ``category``, the class's name, is taken by that: ``category_id`` is only right where
    writer and reader number the classes alike.

    Raises:
        UserError: Names file, entry and value of what is wrong.
    """
    path = Path(path)
    images = {image_id: i for i, image_id in enumerate(gt.image_ids)}
    labels = {category_id: i for i, category_id in enumerate(gt.category_ids)}
    names = {name: i for i, name in enumerate(gt.classes)}
    entries = load_json(path)
    image_index, label, boxes, scores = _columns(entries, str(path), images, labels, 'score', names)
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    return make_detections(image_index, label, corners, scores, sizes=boxes[:, 2:])
