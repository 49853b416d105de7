"""CIFAR, SVHN and MNIST as their authors publish them; what is said of damage and of code in them."""

import gzip
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from compactdet.classification.arrays import idx, unpickled
from compactdet.classification.dataset import load
from compactdet.errors import UserError

from classification_sets import tar_of


@pytest.fixture(autouse=True)
def nothing_is_cached() -> None:
    load.cache_clear()


RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, 32, 32, 3), np.uint8)  # RGB
PLANES = PIXELS.transpose(0, 3, 1, 2).reshape(4, -1)


def cifar10_pickles(root: Path) -> None:
    names = [*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch']
    files = {
        f'cifar-10-batches-py/{n}': pickle.dumps({b'data': PLANES, b'labels': [3, 0, 9, 1]}, 2)
        for n in names
    }
    (root / 'cifar-10-python.tar.gz').write_bytes(gzip.compress(tar_of(files)))


def cifar10_binary(root: Path) -> None:
    folder = root / 'cifar-10-batches-bin'  # unpacked already
    folder.mkdir()
    rows = np.concatenate([np.array([[3], [0], [9], [1]], np.uint8), PLANES], axis=1)
    for name in (*(f'data_batch_{i}' for i in range(1, 6)), 'test_batch'):
        (folder / f'{name}.bin').write_bytes(rows.tobytes())


def cifar100_pickles(root: Path) -> None:
    fine = [f'c{i:02}'.encode() for i in range(100)]
    batch = pickle.dumps({b'data': PLANES, b'fine_labels': [3, 0, 99, 1], b'coarse_labels': [0] * 4}, 2)
    files = {'train': batch, 'test': batch, 'meta': pickle.dumps({b'fine_label_names': fine}, 2)}
    data = tar_of({f'cifar-100-python/{k}': v for k, v in files.items()})
    (root / 'cifar-100-python.tar.gz').write_bytes(gzip.compress(data))


def cifar100_binary(root: Path) -> None:
    rows = np.concatenate([np.array([[7, 3], [7, 0], [7, 99], [7, 1]], np.uint8), PLANES], axis=1)
    names = '\n'.join(f'c{i:02}' for i in range(100)).encode()
    files = {'train.bin': rows.tobytes(), 'test.bin': rows.tobytes(), 'fine_label_names.txt': names}
    data = tar_of({f'cifar-100-binary/{k}': v for k, v in files.items()})
    (root / 'cifar-100-binary.tar.gz').write_bytes(gzip.compress(data))


def svhn_mat(root: Path) -> None:
    for split in ('train', 'test'):
        content = {'X': PIXELS.transpose(1, 2, 3, 0), 'y': np.array([[3], [10], [9], [1]], np.uint8)}
        savemat(root / f'{split}_32x32.mat', content)


@pytest.mark.parametrize('split', ['train', 'test'])
@pytest.mark.parametrize(
    ('name', 'make', 'labels'),
    [
        ('cifar10', cifar10_pickles, [3, 0, 9, 1]),
        ('cifar10', cifar10_binary, [3, 0, 9, 1]),
        ('cifar100', cifar100_pickles, [3, 0, 99, 1]),
        ('cifar100', cifar100_binary, [3, 0, 99, 1]),
        ('svhn', svhn_mat, [3, 0, 9, 1]),  # 10 is the digit 0
    ],
)
def test_the_authors_files(tmp_path: Path, name: str, make: Any, labels: list[int], split: str) -> None:
    make(tmp_path)
    samples = load(name, str(tmp_path), split)
    times = 5 if name == 'cifar10' and split == 'train' else 1
    assert samples.labels.tolist() == labels * times
    assert len(samples.classes) == (100 if name == 'cifar100' else 10)
    assert all((samples[i] == PIXELS[i % 4][..., ::-1]).all() for i in range(4 * times))


def test_both_forms_of_cifar_are_the_same_data(tmp_path: Path) -> None:
    hashes = set()
    for make in (cifar10_pickles, cifar10_binary):
        folder = tmp_path / make.__name__
        folder.mkdir()
        make(folder)
        hashes.add(load('cifar10', str(folder), 'test').sha256)
    assert len(hashes) == 1


def ubyte(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f'>{array.ndim}I', *array.shape) + array.tobytes()


def test_mnists_grey_becomes_three_channels(tmp_path: Path) -> None:
    gray = RNG.integers(0, 256, (3, 28, 28), np.uint8)
    for prefix in ('train', 't10k'):
        (tmp_path / f'{prefix}-images-idx3-ubyte.gz').write_bytes(gzip.compress(ubyte(gray)))
        (tmp_path / f'{prefix}-labels-idx1-ubyte').write_bytes(ubyte(np.array([7, 0, 9], np.uint8)))
    samples = load('mnist', str(tmp_path), 'test')
    assert samples.labels.tolist() == [7, 0, 9]
    assert all((samples[i] == gray[i][..., None]).all() for i in range(3))


@pytest.mark.parametrize('cut', [0, 3, 7, 20])
def test_an_idx_file_that_is_not_whole(cut: int) -> None:
    data = ubyte(np.zeros((2, 4), np.uint8))
    assert idx(data, Path('x'), 2).shape == (2, 4)
    with pytest.raises(UserError, match='x is no whole file of 2-dimensional bytes in the IDX format'):
        idx(data[:cut] if cut < len(data) else data + b'1', Path('x'), 2)


class Hostile:
    def __init__(self, call: Any, *arguments: Any):
        self.call = call, arguments

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize(
    ('call', 'name'),
    [
        ((os.system, 'touch pwned'), r'(posix|nt)\.system'),
        ((eval, '1'), r'builtins\.eval'),
        ((getattr, 'text', 'encode'), r'builtins\.getattr'),
        ((subprocess.Popen, ['touch', 'pwned']), r'subprocess\.Popen'),
        ((np.load, 'x'), r'numpy\.load'),
    ],
)
def test_code_in_a_pickle_is_not_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Any, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / 'cifar-10-batches-py'
    folder.mkdir()
    (folder / 'test_batch').write_bytes(pickle.dumps({b'data': Hostile(*call), b'labels': [0]}, 3))
    with pytest.raises(UserError, match=rf'contains code \({name}\), which was not executed'):
        load('cifar10', str(tmp_path), 'test')
    assert [path.name for path in tmp_path.iterdir()] == ['cifar-10-batches-py']


def test_a_digit_that_is_none(tmp_path: Path) -> None:
    content = {'X': np.zeros((32, 32, 3, 2), np.uint8), 'y': np.array([[10], [11]])}
    savemat(tmp_path / 'train_32x32.mat', content)
    with pytest.raises(UserError, match='are not 8-bit images of 10 classes'):
        load('svhn', str(tmp_path), 'train')


@pytest.mark.parametrize('data', [b'', b'\x80\x02', b'garbage', pickle.dumps([1]), pickle.dumps({})[:-1]])
def test_a_pickle_that_is_damaged(data: bytes) -> None:
    with pytest.raises(UserError, match='x is damaged'):
        unpickled(data, Path('x'))


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({b'data': PLANES, b'labels': [0, 1]}, r'a batch has no data \(N, 3072\) with N labels'),
        ({b'data': PLANES.astype(float), b'labels': [0] * 4}, r'a batch has no data'),
        ({b'data': PLANES, b'labels': [0, 1, 2, 10]}, r'are not 8-bit images of 10 classes'),
        ({b'data': PLANES, b'labels': ['a'] * 4}, r'a batch has no data \(N, 3072\) with N labels'),
        ({b'data': PLANES, b'labels': [0, 1, 2, [3, 4]]}, r'a batch has no data \(N, 3072\) with N labels'),
        ({b'labels': [0]}, r'a batch has no data'),
    ],
)
def test_a_pickle_that_holds_something_else(tmp_path: Path, content: dict, message: str) -> None:
    (tmp_path / 'test_batch').write_bytes(pickle.dumps(content, 2))
    with pytest.raises(UserError, match=message):
        load('cifar10', str(tmp_path), 'test')


@pytest.mark.parametrize(
    ('name', 'file', 'message'),
    [
        ('cifar10', 'cifar-10-python.tar.gz', r'cifar-10-python\.tar\.gz: broken or truncated'),
        ('cifar10', 'test_batch.bin', r'4 bytes are no whole number of 3073-byte images'),
        ('svhn', 'test_32x32.mat', r'test_32x32\.mat is no whole SVHN file'),
    ],
)
def test_the_authors_files_damaged(tmp_path: Path, name: str, file: str, message: str) -> None:
    (tmp_path / file).write_bytes(b'1234')
    with pytest.raises(UserError, match=message):
        load(name, str(tmp_path), 'test')


def test_reading_imports_nothing_that_a_file_names(tmp_path: Path) -> None:
    """In a process of its own: a pickle that names a module does not even import it."""
    (tmp_path / 'evil.py').write_text("raise SystemExit('imported')")
    (tmp_path / 'test_batch').write_bytes(b'cevil\nx\n.')
    code = f'from compactdet.classification.dataset import load; load("cifar10", {str(tmp_path)!r}, "test")'
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert 'contains code (evil.x), which was not executed' in done.stderr
    assert 'imported' not in done.stderr
