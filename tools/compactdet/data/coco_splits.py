"""Build COCO's trainval35k and minival2014 from the official annotation files of 2014.

minival2014 consists of the images of val2014 that are in val2017; trainval35k of train2014 and the rest of
val2014. (train2017 and val2017 are the same images with the same annotations and need not be built.)
Source:
the splits of Bell et al. 2016 (arXiv:1512.04143), used by py-faster-rcnn and Detectron.
"""

import json
from pathlib import Path
from typing import Any

from compactdet.data.catalog import SOURCES
from compactdet.errors import UserError
from compactdet.files import load_json, write_whole

NEEDED = ('train2014', 'val2014', 'val2017')


def build_splits(root: Path, *, subset: bool = False) -> dict[str, int]:
    """Write ``annotations/instances_trainval35k.json`` and ``annotations/instances_minival2014.json``.

    Args:
        root: Folder of COCO, with instances_train2014, _val2014 and _val2017 in ``annotations``.
        subset: Whether the files are a part of COCO, so that counts are not checked.

    Returns:
        Number of images by split.

    Raises:
        UserError: A file is missing or not a COCO file, or a count is wrong. Nothing is written then.
    """
    folder = root / 'annotations'
    data = {name: _read(folder / f'instances_{name}.json') for name in NEEDED}
    mini = {image['id'] for image in data['val2017']['images']}
    train, val = data['train2014'], data['val2014']
    if absent := mini - {image['id'] for image in val['images']}:
        raise UserError(
            f'{folder}: {len(absent)} images of val2017 are not in val2014 (such as {min(absent)}); get '
            'the official files'
        )
    if train['categories'] != val['categories']:
        raise UserError(f"{folder}: train2014's and val2014's categories differ; get the official files")
    built = {
        'trainval35k': _joined(train, _part(val, mini, inside=False)),
        'minival2014': _part(val, mini, inside=True),
    }
    counts = {name: len({image['id'] for image in part['images']}) for name, part in built.items()}
    for file, count in SOURCES['coco'].splits.items():
        name = Path(file).stem.removeprefix('instances_')
        if len(built[name]['images']) != counts[name]:
            raise UserError(f'{folder}: an image is in train2014 and val2014; get the official files')
        if counts[name] != count and not subset:
            raise UserError(
                f'{folder}: {name} would have {counts[name]} images, the published one has {count}; get '
                'the official files, or use --subset if they are a part of COCO on purpose'
            )
    for name, part in built.items():
        write_whole(folder / f'instances_{name}.json', json.dumps(part))
    return counts


def can_build(root: Path) -> bool:
    """Return True if the files of 2014 exist."""
    return all((root / 'annotations' / f'instances_{name}.json').is_file() for name in NEEDED)


def _read(path: Path) -> dict[str, Any]:
    data = load_json(path)
    for key in ('images', 'annotations', 'categories'):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise UserError(f'{path}: has no list "{key}": not a COCO annotation file; get it again')
    return data


def _part(data: dict[str, Any], ids: set[int], *, inside: bool) -> dict[str, Any]:
    return data | {
        'images': [entry for entry in data['images'] if (entry['id'] in ids) == inside],
        'annotations': [entry for entry in data['annotations'] if (entry['image_id'] in ids) == inside],
    }


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    return one | {key: one[key] + other[key] for key in ('images', 'annotations')}
