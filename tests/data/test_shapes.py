"""The embedded data set: deterministic, whole, verified, and safe to draw from several processes."""

import json
import multiprocessing
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import data
import numpy as np
import pytest

import backbones  # noqa: F401  before mmdet
from compactdet.data import shapes
from compactdet.data.base_dataset import dataset_facts
from compactdet.data.shapes import CLASSES, MANIFEST, ShapesDataset, Spec, draw_image, ensure
from compactdet.data.voc_files import parse_annotation
from compactdet.errors import UserError, run_main

SMALL = Spec(images={'train': 12, 'val': 3, 'test': 5})


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(shapes, 'Spec', lambda: SMALL)
    return ensure(tmp_path / 'shapes')


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob('*') if p.is_file()}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    first = content(ensure(tmp_path / 'one', SMALL))
    assert first == content(ensure(tmp_path / 'two', SMALL))
    other = content(ensure(tmp_path / 'three', replace(SMALL, seed=1)))
    changed = [name for name in first if name.endswith('.jpg') and first[name] != other[name]]
    assert len(changed) == 20


def test_an_image_does_not_depend_on_the_number_of_images() -> None:
    image, things = draw_image(SMALL, 'test', 4)
    more, same = draw_image(Spec(), 'test', 4)
    assert (image == more).all()
    assert things == same


def test_splits_share_no_image(drawn: Path) -> None:
    images = [path.read_bytes() for path in drawn.glob('JPEGImages/*.jpg')]
    assert len(set(images)) == len(images) == 20


def test_what_is_drawn() -> None:
    spec = Spec()
    drawn = [draw_image(spec, 'train', i) for i in range(150)]
    things = [thing for _, found in drawn for thing in found]
    assert {thing.name for thing in things} == set(CLASSES)
    assert len(CLASSES) >= 8
    boxes = np.array([thing.box for thing in things])
    assert boxes[:, :2].min() >= 1
    assert boxes[:, 2:].max() <= spec.image_size
    sides = (boxes[:, 2:] - boxes[:, :2] + 1).max(1)
    assert sides.min() < 45  # scale varies
    assert sides.max() > 100
    assert 0.02 < np.mean([thing.difficult for thing in things]) < 0.2
    assert any(thing.truncated for thing in things)
    assert all(len(found) <= spec.max_objects for _, found in drawn)


def test_box_is_tight_and_difficult_follows_the_visible_area() -> None:
    """Each object alone, by its coverage: the box touches it on four sides."""
    for number in range(40):
        covers, things = shapes._layout(SMALL, np.random.default_rng(number))
        rest = list(things)
        for order, cover in enumerate(covers):
            inside = cover > 127
            ys, xs = np.nonzero(inside)
            box = (xs.min() + 1, ys.min() + 1, xs.max() + 1, ys.max() + 1)
            hidden = np.zeros_like(inside)
            for above in covers[order + 1 :]:
                hidden |= above > 127
            visible = (inside & ~hidden).sum() / inside.sum()
            if rest and rest[0].box == box:
                thing = rest.pop(0)
                if not thing.truncated:
                    assert thing.difficult == (visible < SMALL.difficult_below)
            else:
                assert visible < SMALL.difficult_below  # left out: nearly hidden
        assert not rest


def test_classes_differ_in_form() -> None:
    """No outline, at its best rotation, covers another's: their overlap stays below 0.9."""

    def mask(name: str, degrees: float) -> np.ndarray:
        angle = np.deg2rad(degrees)
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        contours = [points @ turn * 40 + 64 for points in CLASSES[name]]
        return shapes._fill(contours, 128) > 127

    names = list(CLASSES)
    for i, one in enumerate(names):
        fixed = mask(one, 0)
        for other in names[i + 1 :]:
            for degrees in range(0, 360, 15):
                turned = mask(other, degrees)
                overlap = (fixed & turned).sum() / (fixed | turned).sum()
                assert overlap < 0.9, (one, other, degrees)


def test_layout_on_disk_and_as_data_set(drawn: Path) -> None:
    facts = {}
    for split, count in SMALL.images.items():
        dataset = ShapesDataset(data_root=str(drawn), ann_file=f'ImageSets/Main/{split}.txt')
        facts[split] = dataset_facts(dataset)
        assert facts[split]['images'] == count
        assert facts[split]['classes'] == list(CLASSES)
    image, things = draw_image(SMALL, 'val', 1)
    annotation = parse_annotation(drawn / 'Annotations/val_00001.xml', tuple(CLASSES))
    assert annotation.names == tuple(thing.name for thing in things)
    assert annotation.difficult.tolist() == [thing.difficult for thing in things]
    back = annotation.boxes + np.array([1, 1, 0, 0])
    assert back.tolist() == [list(map(float, thing.box)) for thing in things]
    stored = cv2.imread(str(drawn / 'JPEGImages/val_00001.jpg'))
    assert np.abs(stored.astype(float) - image).mean() < 12  # JPEG's loss


def test_absent_set_is_drawn_by_the_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(shapes, 'Spec', lambda: SMALL)
    assert len(ShapesDataset(data_root=str(tmp_path / 'deep/shapes'))) == 12
    assert "data set 'shapes' is absent: drawing 20 images" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / 'deep').iterdir()] == ['shapes']  # no draft stays


def test_other_parameters_are_refused(drawn: Path) -> None:
    with pytest.raises(UserError, match='has other settings: spec; remove the folder'):
        ensure(drawn, replace(SMALL, image_size=128))


def test_changed_annotation_is_refused(drawn: Path) -> None:
    path = drawn / 'Annotations/test_00000.xml'
    path.write_text(path.read_text().replace('</annotation>', '\n</annotation>'))
    with pytest.raises(UserError, match=r'has other settings: annotations .files were changed'):
        ensure(drawn, SMALL)


@pytest.mark.parametrize('text', [None, '{', '[]', '{"set": "shapes"}'])
def test_folder_of_something_else_is_refused_and_left_alone(drawn: Path, text: str | None) -> None:
    if text is None:
        (drawn / MANIFEST).unlink()
    else:
        (drawn / MANIFEST).write_text(text)
    before = content(drawn)
    with pytest.raises(UserError, match=f'has no valid {MANIFEST}; remove the folder'):
        ensure(drawn, SMALL)
    assert content(drawn) == before


def test_a_file_in_its_place(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='has no valid'):
        ensure(tmp_path / 'file', SMALL)
    with pytest.raises(UserError, match=r'cannot write .*; name another folder'):
        ensure(tmp_path / 'file/shapes', SMALL)


def test_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(UserError, match=r'cannot write .*No space left on device'):
        ensure(tmp_path / 'shapes', SMALL)
    assert list(tmp_path.iterdir()) == []


def test_several_processes_draw_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context('fork')
    root = tmp_path / 'shapes'
    workers = [context.Process(target=ensure, args=(root, SMALL)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ['shapes']
    ensure(root, SMALL)


def test_contact_sheet(drawn: Path, tmp_path: Path) -> None:
    shapes.contact_sheet(drawn, 'test', 4, tmp_path / 'sheet.png', columns=3)
    sheet = cv2.imread(str(tmp_path / 'sheet.png'))
    assert sheet.shape == (2 * 324, 3 * 324, 3)
    with pytest.raises(UserError, match='cannot write'):
        shapes.contact_sheet(drawn, 'test', 4, tmp_path / 'no/sheet.png')


def test_data_tool(drawn: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    def run(*args: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, 'argv', ['data.py', *map(str, args)])
        with pytest.raises(SystemExit) as end:
            run_main(data.main)
        return int(end.value.code or 0), *capsys.readouterr()

    status, out, _ = run('check', drawn)
    assert (status, 'no problems' in out) == (0, True)
    (drawn / 'JPEGImages/val_00002.jpg').write_bytes(b'')
    assert run('check', drawn)[0] == 1
    status, out, _ = run('check', drawn, '--split', 'val', '--json')
    (problem,) = json.loads(out)['problems']
    assert (status, problem['split'], problem['image']) == (1, 'val', 'val_00002')
    assert 'not a readable image' in problem['problem']
    status, _, err = run('check', drawn / 'no')
    assert status == 1
    assert err.startswith('error: data set')
    status, out, _ = run('shapes', '--out', drawn, '--show', 2)
    assert (status, (drawn.parent / 'shapes.png').is_file()) == (0, True)
    assert run('shapes', '--show', '0')[0] == 2
