"""Read ground truth in VOC and COCO format, and predictions.json, into arrays for the evaluator."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from compactdet.data.annotations import Annotations, Detections, make_annotations, make_detections
from compactdet.data.problems import brief
from compactdet.data.voc_files import parse_annotation, read_split
from compactdet.errors import UserError
from compactdet.files import load_json

LIMIT = 1e100  # largest number in a file: sums and areas stay finite

VOC_CLASSES = (
    'aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person '
    'pottedplant sheep sofa train tvmonitor'
)


# Share of the boxes that may reach beyond their images: those of detectors that do not clip.
TOLERATED = 0.05


def _columns(
    entries: Any,
    what: str,
    images: dict[Any, int],
    labels: dict[Any, int],
    number_key: str | None,
    names: dict[Any, int] | None = None,
) -> tuple[list[int], list[int], np.ndarray, np.ndarray]:
    """Return image index, label, (n, 4) x y w h and (n,) number of each entry.

    ``what`` names file and list. The label is found by ``category`` in ``names`` if both exist, otherwise
    by ``category_id``.

    Raises:
        UserError: An entry is not valid. The message names its index.
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
    """Return in words what is wrong with an entry, or None."""
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
    """Return the values of a key, which must exist in every entry and be unique."""
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
        raise UserError(f'{what}: {key} {twice!r} occurs twice; keep one')
    return values


def read_coco(path: str | Path) -> Annotations:
    """Read a COCO annotation file; images and categories are ordered by id, as in COCOeval.

    ``iscrowd`` may be absent (0), ``area`` too (the box's area).

    Raises:
        UserError: The file is not in COCO format. The message names list and entry.
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
    gt = make_annotations(
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
    return replace(gt, image_sizes=_image_sizes(data['images'], images))


def _image_sizes(entries: Sequence[Mapping[str, Any]], images: Mapping[Any, int]) -> np.ndarray:
    """Return the sizes of COCO's images by index, (n, 2); NaN where the file does not state them."""
    sizes = np.full((len(images), 2), np.nan)
    for entry in entries:
        for i, side in enumerate(('width', 'height')):
            if type(entry.get(side)) in (int, float) and abs(entry[side]) < LIMIT:
                sizes[images[entry['id']], i] = entry[side]
    return sizes


def read_ground_truth(
    path: str | Path, split: str = 'test', classes: Sequence[str] | None = None
) -> Annotations:
    """Read a COCO annotation file, or a split of a folder in VOC format.

    Raises:
        UserError: As ``read_coco`` and ``read_voc``, or there are no images.
    """
    found = read_voc(path, split, classes) if Path(path).is_dir() else read_coco(path)
    if len(found.image_ids) == 0:
        raise UserError(f'{path}: has no images')
    return found


def read_voc(folder: str | Path, split: str = 'test', classes: Sequence[str] | None = None) -> Annotations:
    """Read a split of a data set in VOC format (Annotations, ImageSets/Main).

    Boxes without area (``xmax <= xmin``), a known defect, are dropped and listed in ``notes``.

    Args:
        folder: The folder that contains ``Annotations``, or ``VOC2007/Annotations`` (the development kit).
        split: Name of a file in ``ImageSets/Main``.
        classes: None for VOC's 20 if every name is one of them, else the sorted names.

    Raises:
        UserError: A file is missing or not valid, or an object's class is not in ``classes``.
    """
    folder = Path(folder)
    if classes is not None and len(set(classes)) < len(classes):
        raise UserError(f'classes {", ".join(classes)}: one occurs twice; name each once')
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
    sizes = np.array([(part.width, part.height) for part in parts], float).reshape(-1, 2)
    return replace(gt, notes=tuple(notes), image_sizes=sizes)


def read_predictions(path: str | Path, gt: Annotations) -> Detections:
    """Read predictions.json: a list of image_id, category_id, bbox (x, y, width, height), score.

    If an entry has ``category``, the class name, ``category_id`` is not used: it is only right if writer
    and reader number the classes equally.

    Raises:
        UserError: The file is not valid. The message names entry and value.
    """
    path = Path(path)
    images = {image_id: i for i, image_id in enumerate(gt.image_ids)}
    labels = {category_id: i for i, category_id in enumerate(gt.category_ids)}
    names = {name: i for i, name in enumerate(gt.classes)}
    entries = load_json(path)
    image_index, label, boxes, scores = _columns(entries, str(path), images, labels, 'score', names)
    corners = np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])
    return make_detections(image_index, label, corners, scores, sizes=boxes[:, 2:])


def note_on_predictions(path: str | Path, gt: Annotations, dt: Detections) -> str | None:
    """Return a note if many predictions reach beyond their images, as corners do that are read as sizes.

    Args:
        path: The file of the predictions.
        gt: The ground truth.
        dt: The predictions.
    """
    if gt.image_sizes is None or not len(dt.boxes):
        return None
    limits = gt.image_sizes[dt.image_index] + 1
    beyond = int((dt.boxes[:, 2:] > limits).any(axis=1).sum())
    if beyond <= TOLERATED * len(dt.boxes):
        return None
    # `sizes` is the second half of bbox in the file.
    corners = (dt.sizes >= dt.boxes[:, :2]).all() and not (dt.sizes > limits).any()
    hint = '; these look like x1, y1, x2, y2' if corners else ''
    return (
        f'{path}: {beyond} of {len(dt.boxes)} boxes reach more than a pixel beyond their images; bbox '
        f'must be x, y, width, height{hint}'
    )
