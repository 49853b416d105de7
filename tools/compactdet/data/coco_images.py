"""Find the images of a COCO annotation file.

The rule. The folders considered are that of the annotation file, the root of the data set, and the folders
one and two levels below the root, in so far as they hold an image under a ``file_name`` of the file. Of
these, only the folders that fit the split's name best are kept, in this order:

1. a folder named as the split: ``val2017`` or ``images/val2017`` for the split val2017;
2. a folder named for the same use: ``val_images``, ``images/valid`` or ``val`` for val2017 or
   val_annotations;
3. a folder whose name states no use: ``images``, ``JPEGImages``, the root;
4. a folder named for another use.

If one of them holds all images, it is the folder of the split; if several do, the rule does not decide and
an error lists them. Unless a folder named as the split holds them all, images of COCO are found by number
in the folders of 2014 and 2017; images of which a number is in two folders of one year are not of COCO.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from compactdet.data.problems import DataError

YEARS = (('train2017', 'val2017'), ('train2014', 'val2014'))
FOLDERS = tuple(folder for year in YEARS for folder in year)  # of COCO's own images

OFFICIAL = re.compile(r'(?:COCO_(?:train|val)2014_)?(\d{12})\.jpg')

# What a split or a folder is used for, by the words in its name.
USES = {
    'train': 'train', 'training': 'train',
    'val': 'val', 'valid': 'val', 'validation': 'val', 'minival': 'val', 'dev': 'val',
    'test': 'test', 'testing': 'test',
    'trainval': 'trainval',
}  # fmt: skip


def find_images(root: Path, annotation_file: Path, names: Sequence[str]) -> list[Path]:
    """Return the paths of the images of an annotation file, or where they should be.

    Args:
        root: Folder of the data set.
        annotation_file: The annotation file of the split.
        names: ``file_name`` of each image.

    Raises:
        DataError: More than one folder fits.
    """
    split = split_name(annotation_file)
    found = _folders(root, annotation_file, names)
    fits = {
        folder: _fit(folder.relative_to(root).parts if folder.is_relative_to(root) else (), split)
        for folder in found
    }
    best = min(fits.values(), default=0)
    counts = {folder: count for folder, count in found.items() if fits[folder] == best}
    complete = [folder for folder, count in counts.items() if count == len(names)]
    if not (complete and best == 1) and (paths := _by_number(root, names)):
        return paths
    if len(complete) > 1:
        listed = ', '.join(os.path.relpath(folder, root) for folder in complete)
        raise DataError(
            f'its images are in several folders ({listed}), and none is named as the split {split!r}',
            f'rename one folder to {split}, or write the folder into each file_name',
            file=annotation_file,
            kind='images-ambiguous',
        )
    folder = max(counts, key=lambda folder: counts[folder], default=root / 'images')
    return [folder / name for name in names]


def split_name(annotation_file: Path) -> str:
    """Return the split of an annotation file: train2017 of ``instances_train2017.json``, valid of
    ``valid/_annotations.coco.json``.
    """
    stem = annotation_file.stem.removeprefix('instances_')
    return annotation_file.parent.name if stem.startswith('_') or stem == 'annotations' else stem


def _uses(name: str) -> set[str]:
    words = re.findall(r'[A-Z]?[a-z]+|[A-Z]+', name)
    return {USES[word.lower()] for word in words if word.lower() in USES}


def _fit(parts: Sequence[str], split: str) -> int:
    """Return how well the path of a folder below the root fits a split: 1 is best, 4 is worst."""
    if split in parts:
        return 1
    stated = set[str]().union(*map(_uses, parts))
    if not stated:
        return 3
    return 2 if stated == _uses(split) else 4


def _folders(root: Path, annotation_file: Path, names: Sequence[str]) -> dict[Path, int]:
    """Return the folders that hold images, with the number of images; a linked folder only once."""
    one = _subfolders(root)
    two = [folder for parent in one for folder in _subfolders(parent)]
    found: dict[Path, int] = {}
    seen = set()
    for folder in (annotation_file.parent, root, *one, *two):
        if folder.resolve() not in seen and (count := _count(folder, names)):
            seen.add(folder.resolve())
            found[folder] = count
    return found


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:  # does not ask for the state of each image
            return sorted(Path(e) for e in entries if not e.name.startswith('.') and e.is_dir())
    except OSError:
        return []


def _count(folder: Path, names: Sequence[str]) -> int:
    """Return how many of the images are in a folder; each folder is listed once."""
    by_parent: dict[str, list[str]] = {}
    for name in names:
        parent, _, last = name.rpartition('/')
        by_parent.setdefault(parent, []).append(last)
    count = 0
    for parent, lasts in by_parent.items():
        try:
            there = {file.name for file in (folder / parent).iterdir()}
        except OSError:
            continue
        count += sum(last in there for last in lasts)
    return count


def _by_number(root: Path, names: Sequence[str]) -> list[Path]:
    """Return the paths of COCO's own images; nothing if they are not COCO's, or not in COCO's folders."""
    matches = [OFFICIAL.fullmatch(Path(name).name) for name in names]
    numbers = [match[1] for match in matches if match]
    if len(numbers) < len(names):
        return []
    wanted = set(numbers)
    index: dict[str, Path] = {}
    for base in (root, root / 'images'):
        for year in YEARS:
            of_year: dict[str, Path] = {}
            for folder in (base / name for name in year):
                for file in folder.iterdir() if folder.is_dir() else ():
                    match = OFFICIAL.fullmatch(file.name)
                    if match and of_year.setdefault(match[1], file) != file and match[1] in wanted:
                        return []
            index = of_year | index
    likely = next((file.parent for file in index.values()), root)
    return (
        [index.get(number, likely / Path(name).name) for number, name in zip(numbers, names, strict=True)]
        if index
        else []
    )
