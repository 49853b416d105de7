"""Check a data set completely: list every problem with its file and what to do."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PureWindowsPath

from rich.progress import Progress
from rich.table import Table

from compactdet.console import PlainConsole
from compactdet.data.coco_file import find_annotation_file, read_coco_file
from compactdet.data.coco_images import find_images
from compactdet.data.images import check_image, check_orientation
from compactdet.data.layout import Layout
from compactdet.data.leaks import pixels_digest
from compactdet.data.problems import DataError, Problem, brief
from compactdet.data.voc_files import NO_AREA, find_set, image_file, parse_annotation, read_split
from compactdet.errors import UserError

# These splits contain the images of others by design.
UNIONS = {'trainval': ('train', 'val'), 'trainval35k': ('train2014', 'val2014')}


@dataclass(frozen=True)
class Item:
    """An image of a split as in its annotation; sizes in pixels, boxes as (class, 4 sides).

    ``filename`` is that in VOC's annotation file.
    """

    image_id: str
    path: Path
    width: int
    height: int
    boxes: list[tuple[str, list[float]]]
    filename: str = ''


def check(
    layout: Layout, *, decode: bool = True, advance: Callable[[], None] = lambda: None
) -> list[Problem]:
    """Read every annotation and image of a data set; return the problems.

    Args:
        layout: The data set.
        decode: Whether images are decoded; otherwise only their sizes and ends are read.
        advance: Called after each image.
    """
    problems: list[Problem] = []
    items: dict[str, list[Item]] = {}
    read_xml: dict[Path, Item | None] = {}
    for split, file in layout.splits.items():
        try:
            if layout.format == 'voc':
                items[split] = _read_voc(layout, split, file, problems, read_xml)
            else:
                items[split] = _read_coco(layout, split, file, problems)
        except DataError as error:
            problems.append(Problem.of(error, split))
        except UserError as error:
            problems.append(Problem.of(DataError(str(error), kind='annotation-unreadable'), split))
        count, wanted = len(items.get(split, ())), (layout.expected or {}).get(split)
        if split in items and wanted is not None and count != wanted:
            text = f'the split has {count} images, the published one has {wanted}'
            cure = 'get the official files; results on a part are for tests only'
            problems.append(Problem.of(DataError(text, cure, file=file, kind='count'), split))
    problems += _filenames(items)
    problems += _alike(items)
    problems += _boxes(items)
    problems += _in_two_splits(items)
    problems += _images(items, decode, advance)
    return problems


def _read_voc(
    layout: Layout, split: str, file: str, problems: list[Problem], read: dict[Path, Item | None]
) -> list[Item]:
    """Read the images of a split; ``read`` holds those of other splits (trainval is train and val)."""
    folder, split_file = find_set(layout.root, file)
    items = []
    for image_id in read_split(split_file, lambda error: problems.append(Problem.of(error, split))):
        xml = folder / 'Annotations' / f'{image_id}.xml'
        if xml not in read:
            read[xml] = _read_xml(layout, split, image_id, xml, problems)
        if item := read[xml]:
            items.append(item)
    return items


def _read_xml(layout: Layout, split: str, image_id: str, xml: Path, problems: list[Problem]) -> Item | None:
    def note(error: DataError) -> None:
        if image_id in layout.known_defects and error.kind in NO_AREA:
            error = DataError(error.problem, KNOWN, file=error.file, kind='known-defect')
        problems.append(Problem.of(error, split, image_id))

    try:
        annotation = parse_annotation(xml, layout.classes, report=note)
    except DataError as error:
        note(error)
        return None
    path = image_file(xml.parents[1], image_id)
    boxes = list(zip(annotation.names, annotation.boxes.tolist(), strict=True))
    return Item(image_id, path, annotation.width, annotation.height, boxes, annotation.filename)


KNOWN = 'nothing: a known defect of the published set; training leaves it out and records it'


def _read_coco(layout: Layout, split: str, file: str, problems: list[Problem]) -> list[Item]:
    path = find_annotation_file(layout.root, file)
    annotations = read_coco_file(
        path,
        layout.classes,
        drop_empty=layout.known_defects,
        report=lambda error: problems.append(Problem.of(error, split)),
    )
    for image_id, numbers in annotations.dropped.items():
        error = DataError(f'annotations {numbers} have no area', KNOWN, file=path, kind='known-defect')
        problems.append(Problem.of(error, split, image_id))
    images = annotations.images
    files = find_images(layout.root, path, [image['file_name'] for image in images.values()])
    names = annotations.categories
    return [
        Item(
            str(i),
            place,
            image['width'],
            image['height'],
            [(names[o['category_id']], o['bbox']) for o in here],
        )
        for (i, image), place in zip(images.items(), files, strict=True)
        for here in [annotations.objects[i]]
    ]


def _filenames(items: dict[str, list[Item]]) -> Iterator[Problem]:
    """Yield a problem for annotations whose ``<filename>`` is another image of the set."""
    ids = {item.image_id for rows in items.values() for item in rows}
    seen = set()
    for split, rows in items.items():
        for item in rows:
            name = PureWindowsPath(item.filename).name  # also splits at /
            others = {name, name.rpartition('.')[0]} & ids
            if others and item.image_id not in others and item.image_id not in seen:
                seen.add(item.image_id)
                text = f'the <filename> in its annotation is {item.filename}, another image of the set'
                cure = 'check that the boxes are those of this image, and correct <filename>'
                error = DataError(text, cure, file=item.path, kind='filename-of-another')
                yield Problem.of(error, split, item.image_id)


def _alike(items: dict[str, list[Item]]) -> Iterator[Problem]:
    """Yield a problem for classes whose names differ only in capitals."""
    spelt: dict[str, dict[str, tuple[str, Item]]] = {}
    for split, rows in items.items():
        for item in rows:
            for name, _ in item.boxes:
                spelt.setdefault(name.casefold(), {}).setdefault(name, (split, item))
    for names in spelt.values():
        for name, (split, item) in list(names.items())[1:]:
            text = f'class {name!r} differs from {next(iter(names))!r} in capitals only'
            error = DataError(text, 'spell it one way, if they are one', file=item.path, kind='class-alike')
            yield Problem.of(error, split, item.image_id)


def _boxes(items: dict[str, list[Item]]) -> Iterator[Problem]:
    """Yield problems of images without boxes and of duplicate boxes."""
    seen: set[Path] = set()
    for split, rows in items.items():
        for item in rows:
            if item.path in seen:
                continue
            seen.add(item.path)
            if not item.boxes:
                cure = 'nothing, if there is no object in it; training leaves it out'
                error = DataError('has no (good) box', cure, file=item.path, kind='no-boxes')
                yield Problem.of(error, split, item.image_id)
            counts = Counter((name, *box) for name, box in item.boxes)
            for (name, *box), count in counts.items():
                if count > 1:
                    text = f'its annotation has {name} at {box} {count} times'
                    twice = DataError(text, 'keep one', file=item.path, kind='duplicate-box')
                    yield Problem.of(twice, split, item.image_id)


def _in_two_splits(items: dict[str, list[Item]]) -> Iterator[Problem]:
    """Yield problems of images in two splits, except VOC's trainval, which is train and val."""
    names = list(items)
    for i, one in enumerate(names):
        here = {item.path for item in items[one]}
        for other in names[i + 1 :]:
            if _may_share(one, other):
                continue
            for item in items[other]:
                if item.path in here:
                    text = f'is in the splits {one} and {other}: what is trained on must not be tested on'
                    error = DataError(text, 'take it out of one', file=item.path, kind='two-splits')
                    yield Problem.of(error, other, item.image_id)


def _may_share(one: str, other: str) -> bool:
    """Return True for one split, and for a split that contains the other by design."""
    return one == other or other in UNIONS.get(one, ()) or one in UNIONS.get(other, ())


def _images(items: dict[str, list[Item]], decode: bool, advance: Callable[[], None]) -> Iterator[Problem]:
    """Check every image file once, in several threads; decoding takes most of the time."""
    first: dict[Path, tuple[str, Item]] = {}
    for split, rows in items.items():
        for item in rows:
            first.setdefault(item.path, (split, item))
    seen: dict[bytes, tuple[str, Item]] = {}

    def read(item: Item) -> tuple[DataError | None, bytes | None]:
        try:
            check_image(item.path, item.width, item.height, decode=decode)
            digest = pixels_digest(item.path) if decode else None
        except DataError as error:
            return error, None
        except OSError as error:
            problem = f'cannot read it ({error.strerror})'
            return DataError(problem, 'get it again', file=item.path, kind='image-unreadable'), None
        try:
            check_orientation(item.path)
        except DataError as warning:
            return warning, digest
        return None, digest

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (split, item), (error, digest) in zip(
            first.values(), pool.map(read, [item for _, item in first.values()]), strict=True
        ):
            advance()
            if error is not None:
                yield Problem.of(error, split, item.image_id)
            if digest is not None:
                other_split, other = seen.setdefault(digest, (split, item))
                if other is not item:
                    text = f'has the same pixels as {other.path.name} of {other_split}'
                    kind = 'same-pixels' if _may_share(split, other_split) else 'two-splits'
                    same = DataError(text, 'keep one of them', file=item.path, kind=kind)
                    yield Problem.of(same, split, item.image_id)


def report(layout: Layout, *, decode: bool = True, as_json: bool = False) -> int:
    """Check a data set and print a table or JSON; return the number of errors."""
    with Progress(console=PlainConsole(stderr=True), transient=True, disable=as_json) as progress:
        task = progress.add_task('images', total=None)
        problems = check(layout, decode=decode, advance=lambda: progress.advance(task))
    errors = sum(problem.severity == 'error' for problem in problems)
    if as_json:
        rows = [asdict(problem) for problem in problems]
        print(json.dumps({'errors': errors, 'warnings': len(rows) - errors, 'problems': rows}, indent=2))
        return errors
    if problems:
        PlainConsole().print(problem_table(problems))
    if not errors:
        print(f"no problems in '{layout.root}' ({', '.join(layout.splits)}) that keep it from being used")
    return errors


def problem_table(problems: list[Problem], most: int = 100) -> Table:
    """Return a table of the problems, errors first, with the number of each kind."""
    counts = Counter((problem.severity, problem.kind) for problem in problems)
    listed = ', '.join(f'{count} {kind} ({severity})' for (severity, kind), count in sorted(counts.items()))
    rest = f'; {most} are shown, --json lists all' if len(problems) > most else ''
    table = Table('', 'split', 'image', title=f'{listed}{rest}')
    table.add_column('file, problem and cure', overflow='fold')
    for problem in sorted(problems, key=lambda problem: problem.severity)[:most]:
        cure = f'; {problem.cure}' if problem.cure else ''
        text = f'{problem.file}: {problem.problem}{cure}' if problem.file else f'{problem.problem}{cure}'
        cells = (problem.split, brief(problem.image, 150), text)
        table.add_row(problem.severity, *(cell.encode(errors='replace').decode() for cell in cells))
    return table
