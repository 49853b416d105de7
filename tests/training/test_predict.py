"""tools/predict.py and tools/test.py: drawn images, JSON and metrics of a checkpoint."""

import errno
import json
import os
import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import finished_run
import numpy as np
import pytest
import torch
from PIL import Image

from compactdet.config.resolved import RENAMED_MODULES
from compactdet.data import shapes
from compactdet.data.readers import read_predictions, read_voc
from compactdet.drawing import MIN_SIDE
from compactdet.errors import UserError, run_main
from compactdet.records import record_file
from compactdet.training import predict

REPO = Path(__file__).parents[2]
CONFIG = REPO / 'det_configs/menet_frcnn_shapes.py'
CLASSES = list(shapes.CLASSES)


@pytest.fixture(scope='module')
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of the embedded config with random weights, in the form that a training leaves."""
    return finished_run.write(tmp_path_factory.mktemp('run'))


@pytest.fixture
def broken_run(run_dir: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies the run with a changed record."""

    def make(change: Callable[[dict[str, Any]], None]) -> Path:
        record = json.loads((run_dir / 'record.json').read_text())
        del record['keys']
        change(record)
        folder = tmp_path / 'broken'
        folder.mkdir()
        (folder / 'epoch_3.pth').symlink_to(run_dir / 'epoch_3.pth')
        (folder / 'last_checkpoint').write_text('epoch_3.pth')
        record_file.write(folder / 'record.json', record)
        return folder

    return make


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two images of one stem, one of them stored rotated, and files that are not images."""
    folder = tmp_path / 'photos'
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    rotated = Image.Exif()
    rotated[274] = 6  # orientation: to be shown rotated by 90 degrees
    Image.fromarray(pixels).save(folder / 'cat.jpg', exif=rotated)
    Image.fromarray(pixels[:50]).save(folder / 'cat.PNG')
    (folder / 'notes.txt').write_text('not an image')
    (folder / '._cat.jpg').write_text('macOS metadata')
    (folder / 'more.jpg').mkdir()
    return folder


def read_json(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / 'predictions.json').read_text())


@pytest.fixture
def run_tool(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., Any]:
    """Return a function that runs a tool in this process: exit status, stdout and stderr."""

    def run(name: str, *args: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
        # By path: `import test` could import Python's package `test`.
        module = runpy.run_path(str(REPO / 'tools' / f'{name}.py'), run_name=f'tool_{name}')
        with pytest.raises(SystemExit) as end:
            run_main(module['main'])
        return int(end.value.code or 0), *capsys.readouterr()

    return run


# predict


def test_a_folder_of_images(
    run_dir: Path, photos: Path, tmp_path: Path, run_tool: Callable[..., Any]
) -> None:
    out = tmp_path / 'out'
    args = (run_dir, photos, '--out', out, '--score', '0', '--device', 'cpu')
    status, printed, errors = run_tool('predict', *args)
    assert (status, errors) == (0, '')
    assert sorted(path.name for path in out.iterdir()) == ['cat.PNG', 'cat.jpg', 'predictions.json']
    upright, other = sorted(read_json(out), key=lambda entry: entry['image'], reverse=True)
    assert (upright['image'], upright['width'], upright['height']) == ('cat.jpg', 60, 90)
    assert (other['image'], other['width'], other['height']) == ('cat.PNG', 90, 50)
    for entry in (upright, other):
        assert f'{entry["image"]}: ' in printed
        drawn = Image.open(out / entry['image']).size
        assert max(drawn) == MIN_SIDE  # a small image is enlarged
        assert drawn[0] / drawn[1] == pytest.approx(entry['width'] / entry['height'], rel=0.01)
        scores = [found['score'] for found in entry['detections']]
        assert scores == sorted(scores, reverse=True) != []
        assert {found['class'] for found in entry['detections']} <= set(CLASSES)
        boxes = np.array([found['bbox'] for found in entry['detections']])
        assert (boxes[:, :2] <= boxes[:, 2:]).all()
        assert boxes.min() >= 0
        assert (boxes.max(0) <= np.tile([entry['width'], entry['height']], 2) + 1).all()


def test_an_image_without_detections_is_only_enlarged(run_dir: Path, photos: Path, tmp_path: Path) -> None:
    out = predict.predict(run_dir, photos / 'cat.PNG', tmp_path / 'out', score=1.0)
    assert read_json(out) == [{'image': 'cat.PNG', 'width': 90, 'height': 50, 'detections': []}]
    drawn, photo = (cv2.imread(str(folder / 'cat.PNG')) for folder in (out, photos))
    factor = MIN_SIDE / 90
    assert (drawn == cv2.resize(photo, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)).all()


def test_the_chosen_checkpoint_is_used(broken_run: Callable[..., Path]) -> None:
    chosen = {'checkpoint': 'best_epoch_2.pth', 'epoch': 2, 'metric': 'voc/ap50_11point', 'value': 0.5}
    folder = broken_run(lambda record: record['training'].update(chosen=chosen))
    record = record_file.read(folder / 'record.json')
    assert predict.find_checkpoint(folder, record) == folder / 'best_epoch_2.pth'
    record['training']['chosen'] = None
    assert predict.find_checkpoint(folder, record) == folder / 'epoch_3.pth'
    (folder / 'last_checkpoint').unlink()
    with pytest.raises(UserError, match='last_checkpoint: cannot read the name'):
        predict.find_checkpoint(folder, record)


@pytest.mark.parametrize('cut', [0, 100, -200], ids=['empty', 'header', 'truncated'])
def test_a_damaged_image_is_an_error_and_is_skipped_in_a_folder(
    run_dir: Path, photos: Path, tmp_path: Path, run_tool: Callable[..., Any], cut: int
) -> None:
    (photos / 'zebra.jpg').write_bytes((photos / 'cat.jpg').read_bytes()[:cut])
    out = tmp_path / 'out'
    with pytest.raises(UserError, match=r'zebra\.jpg: not a readable image, or truncated'):
        predict.predict(run_dir, photos / 'zebra.jpg', out)
    assert not out.exists()
    Image.new('RGB', (900, 1)).save(photos / 'line.png')
    status, _, errors = run_tool('predict', run_dir, photos, '--out', out)
    assert status == 1
    damaged, thin, last = errors.splitlines()
    assert damaged.startswith(f'skipped: {photos / "zebra.jpg"}: not a readable image')
    assert thin.startswith(f'skipped: {photos / "line.png"}: 900x1 cannot be resized')
    assert last.startswith('error: 2 of 4 images were skipped')
    assert sorted(entry['image'] for entry in read_json(out)) == ['cat.PNG', 'cat.jpg']


def test_an_image_is_read_by_its_content(run_dir: Path, photos: Path, tmp_path: Path) -> None:
    Image.open(photos / 'cat.PNG').save(photos / 'web.jpg', format='WEBP')
    out = predict.predict(run_dir, photos / 'web.jpg', tmp_path / 'out')
    assert read_json(out)[0]['image'] == 'web.jpg'


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('absent', 'absent: no such image or folder'),
        ('more.jpg', r'more\.jpg: no image in this folder \(\.jpg'),
        ('notes.txt', r'notes\.txt: the file name of an image must end in one of \.jpg'),
    ],
)
def test_no_images(run_dir: Path, photos: Path, source: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        predict.predict(run_dir, photos / source)


def test_an_image_too_thin_for_the_detector(run_dir: Path, photos: Path) -> None:
    Image.new('RGB', (900, 1)).save(photos / 'line.png')
    with pytest.raises(UserError, match=r"line\.png: 900x1 cannot be resized to the detector's input size"):
        predict.predict(run_dir, photos / 'line.png', photos / 'out')


def test_originals_are_not_overwritten(run_dir: Path, photos: Path) -> None:
    before = (photos / 'cat.jpg').read_bytes()
    for source in (photos, photos / 'cat.jpg'):
        with pytest.raises(UserError, match='is the folder of the images, which would be overwritten'):
            predict.predict(run_dir, source, photos / '..' / 'photos')
    assert (photos / 'cat.jpg').read_bytes() == before


def test_only_results_of_an_earlier_call_are_replaced(run_dir: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / 'out'
    out.mkdir()
    for name in ('cat.PNG', 'predictions.json', 'mine.txt'):
        (out / name).write_text('old')
    predict.predict(run_dir, photos / 'cat.PNG', out)
    assert sorted(path.name for path in out.iterdir()) == ['cat.PNG', 'mine.txt', 'predictions.json']
    assert (out / 'mine.txt').read_text() == 'old'
    assert read_json(out)[0]['image'] == 'cat.PNG'


def test_an_output_folder_that_cannot_be_created(run_dir: Path, photos: Path) -> None:
    with pytest.raises(UserError, match=r'cannot create the folder .*notes\.txt.*choose another --out'):
        predict.predict(run_dir, photos / 'cat.PNG', photos / 'notes.txt')


def test_a_full_disk_leaves_no_partial_file(
    run_dir: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(UserError, match=r"cannot write '.*cat\.PNG' \(No space left on device\)"):
        predict.predict(run_dir, photos / 'cat.PNG', tmp_path / 'out')
    assert list((tmp_path / 'out').iterdir()) == []


def test_unusable_runs(run_dir: Path, broken_run: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'is not a finished run .* it has no record\.json'):
        predict.load_detector(tmp_path)
    folder = broken_run(lambda record: record['dataset'].update(classes=['RBC']))
    with pytest.raises(UserError, match=r'the detector has 8 classes, but dataset\.classes has 1'):
        predict.load_detector(folder)


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        ("'mmdet'", "__import__('os').getcwd()", 'is not a plain value'),
        ('in_channels=432', 'in_channels=430', r'epoch_3\.pth does not fit this config'),
        ('roi_feat_size=7', 'roi_feet_size=7', "no key 'roi_feet_size'; did you mean roi_feat_size"),
        ('103.53', '100', r'epoch_3\.pth was trained with .* but this config gives'),
        (
            "'compactdet.data.voc'",
            "'compactdet.data.vocc'",
            r'custom_imports: .*vocc.*install the packages',
        ),
    ],
)
def test_unusable_configs(broken_run: Callable[..., Path], old: str, new: str, message: str) -> None:
    def change(record: dict[str, Any]) -> None:
        assert old in record['config']['text']
        record['config']['text'] = record['config']['text'].replace(old, new)

    folder = broken_run(change)
    with pytest.raises(UserError, match=message):
        predict.load_detector(folder)


def test_a_run_made_before_the_package_was_renamed(
    run_dir: Path, broken_run: Callable[..., Path], photos: Path, tmp_path: Path
) -> None:
    def rename(record: dict[str, Any]) -> None:
        for old, new in RENAMED_MODULES.items():
            record['config']['text'] = record['config']['text'].replace(repr(new), repr(old))
        assert "'bench.voc'" in record['config']['text']
        assert 'compactdet' not in record['config']['text']

    old_run = broken_run(rename)
    predict.predict(old_run, photos / 'cat.PNG', tmp_path / 'old')
    predict.predict(run_dir, photos / 'cat.PNG', tmp_path / 'new')
    assert read_json(tmp_path / 'old') == read_json(tmp_path / 'new')


def test_cuda_without_a_gpu(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(UserError, match='--device cuda needs a CUDA GPU'):
        predict.load_detector(run_dir, 'cuda')


# test


@pytest.fixture
def small_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    spec = shapes.Spec(images={'train': 2, 'val': 2, 'test': 2})
    monkeypatch.setattr(shapes, 'Spec', lambda: spec)
    return shapes.ensure(tmp_path / 'set', spec)


def test_the_test_tool(run_dir: Path, small_set: Path, run_tool: Callable[..., Any]) -> None:
    before = sorted(run_dir.rglob('*'))
    args = (CONFIG, run_dir / 'epoch_3.pth', '--data-root', small_set, '--out', 'results/found.json')
    status, printed, errors = run_tool('test', *args)
    assert (status, errors) == (0, '')
    assert 'menet_108_8x1_g3 · frcnn_c4 · shapes test' in printed
    assert 'VOC 11-point AP50' in printed
    assert all(f' {name} ' in printed for name in (*CLASSES, 'mean'))
    assert sorted(run_dir.rglob('*')) == before
    assert Path('work_dirs/menet_frcnn_shapes/test').is_dir()
    assert [path.name for path in Path('results').iterdir()] == ['found.json']
    ground_truth = read_voc(small_set, 'test', CLASSES)
    assert len(ground_truth.image_ids) == 2
    assert len(read_predictions('results/found.json', ground_truth).scores) > 0


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, 'cannot read .*No such file'),
        (b'PK\x03\x04 cut', 'is truncated or '),
        ({'weights': 1}, 'is not a detector checkpoint: it has no state_dict'),
        ({'state_dict': {}, 'meta': print}, r'code \((builtins\.)?print\)'),
    ],
)
def test_bad_checkpoints_leave_nothing(
    small_set: Path, run_tool: Callable[..., Any], content: Any, message: str
) -> None:
    if isinstance(content, dict):
        torch.save(content, 'bad.pth')
    elif content is not None:
        Path('bad.pth').write_bytes(content)
    status, _, errors = run_tool('test', CONFIG, 'bad.pth', '--data-root', small_set)
    assert status == 1
    assert errors.startswith('error: ')
    assert errors.count('\n') == 1
    assert re.search(message, errors)
    assert not Path('work_dirs').exists()
