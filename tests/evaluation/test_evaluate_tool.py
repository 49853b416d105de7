"""Annotations and predictions from files, and tools/evaluate.py."""

import json

import pytest

from compactdet.data.readers import note_on_predictions, read_coco, read_predictions, read_voc
from compactdet.errors import UserError

from evaluation_sets import DOGS, OBJECT, XML, random_set, write_annotation, write_voc

GOOD = {'image_id': 0, 'category_id': 1, 'bbox': [0, 0, 10, 10], 'score': 0.5}


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{', 'not valid JSON'),
        ('{"a": 1}', 'is a dict, must be a list'),
        (json.dumps([GOOD, 3]), 'entry 1: is a int, must be an object'),
        (json.dumps([GOOD, GOOD | {'image_id': 77}]), r'entry 1: image_id 77 is not in .* 0, 1, 2'),
        (json.dumps([GOOD | {'image_id': [0]}]), r'entry 0: image_id \[0\] is not in'),
        (json.dumps([GOOD | {'category_id': 2}]), 'entry 0: category_id 2 is not in .* 1, 4'),
        (
            json.dumps([GOOD | {'category': 'dog'}]),
            "entry 0: category 'dog' is not in .* 'class0', .*--classes",
        ),
        (json.dumps([GOOD | {'category': ['dog']}]), r"category \['dog'\] is not in"),
        (json.dumps([GOOD, GOOD | {'category': None}]), 'entry 1: category None is not in'),
        (json.dumps([{k: v for k, v in GOOD.items() if k != 'score'}]), 'entry 0: has no "score"'),
        (json.dumps([GOOD | {'score': float('nan')}]), 'entry 0: score is nan'),
        (json.dumps([GOOD | {'score': '0.5'}]), "entry 0: score is '0.5'"),
        (json.dumps([GOOD | {'score': True}, GOOD]), 'entry 0: score is True'),
        (json.dumps([GOOD | {'bbox': [0, 0, -1, 5]}]), 'entry 0: bbox .* negative width'),
        (json.dumps([GOOD | {'bbox': [0, 0, 5]}]), 'entry 0: bbox is .* must be 4 finite numbers'),
        (json.dumps([GOOD | {'bbox': [0, 0, 5, float('inf')]}]), 'must be 4 finite numbers'),
        (json.dumps([GOOD | {'bbox': [0, 0, 1e200, 1e200]}]), 'must be 4 finite numbers'),  # area: infinite
        (json.dumps([GOOD | {'bbox': [0, 0, 5, 10**400]}]), 'must be 4 finite numbers'),
    ],
)
def test_bad_predictions_are_named(content, message, tmp_path):
    gt, _ = random_set(0)
    (tmp_path / 'gt.json').write_text(json.dumps(gt))
    path = tmp_path / 'predictions.json'
    path.write_text(content)
    with pytest.raises(UserError, match=f'predictions.json.*{message}'):
        read_predictions(path, read_coco(tmp_path / 'gt.json'))


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r'nowhere.json: cannot read the file \(No such file'):
        read_coco(tmp_path / 'nowhere.json')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda gt: gt.pop('annotations'), 'has no "annotations"'),
        (lambda gt: gt['images'].append({'id': 0}), 'images: id 0 occurs twice'),
        (lambda gt: gt['images'].append({'name': 'x'}), 'entry 6: .* has no "id", a whole number or text'),
        (lambda gt: gt['images'].append({'id': 'x'}), 'ids mix numbers and text'),
        (lambda gt: gt['annotations'][2].update(image_id=99), 'annotations, entry 2: image_id 99'),
        (lambda gt: gt['annotations'][2].update(category_id=2), 'annotations, entry 2: category_id 2'),
        (lambda gt: gt['annotations'][2].pop('bbox'), 'annotations, entry 2: has no "bbox"'),
        (lambda gt: gt['annotations'][2].update(area='big'), "annotations, entry 2: area 'big'"),
        (lambda gt: gt['annotations'][2].update(iscrowd=2), 'annotations, entry 2: .*iscrowd 2'),
    ],
)
def test_bad_coco_files_are_named(change, message, tmp_path):
    gt, _ = random_set(0)
    change(gt)
    (tmp_path / 'gt.json').write_text(json.dumps(gt))
    with pytest.raises(UserError, match=f'gt.json.*{message}'):
        read_coco(tmp_path / 'gt.json')


@pytest.fixture
def voc(tmp_path):
    write_voc(tmp_path, DOGS)
    return tmp_path


def test_read_voc(voc):
    gt = read_voc(voc)
    assert gt.image_ids == ['000001', '000002']
    assert len(gt.classes) == 20  # all names are VOC's
    assert [gt.classes[label] for label in gt.labels] == ['dog', 'cat']
    assert gt.boxes.tolist() == [[0, 0, 10, 10], [20, 0, 30, 10]]
    assert gt.areas.tolist() == [100, 100]
    assert gt.difficult.tolist() == [False, True]
    assert gt.notes == ('left out 000001: object 3 has no area',)
    assert list(read_voc(voc, classes=['dog', 'cat']).labels) == [0, 1]


def test_classes_of_other_sets_are_the_sorted_names(voc):
    write_annotation(voc, '000002', OBJECT.format('RBC', 0, 1, 1, 9, 9))
    assert list(read_voc(voc).classes) == ['RBC', 'cat', 'dog']
    with pytest.raises(UserError, match="class 'RBC' is not one of dog, cat"):
        read_voc(voc, classes=['dog', 'cat'])


def test_the_kit_above_the_folder_and_what_is_no_set(voc, tmp_path):
    kit = tmp_path / 'kit'
    (kit / 'VOC2007').parent.mkdir()
    (kit / 'VOC2007').symlink_to(voc)
    assert list(read_voc(kit).image_ids) == ['000001', '000002']
    with pytest.raises(
        UserError, match=r"kit/none' is no data set in VOC format .* COCO's annotation file"
    ):
        read_voc(kit / 'none')
    with pytest.raises(UserError, match='classes dog, cat, dog: one occurs twice'):
        read_voc(voc, classes=['dog', 'cat', 'dog'])


BOMB = '<!DOCTYPE a [<!ENTITY b "x">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('<annotation>', 'malformed XML'),
        (BOMB, 'refused: it holds a DTD'),
        (XML.format(9, 9, OBJECT.format('dog', 0, 'x', 1, 9, 9)), "object 1: <bndbox/xmin> is 'x'"),
        (XML.format(9, 9, OBJECT.format('dog', 0, '', 1, 9, 9)), 'object 1: <bndbox/xmin> is missing'),
        (XML.format(9, 9, OBJECT.format('dog', 2, 1, 1, 9, 9)), "object 1: <difficult> is '2'"),
        (XML.format(9, 8, OBJECT.format('dog', 0, 1, 1, 9, 9)), 'object 1: .* outside the image of 9x8'),
    ],
)
def test_bad_voc_files_are_named(voc, content, message):
    (voc / 'Annotations' / '000002.xml').write_text(content)
    with pytest.raises(UserError, match=f'000002.xml: .*{message}'):
        read_voc(voc)


def test_absent_splits_and_annotations_are_named(voc):
    with pytest.raises(UserError, match=r'val\.txt: no such split file; splits there: test'):
        read_voc(voc, 'val')
    (voc / 'Annotations' / '000001.xml').unlink()
    with pytest.raises(UserError, match=r'000001\.xml: cannot read the annotation file'):
        read_voc(voc)


@pytest.mark.shared
def test_read_bccd(shared):
    gt = read_voc(shared / 'data' / 'bccd' / 'BCCD', 'val')
    assert (len(gt.image_ids), len(gt.boxes)) == (87, 1137)
    assert list(gt.classes) == ['Platelets', 'RBC', 'WBC']
    assert gt.notes[0] == 'left out BloodImage_00338: object 13 has no area'


# Plausibility of predictions


def corners_note(tmp_path, boxes, size=(100, 100)):
    """The note on predictions in one image; the ground truth has one box of 10x10."""
    image = {'id': 1} | ({} if size is None else {'width': size[0], 'height': size[1]})
    truth = {'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [0, 0, 10, 10]}
    gt = {'images': [image], 'annotations': [truth], 'categories': [{'id': 1, 'name': 'a'}]}
    (tmp_path / 'gt.json').write_text(json.dumps(gt))
    entries = [{'image_id': 1, 'category_id': 1, 'bbox': box, 'score': 0.5} for box in boxes]
    (tmp_path / 'dt.json').write_text(json.dumps(entries))
    read = read_coco(tmp_path / 'gt.json')
    return note_on_predictions('dt.json', read, read_predictions(tmp_path / 'dt.json', read))


def test_corners_in_place_of_sizes_are_noted(tmp_path):
    text = 'dt.json: {} boxes reach more than a pixel beyond their images; bbox must be x, y, width, height'
    assert corners_note(tmp_path, [[10, 10, 30, 30], [50, 50, 90, 90]]) == (
        text.format('1 of 2') + '; these look like x1, y1, x2, y2'
    )
    assert corners_note(tmp_path, [[50, 50, 90, 20]]) == text.format('1 of 1')  # not corners: 50 > 20
    assert corners_note(tmp_path, [[10, 10, 90, 91], [0, 0, 100.5, 100]]) is None
    assert corners_note(tmp_path, [[50, 50, 90, 90]] + [[0, 0, 9, 9]] * 19) is None  # 5 %
    assert corners_note(tmp_path, [[50, 50, 90, 90]], size=None) is None
    assert corners_note(tmp_path, []) is None


def test_tool_prints_the_note_on_predictions(voc, tmp_path, run_tool):
    (tmp_path / 'a.json').write_text(json.dumps([GOOD | {'image_id': '000001', 'bbox': [400, 9, 499, 99]}]))
    status, _, errors = run_tool('evaluate', '--gt', voc, '--dt', tmp_path / 'a.json')
    assert status == 0
    assert 'a.json: 1 of 1 boxes reach more than a pixel beyond their images; bbox must be' in errors


# The tool


def test_tool_prints_json_and_compares(voc, tmp_path, run_tool):
    dt = [
        {'image_id': '000001', 'category_id': 12, 'bbox': [0, 0, 10, 10], 'score': 0.3},
        {'image_id': '000002', 'category_id': 12, 'bbox': [0, 0, 10, 10], 'score': 0.4},
    ]
    for name, entries in (('a.json', dt), ('b.json', dt[:1])):
        (tmp_path / name).write_text(json.dumps(entries))
    both = ('--gt', voc, '--dt', tmp_path / 'a.json', '--compare', tmp_path / 'b.json', '--bootstrap', 50)
    status, printed, errors = run_tool('evaluate', *both, '--json')
    assert (status, errors) == (0, 'note: left out 000001: object 3 has no area\n')
    result = json.loads(printed)
    assert result['voc']['per_class']['dog']['ap50_area'] == result['voc']['ap50_area'] == 0.5
    assert result['comparisons']['voc/ap50_area']['difference']['estimate'] == 0.5
    status, printed, _ = run_tool('evaluate', *both)
    assert status == 0
    assert '50.00' in printed
    assert 'second won' in printed


def test_tool_takes_the_order_of_the_classes(voc, tmp_path, run_tool):
    (tmp_path / 'a.json').write_text(json.dumps([GOOD | {'image_id': '000001', 'category_id': 2}]))
    write_annotation(voc, '000002', OBJECT.format('RBC', 0, 1, 1, 9, 9))
    args = ('--gt', voc, '--dt', tmp_path / 'a.json', '--json')
    _, printed, errors = run_tool('evaluate', *args)
    assert 'note: category_id without a name: 1 to 3 are RBC, cat, dog; else use --classes\n' in errors
    assert json.loads(printed)['voc']['per_class']['dog']['ap50_area'] == 0
    _, printed, errors = run_tool('evaluate', *args, '--classes', 'cat', 'dog', 'RBC')
    assert json.loads(printed)['voc']['per_class']['dog']['ap50_area'] == 1
    assert 'category_id' not in errors


def test_tool_needs_no_order_where_predictions_name_their_classes(voc, tmp_path, run_tool):
    named = GOOD | {'image_id': '000001', 'category_id': 2, 'category': 'dog'}  # 2 is cat by name
    (tmp_path / 'a.json').write_text(json.dumps([named]))
    write_annotation(voc, '000002', OBJECT.format('RBC', 0, 1, 1, 9, 9))
    status, printed, _ = run_tool('evaluate', '--gt', voc, '--dt', tmp_path / 'a.json', '--json')
    assert status == 0
    assert json.loads(printed)['voc']['per_class']['dog']['ap50_area'] == 1


def test_tool_ends_with_one_line_on_a_users_error(voc, tmp_path, run_tool):
    status, printed, errors = run_tool('evaluate', '--gt', voc, '--dt', tmp_path / 'absent.json')
    assert (status, printed) == (1, '')
    assert errors.splitlines()[-1].startswith('error: ')
    assert 'Traceback' not in errors
    assert run_tool('evaluate', '--gt', voc)[0] == 2
    assert run_tool('evaluate', '--gt', voc, '--dt', 'x', '--bootstrap', '1')[0] == 2
