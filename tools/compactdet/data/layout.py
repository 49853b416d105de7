"""The layout of a data set folder: its format, splits and classes; and the config of a user's own data set.

Supported layouts:

- VOC: ``Annotations/ID.xml``, ``JPEGImages/ID.jpg``, ``ImageSets/Main/SPLIT.txt`` (or one folder above).
- COCO: ``annotations/[instances_]SPLIT.json`` with the images in ``SPLIT``, ``images/SPLIT``, ``images`` or
  beside it; or ``SPLIT/*.json`` with the images beside it, as annotation tools export it. The exact rule is
  in ``coco_images``.

SPLIT is any name; a run uses names that begin with train (or trainval), val (or minival) and test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compactdet.data.catalog import SOURCES
from compactdet.data.coco_file import read_coco_file
from compactdet.data.coco_images import split_name
from compactdet.data.problems import DataError
from compactdet.data.voc_files import find_set, parse_annotation, read_split, split_files
from compactdet.errors import UserError

BASES = Path(__file__).parents[3] / 'det_configs' / '_base_' / 'datasets'


@dataclass(frozen=True)
class Layout:
    """The folder of a data set.

    Attributes:
        root: Folder for ``--data-root``.
        format: 'voc' or 'coco'.
        splits: Name of each split and its file below ``root``.
        classes: Class names; None to accept any class.
        known_defects: Ids of images whose boxes without area are known.
        expected: Published number of images by split, as far as known.
    """

    root: Path
    format: str
    splits: dict[str, str]
    classes: tuple[str, ...] | None = None
    known_defects: tuple[str | int, ...] = ()
    expected: dict[str, int] | None = None

    def only(self, split: str | None) -> Layout:
        """Return the layout with one split.

        Raises:
            UserError: There is no such split.
        """
        if split is None:
            return self
        if split not in self.splits:
            raise UserError(f"'{self.root}' has no split {split!r}; splits there: {', '.join(self.splits)}")
        return Layout(**vars(self) | {'splits': {split: self.splits[split]}})


def layout_of(root: str | Path, classes: Sequence[str] | None = None) -> Layout:
    """Return the layout of a folder.

    Raises:
        UserError: It is missing, or not a data set in VOC or COCO format.
    """
    root = Path(root)
    named = tuple(classes) if classes else None
    for folder in (root, root / 'VOC2007'):
        if (folder / 'ImageSets' / 'Main').is_dir():
            prefix = folder.relative_to(root) / 'ImageSets' / 'Main'
            find_set(root, prefix / 'x.txt')
            files = split_files(folder)
            if not files:
                raise UserError(f"no split file in '{root / prefix}'; write one image id a line")
            return Layout(root, 'voc', {file.stem: str(prefix / file.name) for file in files}, named)
    found = sorted({*root.glob('*/[!.]*.json'), *root.glob('[!.]*.json')})
    boxes = [file for file in found if file.name.startswith('instances_')] or found
    splits = {split_name(file): str(file.relative_to(root)) for file in boxes}
    if not splits:
        state = 'is absent' if not root.exists() else 'is no data set in VOC or COCO format'
        raise UserError(
            f"data set '{root}' {state}: it needs Annotations, JPEGImages and ImageSets/Main/SPLIT.txt, or "
            'annotations/SPLIT.json and its images; point at such a folder'
        )
    if len(splits) < len(boxes):
        listed = ', '.join(str(file.relative_to(root)) for file in boxes)
        raise UserError(f"'{root}': several annotation files of one split ({listed}); keep one of each")
    return Layout(root, 'coco', splits, named)


def find_layout(name: str, data: Path, classes: Sequence[str] | None = None) -> Layout:
    """Return the layout of a published data set by its name, or of a folder.

    Raises:
        UserError: It is missing, or not a data set.
    """
    if name in SOURCES and not Path(name).is_dir():
        return published_layout(name, data)
    return layout_of(name, classes)


def published_layout(name: str, data: Path) -> Layout:
    """Return the layout of a published data set in the folder of all data sets.

    Raises:
        UserError: It is missing. The message states how to get it.
    """
    from mmengine.config import Config  # here: a folder is checked without MMEngine

    source = SOURCES[name]
    root = data / source.root
    if not root.is_dir():
        raise UserError(f"data set {name!r} is absent in '{data}': python tools/data.py get {name}")
    dataset = Config.fromfile(BASES / f'{source.config}.py').train_dataloader.dataset
    metainfo = dataset.get('metainfo')
    if metainfo is None:
        from compactdet.data.shapes import ShapesDataset  # here: loads MMDetection, which takes seconds

        metainfo = ShapesDataset.METAINFO
    kind = 'coco' if name == 'coco' else 'voc'
    if kind == 'voc':
        splits = layout_of(root).splits
    else:
        splits = {Path(file).stem.removeprefix('instances_'): file for file in source.splits}
    return Layout(
        root,
        kind,
        splits,
        tuple(metainfo['classes']),
        tuple(dataset.get('known_defects', ())),
        {Path(file).stem.removeprefix('instances_'): count for file, count in source.splits.items()},
    )


def roles(splits: Mapping[str, str], root: Path) -> dict[str, str]:
    """Return the splits for training, testing and, if there is a third one, validation.

    Raises:
        UserError: There is no split for training or none for testing.
    """

    def named(*beginnings: str) -> list[str]:
        return [name for name in sorted(splits) if name.lower().startswith(beginnings)]

    both, vals, tests = named('trainval'), named('val', 'minival', 'dev'), named('test')
    trains = [name for name in named('train') if name not in both]
    if tests and trains and vals:
        return {'train': trains[0], 'val': vals[0], 'test': tests[0]}
    if not tests and not named('minival'):
        both = []  # contains the test images
    if (trains or both) and (tests or vals):
        return {'train': (both + trains)[0], 'test': (tests + vals)[0]}
    raise UserError(
        f"'{root}' has the splits {', '.join(splits)}; a run needs two, whose names begin with train and "
        'with test or val'
    )


def custom_dataset(root: str | Path, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Describe a user's own data set.

    Args:
        root: Its folder; see the layouts above.
        classes: Class names in order; None for those in the annotations (COCO: in the order of the file's
            category ids, VOC: sorted).

    Returns:
        ``format`` ('voc' or 'coco'), ``type`` (of the registered data set), ``data_root``, ``classes`` and
        ``splits``: 'train', 'test' and maybe 'val', to a file below ``data_root``.

    Raises:
        UserError: It is not a data set, lacks a split for training or testing, or has invalid annotations.
    """
    layout = layout_of(root, classes)
    chosen = {role: layout.splits[name] for role, name in roles(layout.splits, layout.root).items()}
    return {
        'format': layout.format,
        'type': {'voc': 'VOCFormatDataset', 'coco': 'COCOFormatDataset'}[layout.format],
        'data_root': str(root),
        'classes': list(layout.classes or class_names(layout, list(chosen.values()))),
        'splits': chosen,
    }


def class_names(layout: Layout, files: Sequence[str]) -> list[str]:
    """Return the classes in the annotations of some splits.

    Raises:
        UserError: An annotation is not valid, or there is no class.
    """
    names: dict[str, None] = {}
    if layout.format == 'voc':
        found = set()
        for file in files:
            folder, split_file = find_set(layout.root, file)
            for image_id in read_split(split_file):
                found |= set(parse_annotation(folder / 'Annotations' / f'{image_id}.xml').names)
        names = dict.fromkeys(sorted(found))
    else:
        for file in files:
            names |= dict.fromkeys(read_coco_file(layout.root / file, report=_later).categories.values())
    if not names:
        raise UserError(f"'{layout.root}': no object is annotated; name the classes with --classes")
    return list(names)


def _later(error: DataError) -> None:
    """Ignore a problem of an object, which the data set class reports later."""


def custom_config(root: str | Path, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Return the variables that a base config in ``det_configs/_base_/datasets`` would define for
    `custom_dataset`.

    Pipelines and loaders are those of voc07. With three splits, the best checkpoint can be selected on val.

    Raises:
        UserError: From `custom_dataset`.
    """
    from mmengine.config import Config  # here: a folder is checked without MMEngine

    found = custom_dataset(root, classes)
    content = Config.fromfile(BASES / 'voc07.py').to_dict()
    common = {
        'type': found['type'],
        'data_root': found['data_root'],
        'metainfo': {'name': Path(root).resolve().name, 'classes': tuple(found['classes'])},
        'known_defects': (),
        'how_to_get': 'Point --data-root at the folder of your data set.',
    }
    content |= {'dataset_type': found['type']} | {
        key: common[key] for key in ('data_root', 'metainfo', 'how_to_get')
    }
    for role, pipeline in (
        ('train', 'train_pipeline'),
        ('val', 'test_pipeline'),
        ('test', 'test_pipeline'),
    ):
        if role not in found['splits']:
            continue
        own = {'filter_cfg': {'filter_empty_gt': True}} if role == 'train' else {'test_mode': True}
        loader = content['train_dataloader' if role == 'train' else 'test_dataloader']
        dataset = {**common, 'ann_file': found['splits'][role], **own, 'pipeline': content[pipeline]}
        content[f'{role}_dataloader'] = {**loader, 'dataset': dataset}
    if 'val' in found['splits']:
        content |= {'val_evaluator': content['test_evaluator'], 'val_cfg': {'type': 'ValLoop'}}
    return content
