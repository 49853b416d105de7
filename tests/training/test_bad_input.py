"""User errors of training: one line, exit status 1, and no partial file."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.fileio import LocalBackend

from backbones.weights import load_pickle_safely

REPO = Path(__file__).parents[2]
CONFIGS = REPO / 'det_configs'

pytestmark = pytest.mark.usefixtures('plain_config_text')


@pytest.fixture
def copied_set(tiny_set: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_set, tmp_path / 'data')


def rewritten(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


# Data sets


@pytest.mark.parametrize(
    ('config', 'source'), [('voc', 'VOCtrainval_06-Nov-2007.tar'), ('bccd', 'BCCD_Dataset')]
)
def test_the_error_for_an_absent_data_set_names_its_source(
    refused: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, source: str
) -> None:
    for name in ('VOC2007', 'BCCD'):  # MMEngine would read the name of a data set as a file
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    options = ['--init', 'none', '--data-root', 'absent']
    line = refused('train', CONFIGS / f'menet_frcnn_{config}.py', *options)
    for words in ("data set 'absent' is absent", source, '--data-root', 'menet_frcnn_shapes.py'):
        assert words in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ['BCCD', 'VOC2007']


XML, JPEG = 'Annotations/train_00000.xml', 'JPEGImages/train_00000.jpg'
BOMB = '<!DOCTYPE a [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>'
FILE = '<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/hostname">]><annotation>&f;</annotation>'
BOX = (
    '<object><name>star</name>'
    '<bndbox><xmin>{}</xmin><ymin>5</ymin><xmax>{}</xmax><ymax>9</ymax></bndbox></object>'
)


def add(path: Path, text: str) -> None:
    rewritten(path, ('</annotation>', f'{text}</annotation>'))


def add_line(path: Path, line: str) -> None:
    path.write_text(f'{path.read_text().rstrip()}\n{line}\n')


BAD_FILES: dict[str, tuple[Callable[[Path], Any], list[str]]] = {
    'a folder is missing': (
        lambda root: shutil.rmtree(root / 'JPEGImages'),
        ['is not complete: no folder', 'JPEGImages'],
    ),
    'split names a missing image': (
        lambda root: (root / JPEG).unlink(),
        ['train.txt: names ', "'train_00000'", f'no file {{root}}/{JPEG}', 'take the line out'],
    ),
    'a test image is a training image': (
        lambda root: add_line(root / 'ImageSets/Main/test.txt', 'train_00001'),
        ['1 images of the split test', 'train_00001.jpg is a training image', 'allow_leaks=True'],
    ),
    'a validation image has the pixels of a training image': (
        lambda root: shutil.copy(root / JPEG, root / 'JPEGImages/val_00001.jpg'),
        ['split val', 'val_00001.jpg has the same pixels as', 'train_00000.jpg; take'],
    ),
    'test split names a missing annotation': (
        lambda root: (root / 'Annotations/test_00002.xml').unlink(),
        ["test.txt: names 'test_00002'", 'no file {root}/Annotations/test_00002.xml'],
    ),
    'empty split': (
        lambda root: (root / 'ImageSets/Main/val.txt').write_text('\n'),
        ['{root}/ImageSets/Main/val.txt: the split is empty'],
    ),
    'absent split': (
        lambda root: (root / 'ImageSets/Main/test.txt').unlink(),
        ['test.txt: no such split file; splits there: train, val'],
    ),
    'truncated JPEG': (
        lambda root: (root / JPEG).write_bytes((root / JPEG).read_bytes()[:-100]),
        [f'{{root}}/{JPEG}: truncated', 'get the file again'],
    ),
    'empty JPEG': (
        lambda root: (root / JPEG).write_bytes(b''),
        [f'{{root}}/{JPEG}: not a readable image'],
    ),
    'malformed XML': (
        lambda root: (root / XML).write_text('<annotation><size>'),
        [f'{{root}}/{XML}: malformed XML', 'line 1, column 18'],
    ),
    'entity bomb': (lambda root: (root / XML).write_text(BOMB), [f'{{root}}/{XML}: refused', 'DTD']),
    'external entity': (lambda root: (root / XML).write_text(FILE), [f'{{root}}/{XML}: refused', 'DTD']),
    'unknown class': (
        lambda root: add(root / XML, BOX.format(2, 9).replace('star', 'strar')),
        [f'{{root}}/{XML}: object ', "unknown class 'strar' (did you mean star?)"],
    ),
    'box outside': (
        lambda root: add(root / XML, BOX.format(150, 161)),
        [f'{{root}}/{XML}: object ', 'xmin=150', 'xmax=161', 'outside the image of 160x160'],
    ),
    'box without area': (
        lambda root: add(root / XML, BOX.format(7, 7)),
        [f'{{root}}/{XML}: object ', 'xmin=7', 'has no area', 'known_defects'],
    ),
    'no number': (
        lambda root: add(root / XML, BOX.format('nan', 7)),
        [f'{{root}}/{XML}: object ', "<bndbox/xmin> is 'nan', not a finite number"],
    ),
}


@pytest.mark.parametrize(('damage', 'words'), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files(
    refused: Callable, copied_set: Path, tiny_config: Path, damage: Callable, words: list[str]
) -> None:
    damage(copied_set)
    line = refused('train', tiny_config, '--data-root', copied_set)
    for word in words:
        assert word.format(root=copied_set) in line


@pytest.mark.parametrize('num_workers', [0, 1])
def test_damage_inside_a_jpeg_stops_the_training(
    refused: Callable, copied_set: Path, tiny_config: Path, num_workers: int
) -> None:
    """Header and end of the file are valid, so the damage is found on decoding."""
    for path in (copied_set / 'JPEGImages').glob('train_*'):
        data = path.read_bytes()
        place = data.index(b'\xff\xc4') + 5  # code counts of the first Huffman table
        path.write_bytes(data[:place] + b'\xff' * 16 + data[place + 16 :])
    workers = ['--cfg-options', f'train_dataloader.num_workers={num_workers}']
    line = refused('train', tiny_config, '--data-root', copied_set, *workers, made=True)
    assert line.startswith(f'{copied_set}/JPEGImages/train_0000')
    assert line.endswith('get it again')
    assert 'truncated or corrupt' in line


# Configs and options

ARCH = 'menet_108_8x1_g3'
BAD_CONFIGS = {
    'unknown arch': (
        (f"'{ARCH}'", "'menet_108_8x1_g4'"),
        "unknown arch 'menet_108_8x1_g4'; near: .*" + ARCH,
    ),
    'misspelled key': (
        ('train_cfg = dict(max', 'train_cgf = dict(max'),
        "no key 'train_cgf'; did you mean train_cfg",
    ),
    'misspelled inner key': (
        ("['test_cfg'] = dict(rpn=dict(", "['test_cfg'] = dict(rcnn=dict(score_thrr=0.1), rpn=dict("),
        r'model\.test_cfg\.rcnn has no key .score_thrr.; did you mean score_thr\?',
    ),
    'other number of classes': (
        ('num_classes=8', 'num_classes=7'),
        'num_classes=7, but the data set has 8 classes',
    ),
    'syntax error': (('max_epochs=2', 'max_epochs='), r'line \d+: syntax error'),
}


@pytest.mark.parametrize(('change', 'match'), BAD_CONFIGS.values(), ids=BAD_CONFIGS)
def test_bad_configs(
    refused: Callable, tiny_config: Path, tmp_path: Path, change: tuple[str, str], match: str
) -> None:
    config = Path(shutil.copy(tiny_config, tmp_path / 'other.py'))
    rewritten(config, change)
    line = refused('train', config)
    with pytest.raises(AssertionError, match=match):
        raise AssertionError(line)
    assert str(config) in line


BAD_OPTIONS = {
    'no such config': (['absent.py'], 'absent.py: no such config file'),
    'misspelled key': (
        ['--cfg-options', 'train_cgf.max_epochs=1'],
        "no key 'train_cgf'; did you mean train_cfg",
    ),
    'misspelled inner key': (
        ['--cfg-options', 'model.test_cfg.rcnn.score_thrr=0.1'],
        "model.test_cfg.rcnn has no key 'score_thrr'; did you mean score_thr?",
    ),
    'stale widths': (
        ['--cfg-options', 'model.backbone.arch=menet_228_12x1_g3'],
        'were derived from it; write a config',
    ),
    'amp': (['--amp'], '--precision fp16 (--amp) needs a CUDA GPU'),
    'tf32': (['--precision', 'tf32'], '--precision tf32 needs a CUDA GPU'),
    'launcher': (['--launcher', 'slurm'], '--launcher slurm: start this command with srun'),
    'absent weights': (['--init', 'no.safetensors'], 'no.safetensors is not there'),
    'no weights': (['--init', __file__], f'{__file__} is not a safetensors file'),
}


@pytest.mark.parametrize(('options', 'words'), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options(
    refused: Callable,
    tiny_config: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: str,
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    config = [] if options[0].endswith('.py') else [tiny_config]
    assert words in refused('train', *config, *options)


def test_a_launcher_that_did_not_start_this_process(
    refused: Callable, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.delenv('RANK', raising=False)
    line = refused('train', tiny_config, '--launcher', 'pytorch')
    assert line == '--launcher pytorch: start this command with torchrun, which sets RANK'


@pytest.mark.parametrize('option', [['--seed', 'many'], ['--launcher', 'mpi'], ['--sed', '1'], []])
def test_bad_usage(run_tool: Callable, tiny_config: Path, option: list[str]) -> None:
    status, _, err = run_tool('train', *([tiny_config] if option else []), *option)
    assert status == 2
    assert err.startswith('usage: ')


# Run folder


def test_a_work_dir_that_is_a_file(run_tool: Callable, tiny_config: Path, tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('precious')
    for work_dir in (tmp_path / 'file', tmp_path / 'file' / 'run'):
        status, _, err = run_tool('train', tiny_config, '--work-dir', work_dir)
        assert status == 1
        assert err.startswith(f'error: cannot write in the work dir {work_dir}: ')
        assert err.endswith('; choose another --work-dir\n')
        assert err.count('\n') == 1
    assert (tmp_path / 'file').read_text() == 'precious'


def raise_disk_full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_work_dir_without_permission(
    refused: Callable, tiny_config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(Path, 'mkdir', denied)  # permissions do not restrict root
    assert 'Permission denied; choose another --work-dir' in refused('train', tiny_config)


def write_half(self: LocalBackend, obj: bytes, filepath: str) -> None:
    Path(filepath).write_bytes(obj[: len(obj) // 2])
    raise_disk_full()


fsync = os.fsync


def no_space_for_the_record(file: int) -> None:
    if 'record.json' in Path(f'/proc/self/fd/{file}').readlink().name:
        raise_disk_full()
    fsync(file)


FULL = {
    'file': (
        LocalBackend,
        'put',
        write_half,
        r'cannot write the checkpoint .*epoch_1\.pth: .*No space left',
    ),
    'record': (os, 'fsync', no_space_for_the_record, r"cannot write '.*record\.json' \(No space left"),
}


@pytest.mark.parametrize(('owner', 'name', 'replacement', 'match'), FULL.values(), ids=FULL)
def test_a_full_disk(
    refused: Callable,
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    replacement: Callable,
    match: str,
) -> None:
    monkeypatch.setattr(owner, name, replacement)
    line = refused('train', tiny_config, '--cfg-options', 'train_cfg.max_epochs=1', made=True)
    with pytest.raises(AssertionError, match=match):
        raise AssertionError(line)
    for file in (tmp_path / 'work').rglob('*.pth'):
        load_pickle_safely(file)  # all files are complete


# In a process of its own


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, REPO / 'tools/train.py', CONFIGS / 'menet_frcnn_bccd.py', '--init', 'none']
    done = subprocess.run([*map(str, command)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout == ''
    assert done.stderr.startswith("error: data set 'data/BCCD' is absent: no folder data/BCCD/ImageSets.")
    assert done.stderr.count('\n') == 1
    assert [*tmp_path.iterdir()] == []
