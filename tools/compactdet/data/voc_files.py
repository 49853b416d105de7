"""Read the files of a data set in PASCAL VOC format: annotations, split files, images.

A data set folder contains ``Annotations/ID.xml``, ``JPEGImages/ID.jpg`` and ``ImageSets/Main/SPLIT.txt``
with one ID per line. Format: VOC2007 development kit (Everingham et al., IJCV 2010). The files have
1-based, inclusive pixel indices; boxes become continuous coordinates with the origin at the top left corner
of the image: ``x1 = xmin - 1, y1 = ymin - 1, x2 = xmax, y2 = ymax``, so the continuous area equals VOC's
area with its "+1".
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import numpy as np
from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeElementTree

from compactdet.data.images import check_image
from compactdet.data.problems import DataError, Report, stop, unknown_class
from compactdet.errors import UserError

SIDES = ('xmin', 'ymin', 'xmax', 'ymax')

NO_AREA = ('box-no-area', 'box-inverted')

# The first existing file is taken.
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.JPG', '.JPEG', '.PNG')


@dataclass(frozen=True)
class Annotation:
    """One image's annotation file.

    Attributes:
        width: Image width, pixels.
        height: Image height, pixels.
        boxes: (n, 4) float32, continuous x1, y1, x2, y2 in pixels.
        names: n class names.
        labels: (n,) int64, index into the classes; -1 if no classes were given.
        difficult: (n,) bool.
        dropped: Numbers (from 1) of dropped objects without area.
        filename: Text of ``<filename>``; empty if there is none.
    """

    width: int
    height: int
    boxes: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    difficult: np.ndarray
    dropped: tuple[int, ...] = ()
    filename: str = ''


def parse_annotation(
    path: str | Path,
    classes: Sequence[str] | None = None,
    *,
    drop_empty: bool = False,
    report: Report = stop,
) -> Annotation:
    """Read one annotation file.

    Args:
        path: The file.
        classes: Class names; None to accept any.
        drop_empty: Whether boxes without area are dropped (a known defect).
        report: Called with the problem of an object, which is then excluded; it may raise. A file that
            cannot be read always raises.

    Raises:
        DataError: The file is missing, is not safe XML, lacks a field, or has an unknown class, a box
            without area or a box outside the image. The message names file, object and value.
    """
    path = Path(path)
    root = _parse_xml(path)
    width, height = (_whole(root, f'size/{side}', path) for side in ('width', 'height'))
    index = {name: i for i, name in enumerate(classes or ())}
    boxes, names, difficult, dropped = [], [], [], []
    for number, element in enumerate(root.findall('object'), start=1):
        where = f'object {number}: '
        try:
            if element.find('.//object') is not None:
                problem = f'{where}an <object> stands in it'
                raise DataError(problem, 'put it behind it', file=path, kind='field')
            name = _text(element, 'name', path, where)
            flag = _text(element, 'difficult', path, where, default='0')
            if flag not in ('0', '1'):
                problem = f'{where}<difficult> is {flag!r}, must be 0 or 1'
                raise DataError(problem, 'fix the file', file=path, kind='field')
            box = [_number(element, f'bndbox/{side}', path, where) for side in SIDES]
        except DataError as error:
            report(error)
            continue
        problems = list(_box_problems(box, width, height))
        if drop_empty and any(kind in NO_AREA for kind, *_ in problems):
            dropped.append(number)
            continue
        if classes is not None and name not in index:
            problems.insert(0, ('class-unknown', *unknown_class(name, classes)))
        for kind, problem, cure in problems:
            report(DataError(where + problem, cure, file=path, kind=kind))
        if not problems:
            boxes.append((box[0] - 1, box[1] - 1, box[2], box[3]))
            names.append(name)
            difficult.append(flag == '1')
    return Annotation(
        width=width,
        height=height,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        names=tuple(names),
        labels=np.array([index.get(name, -1) for name in names], np.int64),
        difficult=np.array(difficult, bool),
        dropped=tuple(dropped),
        filename=(root.findtext('filename') or '').strip(),
    )


def _box_problems(sides: Sequence[float], width: int, height: int) -> Iterator[tuple[str, str, str]]:
    """Yield kind, problem and remedy of everything wrong with xmin, ymin, xmax, ymax."""
    xmin, ymin, xmax, ymax = sides
    box = f'box xmin={xmin:g} ymin={ymin:g} xmax={xmax:g} ymax={ymax:g}'
    if xmax < xmin or ymax < ymin:
        yield 'box-inverted', f'{box} has no area: its sides are swapped', 'fix or remove it'
    elif xmax == xmin or ymax == ymin:
        cure = (
            'fix or remove it (if it is a known defect of a public set, name the image in '
            'known_defects: its boxes without area are dropped)'
        )
        yield 'box-no-area', f'{box} has no area', cure
    if min(sides) < 1 or max(xmin, xmax) > width or max(ymin, ymax) > height:
        cure = (
            'fix the file (VOC counts pixels from 1 to the width and height; where it counts from 0, add 1)'
        )
        yield 'box-outside', f'{box} lies outside the image of {width}x{height}', cure


def _parse_xml(path: Path) -> Element:
    try:
        root = SafeElementTree.fromstring(path.read_bytes(), forbid_dtd=True)
    except OSError as error:
        problem = f'cannot read the annotation file ({error.strerror})'
        raise DataError(problem, 'get it again', file=path, kind='annotation-unreadable') from error
    except DefusedXmlException as error:
        raise DataError(
            f'refused: it holds a DTD or entities ({type(error).__name__}), as hostile files do and no '
            'VOC file needs',
            'remove its DOCTYPE or get the file again',
            file=path,
            kind='annotation-unreadable',
        ) from error
    except (ParseError, ValueError, LookupError) as error:  # the last two: an invalid declared encoding
        problem, cure = f'malformed XML ({error})', 'fix the file or get it again'
        raise DataError(problem, cure, file=path, kind='annotation-unreadable') from error
    if root.tag != 'annotation':
        problem = f'its root is <{root.tag}>, not <annotation>: not a VOC annotation'
        raise DataError(problem, 'get the file again', file=path, kind='annotation-unreadable')
    return root


def _text(element: Element, tag: str, path: Path, where: str = '', default: str = '') -> str:
    found = element.findall(tag)
    if len(found) > 1:
        problem = f'{where}<{tag}> occurs {len(found)} times'
        raise DataError(problem, 'keep one', file=path, kind='field')
    text = (found[0].text or '').strip() if found else default
    if not text:
        raise DataError(f'{where}<{tag}> is missing or empty', 'add it', file=path, kind='field')
    return text


def _number(element: Element, tag: str, path: Path, where: str = '') -> float:
    text = _text(element, tag, path, where)
    try:
        value = float(text.replace('_', '?'))  # Python reads 1_0 as 10
    except ValueError:
        value = float('nan')
    if not np.isfinite(value):
        problem = f'{where}<{tag}> is {text!r}, not a finite number'
        raise DataError(problem, 'fix the file', file=path, kind='field')
    return value


def _whole(element: Element, tag: str, path: Path) -> int:
    value = _number(element, tag, path)
    if value < 1 or value != int(value):
        problem = f'<{tag}> is {value:g}, not a positive whole number'
        raise DataError(problem, 'fix the file', file=path, kind='field')
    return int(value)


def read_split(path: Path, report: Report = stop) -> list[str]:
    """Read a split file: one image id a line.

    Args:
        path: The file.
        report: Called with the problem of a line, which is then excluded; it may raise.

    Raises:
        DataError: The file is missing, empty, not text, or has an id twice or two ids on a line.
    """
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except FileNotFoundError as error:
        there = ', '.join(sorted(file.stem for file in path.parent.glob('*.txt'))) or 'none'
        problem = f'no such split file; splits there: {there}'
        raise DataError(problem, file=path, kind='split-unreadable') from error
    except (OSError, UnicodeDecodeError) as error:
        problem, cure = f'cannot read the split file ({error})', 'write one image id a line'
        raise DataError(problem, cure, file=path, kind='split-unreadable') from error
    counts = Counter(line.strip() for line in lines if line.strip())
    if not counts:
        cure = 'write one image id a line'
        raise DataError('the split is empty', cure, file=path, kind='split-unreadable')
    for image_id, count in counts.items():
        if not _is_id(image_id):
            problem = f'line {image_id!r} must be one image id'
            cure = 'write one image id a line: a name without spaces, below JPEGImages and without ending'
            report(DataError(problem, cure, file=path, kind='split-unreadable'))
        if count > 1:
            problem = f'image id {image_id!r} occurs {count} times'
            report(DataError(problem, 'keep one line', file=path, kind='duplicate-id'))
    return [image_id for image_id in counts if _is_id(image_id)]


def _is_id(line: str) -> bool:
    return len(line.split()) == 1 and '\0' not in line and not {'/', '..'} & {*PurePosixPath(line).parts}


def split_files(folder: Path) -> list[Path]:
    """Return the split files of a data set, without those per class of the VOC development kit (with
    flags).
    """
    files = sorted((folder / 'ImageSets' / 'Main').glob('[!.]*.txt'))
    flagged = re.compile(rb'\S+[ \t]+-?[01]\s*$', re.MULTILINE)
    return [
        file
        for file in files
        if '_' not in file.stem or not file.is_file() or not flagged.match(file.read_bytes()[:256])
    ]


def image_file(folder: Path, image_id: str) -> Path:
    """Return the file of an image: ``.jpg`` in VOC, other suffixes in other data sets."""
    paths = [folder / 'JPEGImages' / f'{image_id}{suffix}' for suffix in IMAGE_SUFFIXES]
    if there := next((path for path in paths if path.is_file()), None):
        return there
    others = (path for path in sorted(folder.glob(f'JPEGImages/{escape(image_id)}.*')) if path.is_file())
    return next((path for path in others if path.stem == paths[0].stem), paths[0])


def find_set(data_root: str | Path, ann_file: str | Path, how_to_get: str = '') -> tuple[Path, Path]:
    """Find the folder and the split file of a data set.

    ``ann_file`` is ``[FOLDER/]ImageSets/Main/SPLIT.txt`` relative to ``data_root``. FOLDER is ignored if
    ``data_root`` itself contains ``ImageSets``, so both the VOC07 kit and its ``VOC2007`` can be given.

    Raises:
        UserError: There is no such folder. The message states how to get the data set.
    """
    root, parts = Path(data_root), Path(ann_file).parts
    if 'ImageSets' not in parts:
        raise UserError(f"ann_file is '{ann_file}'; must be [FOLDER/]ImageSets/Main/SPLIT.txt")
    split = parts.index('ImageSets')
    folder = root if (root / 'ImageSets').is_dir() else root.joinpath(*parts[:split])
    for part in ('ImageSets', 'Annotations', 'JPEGImages'):
        if not (folder / part).is_dir():
            state = 'is not complete' if root.is_dir() else 'is absent'
            raise UserError(
                f"data set '{data_root}' {state}: no folder {folder / part}. "
                + (how_to_get or 'Point --data-root at a data set in VOC format.')
            )
    return folder, folder.joinpath(*parts[split:])


def read_entry(
    folder: Path,
    image_id: str,
    classes: Sequence[str] | None,
    split_file: Path,
    *,
    drop_empty: bool = False,
) -> dict[str, Any]:
    """Read the entry of an image for MMDetection's pipelines, as its ``XMLDataset`` does.

    ``drop_empty`` is passed to `parse_annotation`.

    Raises:
        UserError: The annotation or the image is missing or not valid.
    """
    xml_path = folder / 'Annotations' / f'{image_id}.xml'
    img_path = image_file(folder, image_id)
    for path, kind in ((xml_path, 'annotation-missing'), (img_path, 'image-missing')):
        if not path.is_file():
            problem = f'names {image_id!r}, but there is no file {path}'
            raise DataError(problem, 'get it, or take the line out', file=split_file, kind=kind)
    annotation = parse_annotation(xml_path, classes, drop_empty=drop_empty)
    width, height = annotation.width, annotation.height
    check_image(img_path, width, height)
    return {
        'img_id': image_id,
        'img_path': str(img_path),
        'xml_path': str(xml_path),
        'width': width,
        'height': height,
        'dropped': annotation.dropped,
        'instances': [
            {'bbox': box.tolist(), 'bbox_label': int(label), 'ignore_flag': int(difficult)}
            for box, label, difficult in zip(
                annotation.boxes, annotation.labels, annotation.difficult, strict=True
            )
        ],
    }
