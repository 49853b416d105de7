"""VOC-format data: every bad input gives one clear line; good input arrives unchanged."""

import re
from collections.abc import Callable
from contextlib import nullcontext as nothing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image
from torch.utils.data import DataLoader

import backbones  # noqa: F401  before mmdet
from compactdet.data.base_dataset import annotations_sha256, dataset_facts
from compactdet.data.images import check_image
from compactdet.data.voc import VOCFormatDataset
from compactdet.data.voc_files import find_set, parse_annotation
from compactdet.errors import UserError

CONFIGS = Path(__file__).parents[2] / 'det_configs/_base_/datasets'
CLASSES = ('cat', 'dog', 'TVmonitor')
PIPELINE = [
    {'type': 'LoadImageFromFile', 'color_type': 'color_ignore_orientation'},
    {'type': 'LoadAnnotations', 'with_bbox': True},
    {'type': 'Resize', 'scale': (80, 60), 'keep_ratio': True},
    {'type': 'RandomFlip', 'prob': 1.0},
    {'type': 'PackDetInputs'},
]


def box_xml(*sides: Any) -> str:
    tags = ('xmin', 'ymin', 'xmax', 'ymax')
    return f'<bndbox>{"".join(f"<{t}>{v}</{t}>" for t, v in zip(tags, sides, strict=True))}</bndbox>'


def object_xml(name: str = 'dog', box: tuple = (1, 1, 10, 10), difficult: str = '0') -> str:
    flag = f'<difficult>{difficult}</difficult>'
    return f'<object><name>{name}</name>{flag}{box_xml(*box)}</object>'


def annotation_xml(*objects: str, width: Any = 40, height: Any = 30) -> str:
    size = f'<size><width>{width}</width><height>{height}</height></size>'
    return f'<annotation>{size}{"".join(objects)}</annotation>'


def one_box(*sides: Any) -> str:
    return annotation_xml(object_xml(box=sides))


@pytest.fixture
def xml(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / 'one.xml'
        path.write_text(text)
        return path

    return write


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A good set of three images; 'b' has no object."""
    root = tmp_path / 'voc'
    for part in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (root / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, objects in {
        'a': (object_xml('cat', (1, 1, 40, 30)), object_xml('dog', (5, 6, 7, 8), '1')),
        'b': (),
        'c': (object_xml('dog', (2, 3, 20, 20)),),
    }.items():
        (root / f'Annotations/{name}.xml').write_text(annotation_xml(*objects))
        image = rng.integers(0, 255, (30, 40, 3), np.uint8)
        cv2.imwrite(str(root / f'JPEGImages/{name}.jpg'), image)
    (root / 'ImageSets/Main/train.txt').write_text('a\nb\nc\n')
    return root


def load(root: Path, **kwargs: Any) -> VOCFormatDataset:
    kwargs = {'metainfo': {'classes': CLASSES}, 'serialize_data': False} | kwargs
    return VOCFormatDataset(data_root=str(root), **kwargs)


# Annotations


def test_boxes_become_continuous(xml: Callable) -> None:
    path = xml(annotation_xml(object_xml('dog', (3, 5, 10, 30), '1'), object_xml('cat')))
    annotation = parse_annotation(path, CLASSES)
    assert (annotation.width, annotation.height) == (40, 30)
    assert annotation.boxes.dtype == np.float32
    assert annotation.boxes.tolist() == [[2, 4, 10, 30], [0, 0, 10, 10]]
    assert annotation.labels.tolist() == [1, 0]
    assert annotation.difficult.tolist() == [True, False]


def test_difficult_may_be_absent_and_parts_are_not_objects(xml: Callable) -> None:
    part = f'<part><name>head</name>{box_xml(1, 1, 5, 5)}</part>'
    path = xml(annotation_xml(f'<object><name>dog</name>{box_xml(1.5, 1, 9, 9)}{part}</object>'))
    annotation = parse_annotation(path, CLASSES)
    assert annotation.difficult.tolist() == [False]
    assert annotation.boxes.tolist() == [[0.5, 0, 9, 9]]


def test_any_class_will_do_where_none_are_given_but_no_absent_file(xml: Callable) -> None:
    annotation = parse_annotation(xml(annotation_xml(object_xml('zebra'))))
    assert annotation.names == ('zebra',)
    assert annotation.labels.tolist() == [-1]
    with pytest.raises(UserError, match=r'no\.xml: cannot read the annotation file'):
        parse_annotation(Path('no.xml'))


BOMB = '<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;">]><annotation>&y;</annotation>'
EXTERNAL = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><annotation>&x;</annotation>'
BAD_XML = {
    'malformed': ('<annotation><size>', 'one.xml: malformed XML .*; fix'),
    'empty file': ('', 'one.xml: malformed XML'),
    'bad encoding': ('<?xml version="1.0" encoding="nope"?><annotation/>', 'malformed XML'),
    'entity bomb': (BOMB, 'one.xml: refused: it holds a DTD or entities'),
    'external entity': (EXTERNAL, 'one.xml: refused: it holds a DTD or entities'),
    'dtd': ('<!DOCTYPE a SYSTEM "http://x/y.dtd"><annotation/>', 'refused: it holds a DTD'),
    'not voc': ('<html/>', 'root is <html>, not <annotation>'),
    'no size': ('<annotation/>', '<size/width> is missing or empty'),
    'size 0': (annotation_xml(width=0), '<size/width> is 0, not a positive whole number'),
    'size 1.5': (annotation_xml(height=1.5), '<size/height> is 1.5, not a positive whole'),
    'size inf': (annotation_xml(height='1e999'), "<size/height> is '1e999', not a finite number"),
    'no name': (annotation_xml('<object/>'), 'object 1: <name> is missing'),
    'no box': (annotation_xml('<object><name>dog</name></object>'), '1: <bndbox/xmin> is missing'),
    'nan': (one_box('nan', 1, 2, 2), "object 1: <bndbox/xmin> is 'nan', not a finite"),
    'text': (one_box(1, 1, 'ten', 2), "object 1: <bndbox/xmax> is 'ten', not a finite"),
    'difficult': (annotation_xml(object_xml(difficult='maybe')), "<difficult> is 'maybe', must be 0"),
    'case': (annotation_xml(object_xml('tvMonitor')), "unknown class 'tvMonitor' .did you mean TVm"),
    'near': (annotation_xml(object_xml('dogs')), "unknown class 'dogs' .did you mean dog"),
    'far': (annotation_xml(object_xml('zebra')), 'known: cat, dog, TVmonitor'),
    'no width': (one_box(5, 1, 5, 9), 'object 1: box xmin=5 .* has no area'),
    'negative': (one_box(5, 9, 6, 2), 'ymax=2 has no area: its sides are swapped; fix'),
    'left': (one_box(0, 1, 5, 9), 'xmin=0 .* outside the image of 40x30'),
    'top': (one_box(1, -2, 5, 9), 'ymin=-2 .* outside the image'),
    'right': (one_box(1, 1, 41, 9), 'xmax=41 .* outside the image'),
    'bottom': (one_box(1, 1, 5, 31), 'ymax=31 lies outside the image'),
}


@pytest.mark.parametrize(('text', 'match'), BAD_XML.values(), ids=BAD_XML)
def test_bad_annotation(xml: Callable, text: str, match: str) -> None:
    path = xml(text)
    with pytest.raises(UserError, match=match) as caught:
        parse_annotation(path, CLASSES)
    assert str(path) in str(caught.value)
    assert '\n' not in str(caught.value)


def test_known_defects_are_dropped_and_listed(xml: Callable) -> None:
    path = xml(annotation_xml(object_xml(), object_xml(box=(4, 4, 4, 4)), object_xml('cat')))
    annotation = parse_annotation(path, CLASSES, drop_empty=True)
    assert annotation.dropped == (2,)
    assert annotation.names == ('dog', 'cat')
    outside = xml(annotation_xml(object_xml(box=(4, 4, 99, 9))))
    with pytest.raises(UserError, match='outside the image'):
        parse_annotation(outside, CLASSES, drop_empty=True)


@st.composite
def objects(draw: st.DrawFn) -> tuple[str, tuple[int, int, int, int], bool]:
    x1, y1 = draw(st.integers(1, 39)), draw(st.integers(1, 29))
    x2, y2 = draw(st.integers(x1 + 1, 40)), draw(st.integers(y1 + 1, 30))
    return draw(st.sampled_from(CLASSES)), (x1, y1, x2, y2), draw(st.booleans())


@given(st.lists(objects(), max_size=6))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, items: list) -> None:
    path = tmp_path_factory.mktemp('xml') / 'one.xml'
    path.write_text(annotation_xml(*(object_xml(n, box, str(int(d))) for n, box, d in items)))
    annotation = parse_annotation(path, CLASSES)
    assert annotation.names == tuple(name for name, _, _ in items)
    assert annotation.difficult.tolist() == [d for _, _, d in items]
    back = annotation.boxes + np.array([1, 1, 0, 0])
    assert back.tolist() == [list(map(float, box)) for _, box, _ in items]


BAD_IMAGES = {
    'truncated': (lambda data: data[: len(data) // 2], 'truncated: its data never ends'),
    'truncated and padded': (lambda data: data[: len(data) // 2] + bytes(500), 'truncated: its data'),
    'empty': (lambda data: b'', 'not a readable image'),
    'text': (lambda data: b'not an image', 'not a readable image'),
    'ends at once': (lambda data: b'\xff\xd8\xff\xd9', 'not a readable image'),
}


@pytest.mark.parametrize(('damage', 'match'), BAD_IMAGES.values(), ids=BAD_IMAGES)
def test_bad_image(voc: Path, damage: Callable[[bytes], bytes], match: str) -> None:
    path = voc / 'JPEGImages/a.jpg'
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=rf'a\.jpg: {match}'):
        load(voc)


def test_an_end_marker_in_a_thumbnail_does_not_count(voc: Path) -> None:
    path = voc / 'JPEGImages/a.jpg'
    data = path.read_bytes()
    thumbnail = b'\xff\xe1' + (2 + len(data)).to_bytes(2, 'big') + data  # a segment of its own
    path.write_bytes(data[:2] + thumbnail + data[2:])
    check_image(path, 40, 30)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(UserError, match=r'a\.jpg: truncated'):
        check_image(path, 40, 30)


def test_decoding_finds_damage_within(voc: Path) -> None:
    path = voc / 'JPEGImages/a.jpg'
    Image.new('RGB', (40, 30)).save(path, format='BMP')
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match=r'truncated or corrupt .*; get it again'):
        check_image(path, 40, 30, decode=True)


def test_bytes_behind_the_end_are_allowed(voc: Path) -> None:
    path = voc / 'JPEGImages/a.jpg'
    path.write_bytes(path.read_bytes() + b'camera maker was here')
    assert len(load(voc)) == 3


def test_image_of_another_size(voc: Path) -> None:
    path, match = voc / 'JPEGImages/a.jpg', r'a\.jpg: the image is 30x40 but its annotation says 40x30'
    Image.new('RGB', (30, 40)).save(path)
    with pytest.raises(UserError, match=match):
        load(voc)
    exif = Image.Exif()
    exif[274] = 6
    Image.new('RGB', (30, 40)).save(path, exif=exif)
    with pytest.raises(UserError, match=match + '.*EXIF orientation is set: save the image upright'):
        load(voc)


def test_image_damaged_after_loading(voc: Path) -> None:
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = load(voc, pipeline=PIPELINE)
        (voc / 'JPEGImages/a.jpg').write_bytes(b'gone')
        with pytest.raises(UserError, match=r'a\.jpg: not a readable image'):
            dataset[0]


def test_a_worker_process_keeps_the_message(voc: Path) -> None:
    with DefaultScope.overwrite_default_scope('mmdet'):
        dataset = load(voc, pipeline=PIPELINE)
        (voc / 'JPEGImages/a.jpg').unlink()
        loader = DataLoader(dataset, num_workers=1, collate_fn=list)
        with pytest.raises(UserError, match=r'a\.jpg: no such image; get it'):
            next(iter(loader))


# Splits and folders

BAD_SPLITS = {
    'empty': ('\n \n', r'train\.txt: the split is empty'),
    'twice': ('a\nc\na\n', "image id 'a' occurs 2 times"),
    'two words': ('a 1\n', "line 'a 1' must be one image id"),
    'binary': ('\xff\xfe', 'cannot read the split file'),
}


@pytest.mark.parametrize(('text', 'match'), BAD_SPLITS.values(), ids=BAD_SPLITS)
def test_bad_split(voc: Path, text: str, match: str) -> None:
    (voc / 'ImageSets/Main/train.txt').write_text(text, encoding='latin-1')
    with pytest.raises(UserError, match=match):
        load(voc)


@pytest.mark.parametrize('part', ['Annotations/c.xml', 'JPEGImages/c.jpg'])
def test_split_that_names_a_missing_file(voc: Path, part: str) -> None:
    (voc / part).unlink()
    both = rf"train\.txt: names 'c', but there is no file .*{re.escape(part)}"
    with pytest.raises(UserError, match=both):
        load(voc)


def test_absent_split_names_the_others(voc: Path) -> None:
    with pytest.raises(UserError, match=r'test\.txt: no such split file; splits there: train'):
        load(voc, ann_file='ImageSets/Main/test.txt')


def test_absent_data_set_says_how_to_get_it(tmp_path: Path) -> None:
    config = Config.fromfile(CONFIGS / 'voc07.py')
    dataset = config.train_dataloader.dataset.to_dict()
    dataset.pop('type')
    dataset.update(data_root=str(tmp_path / 'no'), pipeline=[])
    with pytest.raises(UserError, match='is absent') as caught:
        VOCFormatDataset(**dataset)
    for needed in (
        'VOCtrainval_06-Nov-2007.tar',
        'VOCtest_06-Nov-2007.tar',
        '_shapes.py needs no download',
    ):
        assert needed in str(caught.value)
    with pytest.raises(UserError, match=r'is not complete: no folder .*VOC2007'):
        VOCFormatDataset(**dataset | {'data_root': str(tmp_path)})


def test_devkit_or_the_folder_in_it(voc: Path) -> None:
    voc.rename(voc.with_name('VOC2007'))
    ann_file = 'VOC2007/ImageSets/Main/train.txt'
    inner = voc.with_name('VOC2007')
    assert find_set(inner, ann_file) == find_set(inner.parent, ann_file)
    assert len(load(inner.parent, ann_file=ann_file)) == 3
    with pytest.raises(UserError, match=r'must be .FOLDER/.ImageSets/Main/SPLIT'):
        find_set(inner, 'train.txt')


@pytest.mark.parametrize('classes', [None, (), ('cat', 'cat')])
def test_classes_must_be_named_once(voc: Path, classes: tuple | None) -> None:
    metainfo = {} if classes is None else {'classes': classes}
    with pytest.raises(UserError, match=r'metainfo\.classes is .*; must name every class once'):
        VOCFormatDataset(data_root=str(voc), metainfo=metainfo)


# The data set in MMDetection


def test_pipeline(voc: Path) -> None:
    with DefaultScope.overwrite_default_scope('mmdet'):
        sample = load(voc, pipeline=PIPELINE)[0]
    assert sample['inputs'].shape == (3, 60, 80)
    truth = sample['data_samples'].gt_instances
    assert truth.bboxes.tensor.tolist() == [[0, 0, 80, 60]]
    assert truth.labels.tolist() == [0]
    ignored = sample['data_samples'].ignored_instances.bboxes.tensor
    assert ignored.tolist() == [[66, 10, 72, 16]]  # x 4..7 of 40, flipped, twice as large


def test_filter_is_for_training_only(voc: Path) -> None:
    empty = {'filter_cfg': {'filter_empty_gt': True}}
    assert [load(voc, **empty).get_data_info(i)['img_id'] for i in range(2)] == ['a', 'c']
    assert len(load(voc, **empty)) == 2
    assert len(load(voc, **empty, test_mode=True)) == 3
    with pytest.raises(UserError, match='no image is left after filter_cfg'):
        load(voc, filter_cfg={'min_size': 31})
    with pytest.raises(UserError, match=r'filter_cfg has .*empty_gt.*; known: filter_empty_gt'):
        load(voc, filter_cfg={'empty_gt': True})


def test_facts_and_hash(voc: Path) -> None:
    facts = dataset_facts(load(voc))
    first = annotations_sha256(load(voc))
    counts = {'images': 3, 'boxes': 3, 'difficult': 1, 'dropped_boxes': {}}
    assert facts == counts | {'classes': list(CLASSES), 'annotations_sha256': first}
    (voc / 'ImageSets/Main/train.txt').write_text('c\na\nb\n')
    assert annotations_sha256(load(voc)) == first
    (voc / 'Annotations/c.xml').write_text(annotation_xml(object_xml(box=(2, 3, 20, 21))))
    assert annotations_sha256(load(voc)) != first


# Real files


@pytest.mark.shared
def test_bccd(shared: Path) -> None:
    config = Config.fromfile(CONFIGS / 'bccd.py')
    images, boxes, dropped = 0, 0, {}
    for name in ('train', 'val', 'test'):
        dataset = config[f'{name}_dataloader'].dataset.to_dict()
        dataset.pop('type')
        dataset.update(data_root=str(shared / 'data/bccd/BCCD'), pipeline=[])
        facts = dataset_facts(VOCFormatDataset(**dataset))
        images, boxes = images + facts['images'], boxes + facts['boxes']
        dropped |= facts['dropped_boxes']
        with pytest.raises(UserError, match='has no area') if facts['dropped_boxes'] else nothing():
            VOCFormatDataset(**dataset | {'known_defects': ()})
    assert (images, boxes) == (364, 4886)
    assert dropped == {'BloodImage_00338': [13], 'BloodImage_00343': [4]}


@pytest.mark.shared
@pytest.mark.parametrize(('loader', 'images'), [('train', 71), ('test', 46)])
@pytest.mark.parametrize('folder', ['VOCdevkit_sample', 'VOCdevkit_sample/VOC2007'])
def test_voc_sample(shared: Path, loader: str, images: int, folder: str) -> None:
    dataset = Config.fromfile(CONFIGS / 'voc07.py')[f'{loader}_dataloader'].dataset.to_dict()
    dataset.pop('type')
    dataset['data_root'] = str(shared / 'data' / folder)
    with DefaultScope.overwrite_default_scope('mmdet'):
        loaded = VOCFormatDataset(**dataset)
        sample = loaded[0]['data_samples']
    assert len(loaded) == images
    assert len(loaded.metainfo['classes']) == 20
    scale = min(600 / min(sample.ori_shape), 1000 / max(sample.ori_shape))
    assert sample.img_shape == tuple(int(side * scale + 0.5) for side in sample.ori_shape)
    if loader == 'test':  # 000001: boxes stay in the original image's coordinates
        boxes = sample.gt_instances.bboxes.tensor.tolist()
        assert boxes == [[47, 239, 195, 371], [7, 11, 352, 498]]
