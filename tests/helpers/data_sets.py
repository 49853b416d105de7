"""Small data sets in VOC's and COCO's format, and what a check finds in a set."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import backbones  # noqa: F401  before mmdet
from compactdet.data.check import check
from compactdet.data.layout import layout_of

SIZE = '<annotation><size><width>40</width><height>30</height></size>'
XML = (
    SIZE + '<object><name>{}</name><bndbox>'
    '<xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object></annotation>'
)
GOOD = {'train': ['a', 'b', 'c'], 'val': ['d'], 'test': ['e', 'f']}


def picture(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), np.uint8)
    cv2.imwrite(str(path), noise)


def make_voc(root: Path, splits: dict[str, list[str]]) -> Path:
    for part in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (root / part).mkdir(parents=True)
    for split, ids in splits.items():
        (root / f'ImageSets/Main/{split}.txt').write_text('\n'.join(ids) + '\n')
        for image_id in ids:
            picture(root / f'JPEGImages/{image_id}.jpg', sum(map(ord, image_id)))
            name = 'dog' if ord(image_id[-1]) % 2 else 'cat'
            (root / f'Annotations/{image_id}.xml').write_text(XML.format(name, 1, 2, 20, 30))
    return root


def coco_data(ids: list[int], prefix: str = '') -> dict[str, Any]:
    return {
        'images': [
            {'id': i, 'file_name': f'{prefix}{i:012}.jpg', 'width': 40, 'height': 30} for i in ids
        ],
        'annotations': [
            {'id': i, 'image_id': i, 'category_id': 1 + i % 2, 'bbox': [1, 2, 20, 20], 'area': 300}
            for i in ids
        ],
        'categories': [{'id': 2, 'name': 'cat'}, {'id': 1, 'name': 'dog'}],
    }  # fmt: skip


def make_coco(root: Path, splits: dict[str, list[int]]) -> Path:
    for split, ids in splits.items():
        data = coco_data(ids, f'COCO_{split}_' if '2014' in split else '')
        (root / 'annotations').mkdir(parents=True, exist_ok=True)
        (root / f'annotations/instances_{split}.json').write_text(json.dumps(data))
        for image in data['images']:
            picture(root / split / image['file_name'], image['id'])
    return root


def found(root: Path, **options: Any) -> dict[str, list[tuple[str, str]]]:
    """Kinds of problems: split and image of each."""
    kinds: dict[str, list[tuple[str, str]]] = {}
    for problem in check(layout_of(root), **options):
        assert (problem.severity == 'error') == (
            problem.kind
            not in (
                *('no-boxes', 'same-pixels', 'known-defect', 'box-rounded', 'duplicate-box'),
                *('class-alike', 'exif-orientation', 'filename-of-another'),
            )
        )
        assert problem.problem
        kinds.setdefault(problem.kind, []).append((problem.split, problem.image))
    return kinds
