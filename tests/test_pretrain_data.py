"""Classification sets: every form they come in, made here, and what is said of those that are damaged."""

import gzip
import io
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from bench import classification
from bench.classification import ClassificationSet, load
from bench.classification_archives import find
from bench.classification_arrays import READERS, idx, unpickled
from bench.classification_devkit import DEVKIT, read_devkit
from bench.errors import UserError

CLASSES = ('ant', 'bee', 'cat')


@pytest.fixture(autouse=True)
def nothing_is_cached() -> None:
    load.cache_clear()


def png(value: int, size: int = 8) -> bytes:
    """A square of one grey, encoded without loss."""
    return cv2.imencode('.png', np.full((size, size, 3), value, np.uint8))[1].tobytes()


def members(per_class: int = 2) -> dict[str, bytes]:
    """Images by CLASS/FILE; the value of class c's image i is 10 c + i."""
    return {f'{name}/{i}.png': png(10 * c + i) for c, name in enumerate(CLASSES) for i in range(per_class)}


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as tar:
        for name, data in files.items():
            add(tar, name, data)
    return buffer.getvalue()


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def in_folder(root: Path) -> None:
    for name, data in members().items():
        (root / 'train' / name).parent.mkdir(parents=True, exist_ok=True)
        (root / 'train' / name).write_bytes(data)


def in_class_tars(root: Path) -> None:
    """As ImageNet's training archive: a tar of one tar a class."""
    inner = {
        f'{c}.tar': tar_of({k.split('/')[1]: v for k, v in members().items() if k.startswith(c)})
        for c in CLASSES
    }
    (root / 'ILSVRC2012_img_train.tar').write_bytes(tar_of(inner))


def in_shards(root: Path) -> None:
    files = list(members().items())
    (root / 'train').mkdir()
    for i in range(3):
        (root / f'train/{i:03}.tar').write_bytes(tar_of({f'./{k}': v for k, v in files[i::3]}))


def in_zip_with_splits(root: Path) -> None:
    both = {f'set/train/{k}': v for k, v in members().items()} | {'set/test/ant/9.png': png(9)}
    (root / 'all.zip').write_bytes(zip_of(both))


FORMS = {
    'folder': in_folder,
    'zip': lambda root: (root / 'my_train.zip').write_bytes(zip_of(members())),
    'deflated': lambda root: (root / 'train.zip').write_bytes(zip_of(members(), zipfile.ZIP_DEFLATED)),
    'tar': lambda root: (root / 'set-train.tar').write_bytes(tar_of(members())),
    'shards': in_shards,
    'class tars': in_class_tars,
    'one zip': in_zip_with_splits,
}


@pytest.mark.parametrize('form', FORMS)
def test_every_form_holds_the_same_images(tmp_path: Path, form: str) -> None:
    FORMS[form](tmp_path)
    images = find(tmp_path, ('train',))
    assert images.classes == list(CLASSES)
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [int(images[i].mean()) for i in range(6)] == [0, 1, 10, 11, 20, 21]
    assert images[0].shape == (8, 8, 3)
    assert pickle.loads(pickle.dumps(images)).read(5) == png(21)  # as a worker that is started anew gets it


def test_colours_are_blue_first(tmp_path: Path) -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 2] = 255  # OpenCV writes BGR
    (tmp_path / 'train/a').mkdir(parents=True)
    cv2.imwrite(str(tmp_path / 'train/a/1.png'), red)
    assert find(tmp_path, ('train',))[0][0, 0].tolist() == [0, 0, 255]


def test_processes_read_one_archive_at_a_time_without_mixing(tmp_path: Path) -> None:
    in_class_tars(tmp_path)
    images = find(tmp_path, ('train',))
    images.read(0)  # the file is open before the fork
    read, write = os.pipe()
    pids = []
    for _ in range(2):
        if (pid := os.fork()) == 0:
            good = all(images.read(i % 6) == png((0, 1, 10, 11, 20, 21)[i % 6]) for i in range(300))
            os.write(write, b'1' if good else b'0')
            os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    assert os.read(read, 2) == b'11'


def devkit(labels: list[int]) -> bytes:
    """The parts of ImageNet's development kit that are read: ids 1, 2, 3 are cat, ant, bee."""
    synsets = np.array(
        [((number), wnid) for number, wnid in ((1, 'cat'), (2, 'ant'), (3, 'bee'))],
        dtype=[('ILSVRC2012_ID', 'i4'), ('WNID', 'U9')],
    )
    mat = io.BytesIO()
    savemat(mat, {'synsets': synsets})
    text = '\n'.join(map(str, labels)).encode()
    folder = 'ILSVRC2012_devkit_t12/data'
    data = tar_of(
        {f'{folder}/meta.mat': mat.getvalue(), f'{folder}/ILSVRC2012_validation_ground_truth.txt': text}
    )
    return gzip.compress(data)


def test_imagenets_validation_archive_takes_its_classes_from_the_kit(tmp_path: Path) -> None:
    files = {f'ILSVRC2012_val_{i:08}.png': png(i) for i in (3, 1, 2)}
    (tmp_path / 'ILSVRC2012_img_val.tar').write_bytes(tar_of(files))
    with pytest.raises(UserError, match=f'put {DEVKIT} beside it'):
        find(tmp_path, ('val',))
    (tmp_path / DEVKIT).write_bytes(devkit([2, 1, 3]))
    assert read_devkit(tmp_path / DEVKIT) == ['ant', 'cat', 'bee']
    images = find(tmp_path, ('val',))
    found = {int(images[i].mean()): images.classes[images.labels[i]] for i in range(3)}
    assert found == {1: 'ant', 2: 'cat', 3: 'bee'}
    (tmp_path / DEVKIT).write_bytes(devkit([2, 1]))
    with pytest.raises(UserError, match=r'has the classes of 2 images, .* has 3'):
        find(tmp_path, ('val',))
    (tmp_path / DEVKIT).write_bytes(b'no tar')
    with pytest.raises(UserError, match='not a whole ImageNet development kit'):
        find(tmp_path, ('val',))


def broken_zip(root: Path) -> None:
    data = bytearray(zip_of(members()))
    at = data.index(png(0)) + 40
    data[at] ^= 255
    (root / 'train.zip').write_bytes(data)


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda r: None, r'has no images called train: there has to be a folder train/CLASS/FILE'),
        (lambda r: (r / 'train').mkdir(), r'train holds no image'),
        (lambda r: (r / 'train.tar').write_bytes(tar_of(members())[:700]), r'train\.tar: broken or cut'),
        (lambda r: (r / 'train.zip').write_bytes(zip_of(members())[:-30]), r'train\.zip: broken or cut'),
        (
            lambda r: (r / 'train.tar').write_bytes(gzip.compress(tar_of(members()))),
            r'train\.tar: it is compressed, so no image in it can be read alone; decompress it',
        ),
        (lambda r: (r / 'train.zip').write_bytes(zip_of({'1.png': png(0)})), r'lies in no class folder'),
        (broken_zip, r'ant/0\.png cannot be read .*get train\.zip anew'),
        (
            lambda r: (r / 'train.tar').write_bytes(tar_of({'ant/0.png': b'no image', 'b/0.png': png(1)})),
            r'train\.tar: ant/0\.png is no readable image; get it anew',
        ),
    ],
)
def test_what_is_damaged_or_missing_is_said_in_a_line(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path)
    with pytest.raises(UserError, match=message):
        find(tmp_path, ('train',))[0]


@pytest.mark.parametrize('cut', range(512, 6 * 1024 + 1, 512))
def test_a_tar_is_read_to_its_end_or_not_at_all(tmp_path: Path, cut: int) -> None:
    """Of six members of two blocks each: Python takes one that is cut between two members for whole."""
    (tmp_path / 'train.tar').write_bytes(tar_of(members())[:cut])
    with pytest.raises(UserError, match=r'train\.tar: broken or cut short \(unexpected end of data\)'):
        find(tmp_path, ('train',))


def test_what_a_mac_or_a_notebook_leaves_is_no_image(tmp_path: Path) -> None:
    for name in ('ant/._0.png', '__MACOSX/ant/0.png', '.ipynb_checkpoints/0.png'):
        (tmp_path / 'train' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'train' / name).write_bytes(b'no image')
    in_folder(tmp_path)
    assert find(tmp_path, ('train',)).labels.tolist() == [0, 0, 1, 1, 2, 2]
    (tmp_path / 'zip').mkdir()
    (tmp_path / 'zip/train.zip').write_bytes(zip_of(members() | {'__MACOSX/ant/._0.png': b'no image'}))
    assert find(tmp_path / 'zip', ('train',)).labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_classes_that_are_linked_to_are_read_and_loops_are_not(tmp_path: Path) -> None:
    in_folder(tmp_path)
    (tmp_path / 'train/bee').rename(tmp_path / 'elsewhere')
    (tmp_path / 'train/bee').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'train/ant/loop').symlink_to(tmp_path / 'train')
    images = find(tmp_path, ('train',))
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [int(images[i].mean()) for i in range(6)] == [0, 1, 10, 11, 20, 21]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    in_folder(tmp_path)
    (tmp_path / 'train/ant' / os.fsdecode(b'\xff.png')).write_bytes(png(2))
    images = find(tmp_path, ('train',))
    assert [int(images[i].mean()) for i in range(3)] == [0, 1, 2]
    (tmp_path / 'train' / '\x1b[31m').mkdir()
    (tmp_path / 'train' / '\x1b[31m' / '0.png').write_bytes(png(3))
    with pytest.raises(UserError, match=r"class '\\x1b\[31m': its name is no printable text"):
        find(tmp_path, ('train',))


def test_one_class_is_none(tmp_path: Path) -> None:
    for name, data in members().items():
        path = tmp_path / 'train' / name.replace('/', '/images/')
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    with pytest.raises(UserError, match=r"train: its images lie in one folder, 'images'; a folder a class"):
        load('folder', str(tmp_path), 'train')


def test_an_image_that_claims_too_many_pixels(tmp_path: Path) -> None:
    in_folder(tmp_path)
    head = b'\x89PNG\r\n\x1a\n\0\0\0\rIHDR' + struct.pack('>II', 60_000, 60_000) + b'\x08\x02\0\0\0'
    (tmp_path / 'train/ant/0.png').write_bytes(head + bytes(400))
    with pytest.raises(UserError, match=r'ant/0\.png is no readable image'):
        find(tmp_path, ('train',))[0]


# The authors' files

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
    grey = RNG.integers(0, 256, (3, 28, 28), np.uint8)
    for prefix in ('train', 't10k'):
        (tmp_path / f'{prefix}-images-idx3-ubyte.gz').write_bytes(gzip.compress(ubyte(grey)))
        (tmp_path / f'{prefix}-labels-idx1-ubyte').write_bytes(ubyte(np.array([7, 0, 9], np.uint8)))
    samples = load('mnist', str(tmp_path), 'test')
    assert samples.labels.tolist() == [7, 0, 9]
    assert all((samples[i] == grey[i][..., None]).all() for i in range(3))


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
        ('cifar10', 'cifar-10-python.tar.gz', r'cifar-10-python\.tar\.gz: broken or cut short'),
        ('cifar10', 'test_batch.bin', r'4 bytes are no whole number of 3073-byte images'),
        ('svhn', 'test_32x32.mat', r'test_32x32\.mat is no whole SVHN file'),
    ],
)
def test_the_authors_files_damaged(tmp_path: Path, name: str, file: str, message: str) -> None:
    (tmp_path / file).write_bytes(b'1234')
    with pytest.raises(UserError, match=message):
        load(name, str(tmp_path), 'test')


@pytest.mark.parametrize('name', classification.SETS)
def test_an_absent_folder_says_what_to_put_where(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r'no such folder; put .* there .*--data-root DIR'):
        load(name, str(tmp_path / 'none'), 'train')
    with pytest.raises(UserError, match='has no images called train'):
        load(name, str(tmp_path), 'train')


def test_the_tables_agree() -> None:
    from bench.pretraining_options import DATA_SETS

    assert tuple(classification.SETS) == DATA_SETS
    assert READERS.keys() <= classification.SETS.keys()


# Samples


def small_cifar(root: Path, per_class: int = 3) -> Path:
    """CIFAR-10 as zips of class/file, with few images."""
    from bench.classification_arrays import CIFAR10

    files = {f'{n}/{i}.png': png(10 * c + i, 32) for c, n in enumerate(CIFAR10) for i in range(per_class)}
    for split in ('train', 'test'):
        (root / f'cifar10_{split}.zip').write_bytes(zip_of(files))
    return root


def test_a_held_out_part_is_the_same_whatever_the_seed_and_apart_from_train(tmp_path: Path) -> None:
    root = str(small_cifar(tmp_path))
    parts = {s: ClassificationSet('cifar10', root, s, hold_out=7) for s in ('train', 'val', 'test')}
    assert {s: len(part) for s, part in parts.items()} == {'train': 23, 'val': 7, 'test': 30}
    train, val = ([sample['sample_idx'] for sample in parts[s]] for s in ('train', 'val'))
    assert sorted(train + val) == list(range(30))
    again = ClassificationSet('cifar10', root, 'val', hold_out=7)
    assert [sample['sample_idx'] for sample in again] == val
    sample = parts['val'][0]
    assert int(sample['img'].mean()) == 10 * sample['gt_label'] + sample['sample_idx'] % 3
    with pytest.raises(UserError, match='hold out from 1 to 29 images, not 30'):
        ClassificationSet('cifar10', root, 'train', hold_out=30)


def test_sets_that_do_not_fit(tmp_path: Path) -> None:
    in_folder(tmp_path)
    with pytest.raises(
        UserError, match=r'3 classes, ImageNet .* has 1000; for a part of it or a set of your'
    ):
        load('imagenet', str(tmp_path), 'train')
    with pytest.raises(UserError, match=r'ant/0\.png has 8x8 pixels, the images of this set have 32x32'):
        load('cifar100', str(tmp_path), 'train')
    (tmp_path / 'test/dog').mkdir(parents=True)
    (tmp_path / 'test/dog/1.png').write_bytes(png(1))
    with pytest.raises(UserError, match='train and test have not the same classes: ant, bee, cat, dog'):
        ClassificationSet('folder', str(tmp_path), 'test')


def test_reading_imports_nothing_that_a_file_names(tmp_path: Path) -> None:
    """In a process of its own: a pickle that names a module does not even import it."""
    (tmp_path / 'evil.py').write_text("raise SystemExit('imported')")
    (tmp_path / 'test_batch').write_bytes(b'cevil\nx\n.')
    code = f'from bench.classification import load; load("cifar10", {str(tmp_path)!r}, "test")'
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert 'contains code (evil.x), which was not executed' in done.stderr
    assert 'imported' not in done.stderr


@pytest.mark.shared
def test_the_real_cifar10(shared: Path) -> None:
    samples = load('cifar10', str(shared / 'data/cifar10'), 'test')
    assert len(samples) == 10_000
    assert np.bincount(samples.labels).tolist() == [1000] * 10
    assert samples.classes[3] == 'cat'
