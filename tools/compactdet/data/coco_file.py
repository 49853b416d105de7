"""Read COCO annotation files strictly, entry by entry.

Format: cocodataset.org, "Data format", object detection. Masks are not read. COCO's boxes are rounded to
1/100 pixel, so a box may reach up to one pixel beyond the border.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from compactdet.data.problems import DataError, Report, stop, unknown_class
from compactdet.errors import UserError
from compactdet.files import load_json

LIMIT = 1e100  # largest number: areas stay finite
OUTSIDE = 1.0  # pixels by which a box may reach beyond the border


@dataclass(frozen=True)
class CocoFile:
    """An annotation file that has been read and checked.

    Attributes:
        path: The file.
        categories: Category id to class name, in the order of the ids.
        images: Image id to its entry (``file_name``, ``width``, ``height``), in the order of the file.
        objects: Image id to its annotations; invalid ones are excluded.
        dropped: Image id to the ids of annotations without area that were dropped.
    """

    path: Path
    categories: dict[int, str]
    images: dict[int | str, dict[str, Any]]
    objects: dict[int | str, list[dict[str, Any]]]
    dropped: dict[int | str, list[int]]


def read_coco_file(
    path: str | Path,
    classes: Sequence[str] | None = None,
    *,
    drop_empty: Collection[int | str] = (),
    report: Report = stop,
) -> CocoFile:
    """Read an annotation file.

    Args:
        path: The file.
        classes: Classes that an annotation may have; None for the file's categories.
        drop_empty: Ids of images whose boxes without area are dropped (known defects).
        report: Called with the problem of an entry, which is then excluded; it may raise. A file that is
            not in COCO format always raises.

    Raises:
        DataError: The file is missing, not JSON or not in COCO format, or an entry is not valid.
    """
    path = Path(path)
    try:
        data = load_json(path)
    except UserError as error:
        problem, _, cure = str(error).removeprefix(f'{path}: ').partition('); ')
        problem = f'{problem})' if cure else problem
        raise DataError(problem, cure or 'get it again', file=path, kind='annotation-unreadable') from error
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            problem, cure = f'has no list "{key}": not a COCO annotation file', 'create it again'
            raise DataError(problem, cure, file=path, kind='annotation-unreadable')
    reader = _Reader(path, report, classes, frozenset(drop_empty))
    if not data['images']:
        raise DataError('has no images', 'create it again', file=path, kind='annotation-unreadable')
    categories = reader.categories(data['categories'])
    images = reader.images(data['images'])
    listed = (entry.get('id') for entry in data['images'] if isinstance(entry, dict))
    told = {image_id for image_id in listed if type(image_id) in (int, str)}  # problems of the entry
    objects, dropped = reader.annotations(data['annotations'], images, categories, told)
    boxes = [entry['bbox'] for entries in objects.values() for entry in entries]
    if boxes and all(x + width <= 1 and y + height <= 1 for x, y, width, height in boxes):
        problem = f'all {len(boxes)} boxes lie within one pixel, such as {boxes[0]}: they are fractions'
        cure = 'multiply x and width by the width of the image, y and height by its height'
        report(DataError(problem, cure, file=path, kind='boxes-in-fractions'))
    return CocoFile(path, dict(sorted(categories.items())), images, objects, dropped)


@dataclass(frozen=True)
class _Reader:
    path: Path
    report: Report
    classes: Sequence[str] | None
    drop_empty: frozenset[int | str]

    def say(self, kind: str, where: str, problem: str, cure: str) -> None:
        self.report(DataError(f'{where}: {problem}', cure, file=self.path, kind=kind))

    def categories(self, entries: list[Any]) -> dict[int, str]:
        found: dict[int, str] = {}
        for i, entry in enumerate(entries):
            number, name = (entry.get('id'), entry.get('name')) if isinstance(entry, dict) else (None, None)
            if type(number) is not int or not isinstance(name, str) or not name.strip():
                self.say('field', f'categories, entry {i}', f'{entry!r} has no "id" and "name"', 'add them')
            elif number in found or name in found.values():
                problem = f'id {number} or name {name!r} occurs twice'
                self.say('duplicate-id', f'categories, entry {i}', problem, 'keep one')
            else:
                found[number] = name
        return found

    def images(self, entries: list[Any]) -> dict[int | str, dict[str, Any]]:
        found: dict[int | str, dict[str, Any]] = {}
        files: set[PurePosixPath] = set()
        for i, entry in enumerate(entries):
            where = f'images, entry {i}'
            if problem := _image_problem(entry):
                self.say('field', where, problem, 'fix the file')
            elif entry['id'] in found:
                self.say('duplicate-id', where, f'image id {entry["id"]!r} occurs twice', 'keep one')
            elif PurePosixPath(entry['file_name']) in files:
                problem = f'file_name {entry["file_name"]!r} occurs twice'
                self.say('duplicate-id', where, problem, 'keep one')
            else:
                files.add(PurePosixPath(entry['file_name']))
                found[entry['id']] = entry
        if len({type(image_id) for image_id in found}) > 1:
            self.say('field', 'images', 'their ids mix numbers and text', 'use one kind')
        return found

    def annotations(
        self,
        entries: list[Any],
        images: Mapping[Any, dict],
        categories: Mapping[int, str],
        told: Collection[Any] = (),
    ) -> tuple[dict[int | str, list[dict]], dict[int | str, list[int]]]:
        objects: dict[int | str, list[dict]] = {image_id: [] for image_id in images}
        dropped: dict[int | str, list[int]] = {}
        seen: set[int] = set()
        for i, entry in enumerate(entries):
            number = entry.get('id') if isinstance(entry, dict) else None
            where = f'annotations, entry {i}'
            if type(number) is not int:
                self.say('field', where, 'has no whole number "id"', 'number the annotations from 1')
                continue
            where = f'annotation {number}'
            if number in seen:
                self.say('duplicate-id', where, 'its id occurs twice', 'number the annotations from 1')
                continue
            seen.add(number)
            problems = list(_annotation_problems(entry, images, categories, self.classes))
            image_id = entry.get('image_id')
            empty = any(kind == 'box-no-area' for kind, *_ in problems)
            if empty and type(image_id) in (int, str) and image_id in self.drop_empty:
                dropped.setdefault(image_id, []).append(number)
                continue
            for problem in problems:
                if problem[0] == 'image-unknown' and type(image_id) in (int, str) and image_id in told:
                    continue
                self.say(problem[0], where, *problem[1:])
            if not any(kind not in ('box-rounded', 'id-zero') for kind, *_ in problems):
                entry.pop('segmentation', None)  # most of the memory
                objects[entry['image_id']].append(entry)
        return objects, dropped


def _number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < LIMIT  # false for NaN; huge integers compare well


def _image_problem(entry: Any) -> str | None:
    if not isinstance(entry, dict):
        return f'is a {type(entry).__name__}, must be an object'
    if type(entry.get('id')) not in (int, str):
        return f'"id" is {entry.get("id")!r}, must be a whole number or a text'
    name = entry.get('file_name')
    if (
        not isinstance(name, str)
        or not Path(name).name
        or {'/', '..'} & {*Path(name).parts}
        or max(map(len, name.encode(errors='replace').split(b'/')))
        > 255  # no file system allows such a name
        or '\0' in name
    ):
        return f'"file_name" is {name!r}, must be a path below the folder of images'
    for side in ('width', 'height'):
        if type(entry.get(side)) is not int or entry[side] < 1:
            return f'"{side}" is {entry.get(side)!r}, must be a positive whole number'
    return None


def _annotation_problems(
    entry: Mapping[str, Any],
    images: Mapping[Any, Mapping[str, Any]],
    categories: Mapping[int, str],
    classes: Sequence[str] | None,
) -> Iterator[tuple[str, str, str]]:
    """Yield kind, problem and remedy of everything wrong with an annotation."""
    fix = 'fix or remove it'
    image_id, category = entry.get('image_id'), entry.get('category_id')
    image = images.get(image_id) if type(image_id) in (int, str) else None
    if entry['id'] == 0:
        yield 'id-zero', 'its id is 0, which pycocotools takes for no match', 'number from 1'
    if image is None:
        yield (
            'image-unknown',
            f'image_id {image_id!r} is not among the images',
            'add the image or remove it',
        )
    if type(category) is not int or category not in categories:
        known = ', '.join([f'{number} {name}' for number, name in categories.items()][:5]) or 'none'
        problem = f'unknown class: category_id {category!r} is not among the categories ({known}, ...)'
        yield 'class-unknown', problem, fix
    elif classes is not None and categories[category] not in classes:
        yield ('class-unknown', *unknown_class(categories[category], classes))
    if entry.get('iscrowd', 0) not in (0, 1):
        yield 'field', f'iscrowd is {entry["iscrowd"]!r}, must be 0 or 1', 'fix it'
    box = entry.get('bbox')
    if not isinstance(box, list) or len(box) != 4 or not all(map(_number, box)):
        yield 'field', f'bbox is {box!r}, must be four finite numbers: x, y, width, height', fix
        return
    x, y, width, height = box
    if width < 0 or height < 0:
        yield 'box-inverted', f'bbox {box} has a negative side; it is [x, y, width, height]', fix
        return
    if width == 0 or height == 0:
        cure = f'{fix} (if it is a known defect of a public set, name the image in known_defects)'
        yield 'box-no-area', f'bbox {box} has no area', cure
        return
    if not _number(area := entry.get('area', width * height)) or area < 0:
        yield 'field', f'area is {area!r}, must be a number of pixels', 'fix it'
    if image is not None:
        beyond = max(-x, -y, x + width - image['width'], y + height - image['height'])
        size = f'{image["width"]}x{image["height"]}'
        if beyond > OUTSIDE:
            yield 'box-outside', f'bbox {box} lies outside the image of {size}', fix
        elif beyond > 0.01:
            problem = f'bbox {box} reaches {beyond:.2f} pixels beyond the image of {size}'
            yield 'box-rounded', problem, 'harmless; clip it if you wish'


# Files with the same images and annotations.
SAME = {
    'instances_trainval35k.json': 'instances_train2017.json',
    'instances_minival2014.json': 'instances_val2017.json',
}


def find_annotation_file(root: str | Path, ann_file: str | Path, how_to_get: str = '') -> Path:
    """Return the annotation file, or the equivalent file of 2017.

    Raises:
        DataError: Both are missing. The message states how to get the data set.
    """
    path = Path(root) / ann_file
    alternative = path.with_name(SAME.get(path.name, path.name))
    for candidate in (path, alternative):
        if candidate.is_file():
            return candidate
    state = 'is not complete' if Path(root).is_dir() else 'is absent'
    other = f' (nor {alternative.name})' if alternative != path else ''
    problem = f"data set '{root}' {state}: no file {path}{other}"
    cure = how_to_get or 'point --data-root at a data set in COCO format'
    raise DataError(problem, cure, kind='annotation-missing')
