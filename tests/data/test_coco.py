"""COCO-format data: every bad entry gives one clear line; good input arrives unchanged."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image

import backbones  # noqa: F401  before mmdet
from compactdet.data.base_dataset import annotations_sha256, dataset_facts
from compactdet.data.coco import COCOFormatDataset
from compactdet.data.coco_file import read_coco_file
from compactdet.data.coco_splits import build_splits, can_build
from compactdet.errors import UserError
from compactdet.evaluation.metric import DetectionMetric

from evaluation_sets import NAMES, judge

CONFIG = Path(__file__).parents[2] / 'det_configs/_base_/datasets/coco.py'
CATEGORIES = [{'id': 1, 'name': 'cat'}, {'id': 7, 'name': 'dog'}]
PIPELINE = [
    {'type': 'LoadImageFromFile', 'color_type': 'color_ignore_orientation'},
    {'type': 'Resize', 'scale': (80, 60), 'keep_ratio': True},
    {'type': 'LoadAnnotations', 'with_bbox': True},
    {'type': 'PackDetInputs', 'meta_keys': ('img_id', 'ori_shape', 'img_shape', 'scale_factor')},
]


def image(number: int, name: str | None = None, width: int = 40, height: int = 30) -> dict[str, Any]:
    return {'id': number, 'file_name': name or f'{number:012}.jpg', 'width': width, 'height': height}


def box(number: int, image_id: int, bbox: list[float], category: int = 7, **more: Any) -> dict[str, Any]:
    return {
        'id': number, 'image_id': image_id, 'category_id': category, 'bbox': bbox,
        'area': bbox[2] * bbox[3] / 2, 'iscrowd': 0, 'segmentation': [[0, 0, 1, 1, 0, 1]], **more,
    }  # fmt: skip


def content(images: list, annotations: list, categories: list | None = None) -> dict[str, Any]:
    return {'images': images, 'annotations': annotations, 'categories': categories or CATEGORIES}


def write(path: Path, data: Any, folder: Path | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    for entry in data['images'] if folder else ():
        file = folder / entry['file_name']
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (entry['width'], entry['height'])).save(file)
    return path


GOOD = content(
    [image(9), image(3), image(5)],
    [
        box(1, 9, [1.5, 2, 10.25, 20]),
        box(2, 9, [0, 0, 40, 30], category=1, iscrowd=1),
        box(3, 5, [30, 20, 10.5, 10]),  # half a pixel beyond the border
    ],
)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    root = tmp_path / 'coco'
    write(root / 'annotations/instances_val2017.json', GOOD, root / 'val2017')
    return root


def load(root: Path, **kwargs: Any) -> COCOFormatDataset:
    kwargs = {
        'metainfo': {'classes': ('dog', 'cat')},
        'ann_file': 'annotations/instances_minival2014.json',
        'serialize_data': False,
        'test_mode': True,
    } | kwargs
    return COCOFormatDataset(data_root=str(root), **kwargs)


def test_2017_files_stand_in_for_minival(coco: Path) -> None:
    dataset = load(coco)
    assert [dataset.get_data_info(i)['img_id'] for i in range(3)] == [9, 3, 5]
    first = dataset.get_data_info(0)
    assert [(o['bbox'], o['bbox_label'], o['ignore_flag'], o['area']) for o in first['instances']] == [
        ([1.5, 2, 11.75, 22], 0, 0, 102.5),
        ([0, 0, 40, 30], 1, 1, 600),
    ]
    assert Path(first['img_path']) == coco / 'val2017/000000000009.jpg'
    assert dataset.metainfo['ann_file'] == str(coco / 'annotations/instances_val2017.json')
    facts = dataset_facts(dataset)
    assert {key: facts[key] for key in ('images', 'boxes', 'difficult', 'dropped_boxes', 'classes')} == {
        'images': 3, 'boxes': 3, 'difficult': 1, 'dropped_boxes': {}, 'classes': ['dog', 'cat'],
    }  # fmt: skip
    assert len(load(coco, test_mode=False, filter_cfg={'filter_empty_gt': True})) == 2


def test_the_hash_is_of_what_counts(coco: Path) -> None:
    before = annotations_sha256(load(coco))
    renamed = json.loads(json.dumps(GOOD))
    for entry in renamed['images']:
        entry['file_name'] = f'COCO_val2014_{entry["file_name"]}'
    renamed['images'].reverse()
    renamed['annotations'].reverse()
    write(coco / 'annotations/instances_val2017.json', renamed)
    assert annotations_sha256(load(coco)) == before  # and the images are found under the other year's names
    renamed['annotations'][0]['area'] += 1
    write(coco / 'annotations/instances_val2017.json', renamed)
    assert annotations_sha256(load(coco)) != before


def test_pipeline(coco: Path) -> None:
    with DefaultScope.overwrite_default_scope('mmdet'):
        sample = load(coco, pipeline=PIPELINE)[0]['data_samples']
    assert sample.gt_instances.bboxes.tensor.tolist() == [[1.5, 2, 11.75, 22]]
    assert sample.ignored_instances.bboxes.tensor.tolist() == [[0, 0, 40, 30]]
    assert (sample.img_id, sample.ori_shape, sample.img_shape) == (9, (30, 40), (60, 80))


def test_damage_is_found_at_the_latest_when_an_image_is_used(coco: Path) -> None:
    path = coco / 'val2017/000000000009.jpg'
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = load(coco, pipeline=PIPELINE)
        Image.new('RGB', (30, 40)).save(path)
        with pytest.raises(UserError, match=r'9\.jpg: the image is 30x40 but its annotation says 40x30'):
            dataset[0]
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(UserError, match=r'9\.jpg: '):
            dataset[0]
    path.unlink()
    with pytest.raises(UserError, match=r"names '000000000009\.jpg', but there is no file"):
        load(coco)


def test_absent_set_says_how_to_get_it(tmp_path: Path) -> None:
    dataset = Config.fromfile(CONFIG).train_dataloader.dataset.to_dict()
    dataset.pop('type')
    dataset.update(data_root=str(tmp_path / 'no'), pipeline=[])
    with pytest.raises(UserError, match=r'is absent: no file .*trainval35k.*train2017.*data\.py get coco'):
        COCOFormatDataset(**dataset)


ONE = [image(1)]
BAD = {
    'not json': ('{', 'not valid JSON'),
    'no list': ({'images': []}, 'has no list "annotations": not a COCO annotation file'),
    'image without size': (content([{'id': 1, 'file_name': 'a.jpg'}], []), 'entry 0: "width" is None'),
    'image of size 0': (content([image(1, width=0)], []), '"width" is 0, must be a positive whole number'),
    'image above': (content([image(1, '../a.jpg')], []), "must be a path below the folder of images"),
    'image without id': (content([image(1) | {'id': None}], []), '"id" is None'),
    'image id twice': (content([image(1), image(1, 'b.jpg')], []), 'image id 1 occurs twice; keep one'),
    'image file twice': (content([image(1, 'a'), image(2, 'a')], []), "file_name 'a' occurs twice"),
    'category id twice': (content(ONE, [], [*CATEGORIES, {'id': 1, 'name': 'x'}]), 'id 1 or name'),
    'category name twice': (content(ONE, [], [*CATEGORIES, {'id': 2, 'name': 'cat'}]), 'gories, entry 2'),
    'annotation id twice': (content(ONE, [box(4, 1, [0, 0, 2, 2])] * 2), 'its id occurs twice'),
    'annotation without id': (content(ONE, [{}]), 'annotations, entry 0: has no whole number "id"'),
    'annotation is a list': (content(ONE, [[]]), 'annotations, entry 0: has no whole number "id"'),
    'image unknown': (content(ONE, [box(4, 2, [0, 0, 2, 2])]), 'annotation 4: image_id 2 is not among the'),
    'image id a list': (content(ONE, [box(4, [2], [0, 0, 2, 2])]), r'image_id \[2\] is not among the'),
    'class unknown': (content(ONE, [box(4, 1, [0, 0, 2, 2], category=2)]), 'category_id 2 is not'),
    'three sides': (content(ONE, [box(4, 1, [0, 0, 2, 2]) | {'bbox': [0, 0, 2]}]), 'must be four'),
    'text side': (content(ONE, [box(4, 1, [0, 0, 2, 2]) | {'bbox': [0, 0, 2, '2']}]), 'must be four'),
    'nan': (content(ONE, [box(4, 1, [0, float('nan'), 2, 2])]), 'must be four finite numbers'),
    'true': (content(ONE, [box(4, 1, [True, 0, 2, 2])]), 'must be four finite numbers'),
    'no box': (content(ONE, [{'id': 4, 'image_id': 1, 'category_id': 7}]), 'bbox is None, must be four'),
    'inverted': (content(ONE, [box(4, 1, [9, 9, -2, 2])]), 'has a negative side; it is .x, y'),
    'no area': (content(ONE, [box(4, 1, [9, 9, 2, 0])]), r'bbox \[9, 9, 2, 0\] has no area; fix'),
    'right': (content(ONE, [box(4, 1, [30, 9, 12, 2])]), 'lies outside the image of 40x30; fix'),
    'left': (content(ONE, [box(4, 1, [-2, 9, 12, 2])]), 'lies outside the image'),
    'far away': (content(ONE, [box(4, 1, [500, 500, 5, 5])]), 'lies outside the image'),
    'crowd': (content(ONE, [box(4, 1, [0, 0, 2, 2], iscrowd=2)]), 'iscrowd is 2, must be 0 or 1'),
    'area': (content(ONE, [box(4, 1, [0, 0, 2, 2], area=-1)]), 'area is -1, must be'),
}  # fmt: skip


@pytest.mark.parametrize(('data', 'match'), BAD.values(), ids=BAD)
def test_bad_entries(tmp_path: Path, data: Any, match: str) -> None:
    path = write(tmp_path / 'one.json', data)
    with pytest.raises(UserError, match=rf'one\.json: .*{match}'):
        read_coco_file(path)


def test_a_class_that_is_not_wanted_is_named(coco: Path) -> None:
    with pytest.raises(UserError, match=r"annotation 2: unknown class 'cat' .known: dog.; fix the file"):
        load(coco, metainfo={'classes': ('dog',)})


def test_all_is_reported_and_the_rest_is_kept(tmp_path: Path) -> None:
    entries = [box(1, 1, [-9, 0, 60, 2], category=2), box(2, 1, [0, 0, 2, 2]), box(2, 1, [0, 0, 2, 2])]
    problems: list[str] = []
    path = write(tmp_path / 'one.json', content(ONE, entries))
    file = read_coco_file(path, report=lambda error: problems.append(error.kind))
    assert problems == ['class-unknown', 'box-outside', 'duplicate-id']
    assert [entry['id'] for entry in file.objects[1]] == [2]


def test_known_defects_are_dropped_and_recorded(coco: Path) -> None:
    data = content([image(9), image(3)], [box(1, 9, [9, 9, 2, 0]), box(4, 9, [1, 1, 2, 2])])
    write(coco / 'annotations/instances_val2017.json', data)
    with pytest.raises(UserError, match='has no area'):
        load(coco, known_defects=(3,))
    assert dataset_facts(load(coco, known_defects=(9,)))['dropped_boxes'] == {'9': [1]}


# trainval35k and minival2014


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """2014: train 1 2, val 3 4 5. 2017: train 1 2 4, val 3 5, which makes minival 3 5."""
    root = tmp_path / 'coco'
    numbers = {'train2014': (1, 2), 'val2014': (3, 4, 5), 'val2017': (3, 5), 'train2017': (1, 2, 4)}
    for split, ids in numbers.items():
        prefix = f'COCO_{split}_' if '2014' in split else ''
        images = [image(i, f'{prefix}{i:012}.jpg') for i in ids]
        data = content(images, [box(10 + i, i, [i, i, 5, 5], iscrowd=int(i == 4)) for i in ids])
        write(root / f'annotations/instances_{split}.json', data, root / split)
    return root


def test_splits_are_built(official: Path) -> None:
    with pytest.raises(UserError, match='trainval35k would have 3 images, the published one has 118287'):
        build_splits(official)
    assert not list(official.glob('annotations/*35k*'))
    from_2017 = {split: load(official, ann_file=f'annotations/instances_{split}.json') for split in ANN}
    assert build_splits(official, subset=True) == {'trainval35k': 3, 'minival2014': 2}
    for split, ids in ANN.items():
        dataset = load(official, ann_file=f'annotations/instances_{split}.json')
        assert Path(dataset.metainfo['ann_file']).name == f'instances_{split}.json'
        assert [dataset.get_data_info(i)['img_id'] for i in range(len(dataset))] == ids
        assert annotations_sha256(dataset) == annotations_sha256(from_2017[split])


ANN = {'trainval35k': [1, 2, 4], 'minival2014': [3, 5]}


@pytest.mark.parametrize('images', ['2014', '2017'])
def test_either_years_images_do(official: Path, images: str) -> None:
    build_splits(official, subset=True)
    for path in official.glob('*/*.jpg'):
        if images not in path.parent.name:
            path.unlink()
    for split, ids in ANN.items():
        dataset = load(official, ann_file=f'annotations/instances_{split}.json')
        paths = [Path(dataset.get_data_info(i)['img_path']) for i in range(len(dataset))]
        assert [int(path.stem[-12:]) for path in paths] == ids
        assert {images in path.parent.name for path in paths} == {True}


def test_wrong_official_files(official: Path) -> None:
    folder = official / 'annotations'
    write(folder / 'instances_train2014.json', content([image(1), image(4)], []))
    with pytest.raises(UserError, match='an image is in train2014 and val2014'):
        build_splits(official, subset=True)
    write(folder / 'instances_val2017.json', content([image(3), image(99)], []))
    with pytest.raises(UserError, match=r'1 images of val2017 are not in val2014 .such as 99'):
        build_splits(official, subset=True)
    (folder / 'instances_val2017.json').unlink()
    assert not can_build(official)


# The metric


def sample(image_id: int, boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    predicted = {
        'bboxes': torch.as_tensor(boxes).reshape(-1, 4),
        'labels': torch.as_tensor(labels),
        'scores': torch.as_tensor(scores),
    }
    return {'img_id': image_id, 'pred_instances': predicted}


def near(dataset: COCOFormatDataset, seed: int) -> list[dict[str, Any]]:
    """Detections: jittered boxes, some twice, some of another class."""
    rng = np.random.default_rng(seed)
    samples = []
    for i in range(len(dataset)):
        entry = dataset.get_data_info(i)
        instances = entry['instances'] * 2
        boxes = np.array([o['bbox'] for o in instances]).reshape(-1, 4)
        boxes = boxes + rng.normal(0, 0.1, boxes.shape) * np.tile(boxes[:, 2:] - boxes[:, :2], 2)
        boxes = np.hstack([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])])
        labels = np.array([o['bbox_label'] for o in instances], int)
        other = rng.random(len(labels)) < 0.1
        labels[other] = rng.integers(0, len(dataset.metainfo['classes']), other.sum())
        samples.append(sample(entry['img_id'], boxes, labels, rng.random(len(labels))))
    return samples


def expected(path: str, classes: tuple[str, ...], samples: list[dict[str, Any]]) -> np.ndarray:
    """pycocotools' 12 figures of the same detections."""
    gt = json.loads(Path(path).read_text())
    number = {category['name']: category['id'] for category in gt['categories']}
    dt = [
        {
            'image_id': one['img_id'],
            'category_id': number[classes[label]],
            'bbox': [x1, y1, x2 - x1, y2 - y1],
            'score': score,
        }
        for one in samples
        for (x1, y1, x2, y2), label, score in zip(
            *(one['pred_instances'][key].tolist() for key in ('bboxes', 'labels', 'scores')), strict=True
        )
    ]
    return judge(gt, dt)[0]


def figures(dataset: COCOFormatDataset, samples: list[dict[str, Any]]) -> np.ndarray:
    metric = DetectionMetric()
    metric.dataset_meta = dataset.metainfo  # as MMEngine's loops do
    metric.process(None, samples)
    flat = metric.evaluate(size=len(samples))
    return np.array([flat.get(f'coco/{name}', -1) for name in NAMES])


def test_metric_takes_areas_and_crowds_from_the_data_sets_file(coco: Path) -> None:
    dataset = load(coco)
    samples = near(dataset, 0)
    wanted = expected(dataset.metainfo['ann_file'], ('dog', 'cat'), samples)
    np.testing.assert_allclose(figures(dataset, samples), wanted, atol=1e-10)


def test_metric_refuses_other_classes(coco: Path) -> None:
    dataset = load(coco)
    for classes in (('dog', 'zebra'), ('dog',)):
        metric = DetectionMetric()
        metric.dataset_meta = dataset.metainfo | {'classes': classes}
        metric.process(None, near(dataset, 0))
        with pytest.raises(ValueError, match="its categories are not the data set's classes"):
            metric.evaluate(size=3)


@pytest.mark.shared
@pytest.mark.parametrize(('loader', 'file', 'boxes', 'crowds'), [
    ('train', 'instances_train2017_128.json', 939, 10),
    ('test', 'instances_minival2014_128.json', 906, 8),
])  # fmt: skip
def test_the_real_sample(shared: Path, loader: str, file: str, boxes: int, crowds: int) -> None:
    settings = Config.fromfile(CONFIG)[f'{loader}_dataloader'].dataset.to_dict()
    settings.pop('type')
    settings.update(data_root=str(shared / 'data/coco'), ann_file=f'annotations/{file}', filter_cfg=None)
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = COCOFormatDataset(**settings)
        first = dataset[0]['data_samples']
    facts = dataset_facts(dataset)
    assert (facts['images'], facts['boxes'], facts['difficult']) == (128, boxes, crowds)
    assert len(facts['classes']) == 80
    assert max(first.img_shape) <= 1333
    assert min(first.img_shape) <= 800
    samples = near(dataset, 1)
    wanted = expected(dataset.metainfo['ann_file'], tuple(facts['classes']), samples)
    assert wanted.min() > 0.2
    np.testing.assert_allclose(figures(dataset, samples), wanted, atol=1e-10)


@pytest.mark.shared
def test_config_has_cocos_classes(shared: Path) -> None:
    path = shared / 'data/coco/annotations/instances_minival2014_128.json'
    names = [category['name'] for category in json.loads(path.read_text())['categories']]
    assert list(Config.fromfile(CONFIG).metainfo.classes) == names
