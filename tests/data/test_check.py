"""tools/data.py check and stats: a set is read to the last file, and described."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import pytest
from PIL import Image

import backbones  # noqa: F401  before mmdet
from compactdet.data import layout as datasets
from compactdet.data.check import check
from compactdet.data.layout import layout_of

from data_sets import GOOD, SIZE, XML, coco_data, found, make_coco, make_voc, picture


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    return make_voc(tmp_path / 'voc', GOOD)


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return make_coco(tmp_path / 'coco', {'train2017': [1, 2, 3], 'val2017': [4, 5]})


# check


def test_good_sets_have_no_problems(voc: Path, coco: Path) -> None:
    assert found(voc) == {}
    assert found(coco) == {}


def damage_image(change: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda root: change(next(root.rglob('*b.jpg'), root / 'train2017/000000000002.jpg'))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def flip(path: Path) -> None:
    """Damages pixels, whose loss only decoding shows."""
    Image.new('RGB', (40, 30)).save(path, format='BMP')
    path.write_bytes(path.read_bytes()[:-30])


IMAGE_DAMAGE = {
    'absent': (Path.unlink, 'image-missing'),
    'empty': (lambda path: path.write_bytes(b''), 'image-unreadable'),
    'text': (lambda path: path.write_text('<html>'), 'image-unreadable'),
    'cut': (cut, 'image-truncated'),
    'pixels': (flip, 'image-truncated'),
    'size': (lambda path: picture(path, 0, (30, 40)), 'image-size'),
    'folder': (lambda path: (path.unlink(), path.mkdir()), ('image-unreadable', 'image-missing')),
    'pipe': (lambda path: (path.unlink(), os.mkfifo(path)), 'image-unreadable'),
}


@pytest.mark.parametrize('kind', ['voc', 'coco'])
@pytest.mark.parametrize(('damage', 'expected'), IMAGE_DAMAGE.values(), ids=IMAGE_DAMAGE)
def test_damaged_images(request: Any, kind: str, damage: Callable, expected: Any) -> None:
    root = request.getfixturevalue(kind)
    damage_image(damage)(root)
    (only,) = found(root).items()
    assert only[0] in (expected if isinstance(expected, tuple) else (expected,))
    assert only[1] == [('train', 'b') if kind == 'voc' else ('train2017', '2')]


def test_without_decoding_damaged_pixels_pass(voc: Path) -> None:
    flip(voc / 'JPEGImages/b.jpg')
    assert found(voc, decode=False) == {}


VOC_DAMAGE = {
    'outside': (XML.format('dog', 1, 1, 41, 9), ['box-outside']),
    'from 0': (XML.format('dog', 0, 1, 40, 9), ['box-outside']),
    'inverted': (XML.format('dog', 9, 1, 8, 9), ['box-inverted', 'no-boxes']),
    'no area': (XML.format('dog', 9, 1, 9, 9), ['box-no-area', 'no-boxes']),
    'two at once': (XML.format('dog', 9, 9, 8, 99), ['box-inverted', 'box-outside', 'no-boxes']),
    'nan': (XML.format('dog', 'nan', 1, 9, 9), ['field', 'no-boxes']),
    'cut': (XML[:60], ['annotation-unreadable']),
    'empty': ('', ['annotation-unreadable']),
    'no objects': (f'{SIZE}</annotation>', ['no-boxes']),
    'no size': ('<annotation/>', ['field']),
    'other size': (XML.format('dog', 1, 1, 9, 9).replace('>40<', '>50<'), ['image-size']),
    'name twice': (XML.format('dog</name><name>cat', 1, 2, 20, 30), ['field', 'no-boxes']),
    'side twice': (XML.format('dog', '1</xmin><xmin>7', 2, 20, 30), ['field', 'no-boxes']),
    'box twice': (
        XML.format('dog', 1, 2, 20, '30</ymax></bndbox><bndbox><xmin>3</xmin><ymax>9'),
        ['field', 'no-boxes'],
    ),
    'width twice': (
        XML.format('dog', 1, 2, 20, 30).replace('<width>', '<width>9</width><width>'), ['field'],
    ),
    'object in object': (
        XML.format('dog', 1, 2, 20, 30).replace('</object>', '<object/></object>'), ['field', 'no-boxes'],
    ),
    'underscore': (XML.format('dog', '1_0', 2, 20, 30), ['field', 'no-boxes']),
    'capitals': (XML.format('Dog', 1, 2, 20, 30), ['class-alike']),
}  # fmt: skip


@pytest.mark.parametrize(('text', 'kinds'), VOC_DAMAGE.values(), ids=VOC_DAMAGE)
def test_damaged_voc_annotations(voc: Path, text: str, kinds: list[str]) -> None:
    (voc / 'Annotations/b.xml').write_text(text)
    problems = found(voc)
    kinds = kinds if kinds != ['box-outside'] else [*kinds, 'no-boxes']
    assert problems == {kind: [('train', 'b')] for kind in kinds}


def test_voc_classes_and_splits(voc: Path) -> None:
    assert [p.kind for p in check(layout_of(voc, ['dog']))].count('class-unknown') == 3
    (voc / 'Annotations/d.xml').unlink()
    (voc / 'ImageSets/Main/test.txt').write_text('e\nf\na\ne\n')
    assert found(voc) == {
        'annotation-unreadable': [('val', 'd')],
        'duplicate-id': [('test', '-')],
        'two-splits': [('train', 'a')],
    }


def test_trainval_holds_train_and_val_by_design_and_damage_is_told_once(voc: Path) -> None:
    (voc / 'ImageSets/Main/trainval.txt').write_text('a\nb\nc\nd\n')
    (voc / 'ImageSets/Main/dog_train.txt').write_text('a  1\nb -1\nc  0\n')  # VOC's own, by class
    assert found(voc) == {}
    (voc / 'Annotations/b.xml').write_text('')
    assert found(voc) == {'annotation-unreadable': [('train', 'b')]}
    (voc / 'ImageSets/Main/trainval.txt').write_text('a\nf\n')
    assert found(voc)['two-splits'] == [('trainval', 'f')]


def test_a_box_twice(voc: Path, coco: Path) -> None:
    path = voc / 'Annotations/b.xml'
    thing = path.read_text().partition('<object>')[2].partition('</object>')[0]
    path.write_text(f'{SIZE}<object>{thing}</object><object>{thing}</object></annotation>')
    assert found(voc) == {'duplicate-box': [('train', 'b')]}
    path = coco / 'annotations/instances_train2017.json'
    data = json.loads(path.read_text())
    data['annotations'].append(data['annotations'][1] | {'id': 99})
    path.write_text(json.dumps(data))
    assert found(coco) == {'duplicate-box': [('train2017', '2')]}


@pytest.mark.parametrize(
    ('orientation', 'words'), [(3, 'turned by 180 degrees'), (6, 'turned by 90 degrees'), (1, None)]
)
def test_an_exif_orientation_is_a_warning(voc: Path, orientation: int, words: str | None) -> None:
    """180 degrees, and 90 degrees of a square image, do not change the size."""
    path = voc / 'JPEGImages/b.jpg'
    picture(path, 7, (30, 30))
    (voc / 'Annotations/b.xml').write_text(XML.format('dog', 1, 2, 20, 30).replace('>40<', '>30<'))
    with Image.open(path) as image:
        exif = image.getexif()
        exif[274] = orientation
        image.save(path, exif=exif)
    problems = check(layout_of(voc))
    assert [(p.kind, p.severity, p.image) for p in problems] == (
        [('exif-orientation', 'warning', 'b')] if words else []
    )
    assert all(f'show it {words};' in problem.problem for problem in problems)


@pytest.mark.parametrize(
    ('filename', 'kinds'),
    [
        ('a.jpg', ['filename-of-another']),
        ('C:\\images\\a.jpg', ['filename-of-another']),
        ('a', ['filename-of-another']),
        ('b.png', []),
        ('old_name.jpg', []),  # renamed sets are common
        ('', []),
    ],
)
def test_the_filename_of_another_image_is_a_warning(voc: Path, filename: str, kinds: list[str]) -> None:
    path = voc / 'Annotations/b.xml'
    path.write_text(path.read_text().replace('<size>', f'<filename>{filename}</filename><size>', 1))
    assert found(voc) == {kind: [('train', 'b')] for kind in kinds}


def test_coco_boxes_in_fractions_are_an_error(coco: Path) -> None:
    path = coco / 'annotations/instances_train2017.json'
    data = json.loads(path.read_text())
    for entry in data['annotations']:
        entry['bbox'] = [0.1, 0.2, 0.5, 0.8]
    path.write_text(json.dumps(data))
    assert found(coco)['boxes-in-fractions'] == [('train2017', '-')]
    data['annotations'][0]['bbox'] = [0.5, 0.5, 0.6, 0.2]  # one box of the set is larger
    path.write_text(json.dumps(data))
    assert 'boxes-in-fractions' not in found(coco)


def test_the_same_pixels_under_another_name(voc: Path) -> None:
    shutil.copy(voc / 'JPEGImages/a.jpg', voc / 'JPEGImages/b.jpg')
    assert list(found(voc)) == ['same-pixels']


def test_the_same_pixels_in_another_split_are_an_error(voc: Path) -> None:
    shutil.copy(voc / 'JPEGImages/a.jpg', voc / 'JPEGImages/e.jpg')
    (voc / 'ImageSets/Main/trainval.txt').write_text('a\nb\nc\nd\n')
    ((split, _),) = found(voc)['two-splits']
    assert split in ('train', 'trainval')


def set_entry(key: str, i: int, **values: Any) -> Callable[[dict], None]:
    return lambda data: data[key][i].update(values)


COCO_DAMAGE = {
    'outside': (set_entry('annotations', 1, bbox=[30, 0, 20, 5]), 'box-outside'),
    'inverted': (set_entry('annotations', 1, bbox=[9, 9, -5, 5]), 'box-inverted'),
    'no area': (set_entry('annotations', 1, bbox=[9, 9, 0, 5]), 'box-no-area'),
    'class': (set_entry('annotations', 1, category_id=9), 'class-unknown'),
    'annotation id twice': (set_entry('annotations', 1, id=1), 'duplicate-id'),
    'box': (set_entry('annotations', 1, bbox=[1, 2, 3]), 'field'),
    'image of another file': (set_entry('annotations', 1, image_id=77), 'image-unknown'),
}


@pytest.mark.parametrize(('change', 'kind'), COCO_DAMAGE.values(), ids=COCO_DAMAGE)
def test_damaged_coco_annotations(coco: Path, change: Callable, kind: str) -> None:
    path = coco / 'annotations/instances_train2017.json'
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    assert found(coco) == {kind: [('train2017', '-')], 'no-boxes': [('train2017', '2')]}


def add(key: str, **values: Any) -> Callable[[dict], None]:
    return lambda data: data[key].append(values)


def mix_ids(data: dict) -> None:
    data['images'][1]['id'] = data['annotations'][1]['image_id'] = 'two'


OTHER_COCO_DAMAGE = {
    'a width of an image': (set_entry('images', 1, width=None), {'field': '-'}),
    'a name that no disk holds': (set_entry('images', 1, file_name='a' * 5000), {'field': '-'}),
    'no name': (set_entry('images', 1, file_name='.'), {'field': '-'}),
    'a number of 400 digits': (
        set_entry('annotations', 1, bbox=[10**400, 1, 2, 3]), {'field': '-', 'no-boxes': '2'},
    ),
    'numbers and text': (mix_ids, {'field': '-'}),
    'no images': (lambda data: data.update(images=[], annotations=[]), {'annotation-unreadable': '-'}),
    'a file under two names': (
        add('images', id=9, file_name='./000000000001.jpg', width=40, height=30), {'duplicate-id': '-'},
    ),
}  # fmt: skip


@pytest.mark.parametrize(('change', 'kinds'), OTHER_COCO_DAMAGE.values(), ids=OTHER_COCO_DAMAGE)
def test_one_damage_is_one_problem(coco: Path, change: Callable, kinds: dict[str, str]) -> None:
    path = coco / 'annotations/instances_train2017.json'
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    problems = found(coco)
    assert problems == {kind: [('train2017', image)] for kind, image in kinds.items()}
    assert all(len(problem.problem) < 500 and problem.file for problem in check(layout_of(coco)))


def test_a_file_that_is_cut_is_named_with_its_cure(coco: Path) -> None:
    path = coco / 'annotations/instances_train2017.json'
    path.write_text(path.read_text()[:99])
    (only,) = check(layout_of(coco))
    assert (only.file, only.cure) == (str(path), 'create the file again')
    assert only.problem.startswith('not valid JSON (')


def test_lists_of_ids_stay_in_the_set(voc: Path) -> None:
    main = voc / 'ImageSets/Main'
    (main / 'train.txt').write_text('a\nb\nc\n../../a\n/etc/a\nb c\n')
    (main / '._train.txt').write_bytes(b'\0\5\26\7')  # what macOS leaves
    assert found(voc) == {'split-unreadable': [('train', '-')] * 3}
    (main / 'a_b.txt').mkdir()
    assert found(voc)['split-unreadable'][0] == ('a_b', '-')


@pytest.mark.parametrize('ending', ['Jpg', 'webp', 'tif'])
def test_images_of_other_endings(voc: Path, ending: str) -> None:
    Image.open(voc / 'JPEGImages/b.jpg').save(voc / f'JPEGImages/b.{ending}')
    (voc / 'JPEGImages/b.jpg').unlink()
    picture(voc / 'JPEGImages/b.c.jpg', 8)  # of another id
    assert found(voc) == {}


def test_coco_ids(coco: Path) -> None:
    path = coco / 'annotations/instances_train2017.json'
    good = json.loads(path.read_text())
    path.write_text(json.dumps(good | {'annotations': [good['annotations'][0] | {'id': 0}]}))
    problems = found(coco)
    assert problems['id-zero'] == [('train2017', '-')]
    assert problems['no-boxes'] == [('train2017', '2'), ('train2017', '3')]
    path.write_text(json.dumps(good | {'images': [*good['images'], good['images'][0]]}))
    assert found(coco) == {'duplicate-id': [('train2017', '-')]}
    other = coco_data([4, 5, 1])
    path.write_text(json.dumps(other))
    assert found(coco)['two-splits'] == [('val2017', '4'), ('val2017', '5')]
    path.write_text('{}')
    assert found(coco) == {'annotation-unreadable': [('train2017', '-')]}


def test_tool_reports_and_fails(voc: Path, run_tool: Callable) -> None:
    cut(voc / 'JPEGImages/b.jpg')
    (voc / 'Annotations/c.xml').write_text(f'{SIZE}</annotation>')
    status, out, _ = run_tool('data', 'check', voc, '--json')
    result = json.loads(out)
    assert (status, result['errors']) == (1, 1)
    error = next(row for row in result['problems'] if row['severity'] == 'error')
    assert error == {
        'severity': 'error', 'kind': 'image-truncated', 'split': 'train', 'image': 'b',
        'file': str(voc / 'JPEGImages/b.jpg'), 'problem': error['problem'], 'cure': 'get the file again',
    }  # fmt: skip
    status, out, _ = run_tool('data', 'check', voc)
    assert (status, '1 image-truncated (error), 1 no-boxes (warning)' in ' '.join(out.split())) == (1, True)
    assert run_tool('data', 'check', voc, '--split', 'test')[0] == 0
    status, _, err = run_tool('data', 'check', voc, '--split', 'none')
    assert (status, "has no split 'none'; splits there: test, train, val" in err) == (1, True)
    picture(voc / 'JPEGImages/b.jpg', 7)
    assert run_tool('data', 'check', voc)[0] == 0  # an image without boxes is a warning


def test_no_data_set(tmp_path: Path, run_tool: Callable) -> None:
    for path, match in ((tmp_path, 'is no data set in VOC or COCO format'), (tmp_path / 'no', 'is absent')):
        status, _, err = run_tool('data', 'check', path)
        assert (status, match in err) == (1, True)
    status, _, err = run_tool('data', 'stats', 'voc07', '--root', tmp_path)
    assert (status, 'python tools/data.py get voc07' in err) == (1, True)


# stats


def test_stats(coco: Path, voc: Path, tmp_path: Path, run_tool: Callable) -> None:
    picture_path = tmp_path / 'stats.png'
    status, out, _ = run_tool('data', 'stats', coco, '--json', '--out', picture_path)
    train = json.loads(out)['train2017']
    assert status == 0
    assert {key: train[key] for key in ('images', 'boxes', 'small', 'medium', 'large', 'ignored')} == {
        'images': 3, 'boxes': 3, 'small': 3, 'medium': 0, 'large': 0, 'ignored': 0,
    }  # fmt: skip
    assert train['classes'] == {'dog': {'boxes': 1, 'images': 1}, 'cat': {'boxes': 2, 'images': 2}}
    assert train['side_px'] == [20] * 5
    assert train['aspect_ratio'] == [1] * 5
    assert cv2.imread(str(picture_path)).shape[1] == 1760
    status, out, _ = run_tool('data', 'stats', voc)
    assert (status, 'dog' in out, '0.69 to 0.69' in out) == (0, True, True)  # 20 x 29 pixels


def test_stats_of_nothing(coco: Path, tmp_path: Path, run_tool: Callable) -> None:
    empty = coco_data([1]) | {'annotations': []}
    for split in ('train2017', 'val2017'):
        (coco / f'annotations/instances_{split}.json').write_text(json.dumps(empty))
    assert run_tool('data', 'stats', coco, '--out', tmp_path / 'empty.png')[0] == 0
    assert (tmp_path / 'empty.png').is_file()


@pytest.mark.shared
@pytest.mark.parametrize(
    ('name', 'counts'),
    [('data/coco', {'no-boxes': 2}), ('data/VOCdevkit_sample', {}), ('data/bccd', {'known-defect': 2})],
)
def test_real_sets(shared: Path, name: str, counts: dict[str, int]) -> None:
    layout = datasets.find_layout('bccd', shared / name) if 'bccd' in name else layout_of(shared / name)
    kinds = [problem.kind for problem in check(layout)]
    assert {kind: kinds.count(kind) for kind in kinds} == counts
