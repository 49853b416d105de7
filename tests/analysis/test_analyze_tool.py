"""tools/analyze.py: its report, of files and of a run."""

import json
import re
import shutil

import cv2
import numpy as np
import pytest

from compactdet.analysis.charts import COLORS, draw_curves, draw_errors, shorten
from compactdet.analysis.error_types import ERRORS, analyze
from compactdet.analysis.inputs import from_files, from_run
from compactdet.chart_style import STYLE
from compactdet.data.annotations import make_annotations, make_detections
from compactdet.data.readers import read_predictions, read_voc

from evaluation_sets import write_voc
from tiny import REPO

PICTURES = ['errors.png', 'pr_curves.png', 'examples_errors.jpg', 'examples_images.jpg']
CELLS = {  # a difficult box, an empty image, an image without any error
    'x1': [('RBC', 0, 1, 1, 40, 40), ('WBC', 0, 51, 1, 90, 40), ('RBC', 1, 1, 51, 30, 78)],
    'x2': [],
    'x3': [('WBC', 0, 11, 11, 60, 60)],
    'x4': [('RBC', 0, 1, 1, 40, 40)],
}
FOUND = [  # image, class, x, y, width, height, score
    ('x1', 'RBC', 0, 0, 40, 40, 0.9),
    ('x1', 'RBC', 0, 0, 40, 38, 0.8),
    ('x1', 'RBC', 50, 0, 40, 40, 0.7),
    ('x1', 'WBC', 60, 20, 40, 40, 0.6),
    ('x2', 'WBC', 5, 5, 20, 20, 0.5),
    ('x4', 'RBC', 0, 0, 40, 40, 0.9),
]


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Few pixels are drawn quickly."""
    monkeypatch.setitem(STYLE, 'savefig.dpi', 60)


@pytest.fixture
def cells(tmp_path):
    """A set in VOC's format with images, under the name that the configs of BCCD give."""
    folder = tmp_path / 'data' / 'BCCD'
    folder.mkdir(parents=True)
    write_voc(folder, CELLS)
    (folder / 'JPEGImages').mkdir()
    for i, image_id in enumerate(CELLS):
        cv2.imwrite(str(folder / 'JPEGImages' / f'{image_id}.jpg'), np.full((80, 100, 3), 60 * i, np.uint8))
    return folder


@pytest.fixture
def found(tmp_path):
    return write_found(tmp_path / 'predictions.json')


def write_found(path):
    numbers = {'RBC': 1, 'WBC': 2}
    entries = [
        {'image_id': i, 'category_id': numbers[c], 'category': c, 'bbox': box, 'score': score}
        for i, c, *box, score in FOUND
    ]
    path.write_text(json.dumps(entries))
    return path


@pytest.fixture
def run_dir(tmp_path):
    """A real run's record, with predictions of our own."""
    folder = tmp_path / 'run'
    folder.mkdir()
    shutil.copy(REPO / 'work_dirs_template' / 'bccd_imagenet_seed0' / 'record.json', folder)
    write_found(folder / 'predictions.json')
    return folder


def assert_complete(out):
    text = (out / 'analysis.md').read_text()
    linked = re.findall(r'!\[[^]]*\]\(([^)]+)\)', text)
    assert linked == PICTURES
    for name in linked:
        image = cv2.imread(str(out / name))
        assert min(image.shape[:2]) > 80
        assert image.std() > 5
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ['analysis.json', 'analysis.md', *PICTURES]
    )
    return text, json.loads((out / 'analysis.json').read_text())


def test_report_of_files(cells, found, tmp_path, run_tool):
    status, printed, errors = run_tool('analyze', '--gt', cells, '--dt', found)
    assert status == 0
    assert printed.endswith(f'report: {tmp_path / "analysis" / "analysis.md"}\n')
    assert re.search(r'duplicate +│.*│ +1 │', printed)
    assert 'category_id without a name: 1 to 2 are RBC, WBC' in errors
    text, numbers = assert_complete(tmp_path / 'analysis')
    counts = {name: numbers['errors'][name]['count'] for name in numbers['errors']}
    # x2's is on an empty image; x1's last WBC has IoU 1/7 with its box; x3's box is found by nothing.
    assert counts == {'cls': 1, 'loc': 1, 'both': 0, 'dup': 1, 'bkg': 1, 'miss': 1, 'fp': 4, 'fn': 2}
    assert (numbers['boxes'], numbers['ignored_boxes'], numbers['right']) == (4, 1, 2)
    assert numbers['figures']['voc/ap50_11point']['per_class'] == {'RBC': 1, 'WBC': 0}
    assert numbers['errors']['miss']['ap50_gain'] == {'mean': 0, 'per_class': {'RBC': 0, 'WBC': 0}}
    assert numbers['curves']['voc']['iou 0.5']['RBC'] == [1] * 101
    assert numbers['confusions'] == [
        {'detected': 'RBC', 'is': 'WBC', 'count': 1, 'count_at_operating_point': 0}
    ]
    assert numbers['examples']['errors']['miss'] == [
        {'image_id': 'x3', 'category': 'WBC', 'box': [10, 10, 60, 60]}
    ]
    assert numbers['examples']['images'] == ['x1', 'x3']
    assert '4 images, 4 boxes and 1 that are ignored (difficult, crowd), 6 detections. VOC 11-point' in text
    assert '| duplicate | its box was taken by a higher-scored detection | 1 |' in text
    assert (
        'Of the detections scored 0.900 or more (highest F1) 2 are right and 0 wrong, and 2 boxes' in text
    )


def test_report_of_a_coco_file_without_images(cells, found, tmp_path, run_tool):
    (tmp_path / 'analysis').mkdir()
    (tmp_path / 'analysis' / PICTURES[-1]).write_text('of an earlier report')
    gt = read_voc(cells)
    content = {
        'images': [{'id': image_id} for image_id in gt.image_ids],
        'categories': [{'id': 1, 'name': 'RBC'}, {'id': 2, 'name': 'WBC'}],
        'annotations': [
            {
                'id': i,
                'image_id': gt.image_ids[image],
                'category_id': int(label) + 1,
                'bbox': [*box[:2].tolist(), *size.tolist()],
                'iscrowd': int(flag),
            }
            for i, (image, label, box, size, flag) in enumerate(
                zip(gt.image_index, gt.labels, gt.boxes, gt.sizes, gt.difficult, strict=True)
            )
        ],
    }
    (tmp_path / 'gt.json').write_text(json.dumps(content))
    status, _, errors = run_tool('analyze', '--gt', tmp_path / 'gt.json', '--dt', found)
    assert status == 0
    assert errors == f'note: no image of {tmp_path / "gt.json"} was found, so none is drawn\n'
    names = sorted(path.name for path in (tmp_path / 'analysis').iterdir())
    assert names == ['analysis.json', 'analysis.md', 'errors.png', 'pr_curves.png']  # the old one is gone
    text = (tmp_path / 'analysis' / 'analysis.md').read_text()
    assert f'Note: no image of {tmp_path / "gt.json"} was found' in text
    assert 'examples' not in text
    assert 'VOC' not in text
    # With names, the images beside the file are found.
    for image, image_id in zip(content['images'], CELLS, strict=True):
        image['file_name'] = f'{image_id}.png'
        cv2.imwrite(str(tmp_path / f'{image_id}.png'), np.zeros((80, 100, 3), np.uint8))
    (tmp_path / 'gt.json').write_text(json.dumps(content))
    files = from_files(tmp_path / 'gt.json', found).files
    assert files == {i: tmp_path / f'{image_id}.png' for i, image_id in enumerate(CELLS)}


def test_report_of_a_run(cells, run_dir, tmp_path, run_tool, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the config says data/BCCD
    status, printed, errors = run_tool('analyze', 'run')
    assert status == 0
    assert 'report: run/analysis/analysis.md' in printed
    note = r'note: AP50 of these predictions is 50\.\d, but the record of the run says \d\d\.\d: .*\n'
    assert re.fullmatch(note, errors)
    text, numbers = assert_complete(run_dir / 'analysis')
    assert text.startswith('# menet_108_8x1_g3 · frcnn_c4 · BCCD test (run)\n')
    assert numbers['figures']['coco/ap50']['per_class']['Platelets'] is None
    assert '| Platelets |' not in text


def test_run_with_its_data_named(cells, run_dir, found, tmp_path):
    moved = cells.rename(tmp_path / 'elsewhere')
    material = from_run(run_dir, moved)
    assert material.gt.classes == ['RBC', 'WBC', 'Platelets']
    assert material.notes == []
    assert material.files[3] == moved / 'JPEGImages' / 'x4.jpg'
    found.write_text('[]')
    shutil.copy(moved / 'ImageSets' / 'Main' / 'test.txt', moved / 'ImageSets' / 'Main' / 'other.txt')
    material = from_run(run_dir, moved, found, 'other')
    assert len(material.dt.scores) == 0
    assert 'BCCD other' in material.title


def user_error(run_tool, *arguments):
    status, printed, errors = run_tool('analyze', *arguments)
    assert (status, printed) == (1, '')
    assert errors.startswith('error: ')
    assert errors.count('\n') == 1
    return errors


def test_what_is_absent_is_named_with_its_cure(cells, run_dir, tmp_path, run_tool, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert 'no finished run of tools/train.py' in user_error(run_tool, tmp_path)
    cells.rename(tmp_path / 'elsewhere')
    assert "'data/BCCD' is absent" in (error := user_error(run_tool, 'run'))
    assert 'Name the data with --gt' in error
    (run_dir / 'predictions.json').unlink()
    error = user_error(run_tool, 'run')
    assert re.search(
        r'make it: python tools/test.py run/\w+.py run/\w+.pth --out run/predictions.json$', error
    )
    assert not (run_dir / 'analysis').exists()


def test_bad_input_leaves_no_report(cells, found, tmp_path, run_tool):
    both = ('--gt', cells, '--dt', found)
    assert 'cannot make the folder' in user_error(run_tool, *both, '--out', found)
    (cells / 'JPEGImages' / 'x1.jpg').write_bytes(b'no image')
    assert 'x1.jpg: cannot be decoded' in user_error(run_tool, *both)
    assert list((tmp_path / 'analysis').iterdir()) == []
    found.write_text('[{}]')
    assert 'entry 0' in user_error(run_tool, *both)


@pytest.mark.parametrize('arguments', [[], ['--gt', 'x'], ['run', '--classes', 'a'], ['a', 'b']])
def test_bad_usage(arguments, run_tool):
    assert run_tool('analyze', *arguments)[0] == 2


@pytest.mark.parametrize(
    ('num_classes', 'num_boxes', 'rule'), [(1, 1, 'voc'), (30, 30, 'coco'), (2, 0, 'voc'), (0, 0, 'coco')]
)
@pytest.mark.filterwarnings('error')
def test_charts_of_any_number_of_classes(num_classes, num_boxes, rule):
    names = [
        f'class $x_{i}^ 血' for i in range(num_classes)
    ]  # a letter that the font lacks, and no formula
    boxes = np.arange(num_boxes)[:, None] * 20.0 + (0, 0, 10, 10)
    gt = make_annotations(['i'], names, np.zeros(num_boxes), range(num_boxes), boxes)
    dt = make_detections(np.zeros(num_boxes), range(num_boxes), boxes + 2, np.linspace(0.1, 0.9, num_boxes))
    analysis = analyze(gt, dt)
    assert cv2.imdecode(np.frombuffer(draw_curves(names, analysis, rule), np.uint8), 1).std() > 1
    assert cv2.imdecode(np.frombuffer(draw_errors(names, analysis), np.uint8), 1).std() > 1


def test_charts_show_every_type(cells, found):
    gt = read_voc(cells)
    analysis = analyze(gt, read_predictions(found, gt))
    image = cv2.imdecode(np.frombuffer(draw_errors(gt.classes, analysis), np.uint8), 1)
    colors = {tuple(pixel) for pixel in image.reshape(-1, 3).tolist()}
    for name in ERRORS:  # at least in the legend
        red, green, blue = (int(COLORS[name][i : i + 2], 16) for i in (1, 3, 5))
        assert (blue, green, red) in colors


def test_shorten():
    assert shorten('pottedplant', 8) == 'pottedp…'
    assert shorten('dog', 3) == 'dog'
