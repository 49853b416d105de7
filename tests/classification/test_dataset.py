"""Classification sets in folders and archives: every form they come in, and what is said of damage."""

import gzip
import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from scipy.io import savemat

from compactdet.classification import dataset
from compactdet.classification.archives import find
from compactdet.classification.arrays import READERS
from compactdet.classification.dataset import ClassificationSet, load
from compactdet.classification.devkit import DEVKIT, read_devkit
from compactdet.errors import UserError
from compactdet.weights.verify import find_images

from classification_sets import CLASSES, members, png, tar_of, zip_of


@pytest.fixture(autouse=True)
def nothing_is_cached() -> None:
    load.cache_clear()


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
    assert pickle.loads(pickle.dumps(images)).read(5) == png(
        21
    )  # as a worker that is started again gets it


def test_colors_are_blue_first(tmp_path: Path) -> None:
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
        (
            lambda r: (r / 'train.tar').write_bytes(tar_of(members())[:700]),
            r'train\.tar: broken or truncated',
        ),
        (
            lambda r: (r / 'train.zip').write_bytes(zip_of(members())[:-30]),
            r'train\.zip: broken or truncated',
        ),
        (
            lambda r: (r / 'train.tar').write_bytes(gzip.compress(tar_of(members()))),
            r'train\.tar: it is compressed, so no image in it can be read alone; decompress it',
        ),
        (lambda r: (r / 'train.zip').write_bytes(zip_of({'1.png': png(0)})), r'lies in no class folder'),
        (broken_zip, r'ant/0\.png cannot be read .*get train\.zip again'),
        (
            lambda r: (r / 'train.tar').write_bytes(tar_of({'ant/0.png': b'no image', 'b/0.png': png(1)})),
            r'train\.tar: ant/0\.png is no readable image; get it again',
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
    with pytest.raises(UserError, match=r'train\.tar: broken or truncated \(unexpected end of data\)'):
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
        path = tmp_path / 'train/images' / name
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


# Sets and their samples


@pytest.mark.parametrize('name', dataset.SETS)
def test_an_absent_folder_says_what_to_put_where(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r'no such folder; put .* there .*--data-root DIR'):
        load(name, str(tmp_path / 'none'), 'train')
    with pytest.raises(UserError, match='has no images called train'):
        load(name, str(tmp_path), 'train')


def test_the_tables_agree() -> None:
    from compactdet.pretraining.choice import DATA_SETS

    assert tuple(dataset.SETS) == DATA_SETS
    assert READERS.keys() <= dataset.SETS.keys()


def small_cifar(root: Path, per_class: int = 3) -> Path:
    """CIFAR-10 as zips of class/file, with few images."""
    from compactdet.classification.arrays import CIFAR10

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


@pytest.mark.shared
def test_the_real_cifar10(shared: Path) -> None:
    samples = load('cifar10', str(shared / 'data/cifar10'), 'test')
    assert len(samples) == 10_000
    assert np.bincount(samples.labels).tolist() == [1000] * 10
    assert samples.classes[3] == 'cat'


def test_the_class_is_the_first_folder(tmp_path: Path) -> None:
    """In training and in `weights.py verify`; in archives it is the first below what all images share."""
    nested = {'red/apple/0.png': png(1), 'red/pepper/0.png': png(2), 'green/apple/0.png': png(3)}
    for name, data in nested.items():
        path = tmp_path / 'set/train' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / 'packed').mkdir()
    (tmp_path / 'packed/train.zip').write_bytes(zip_of({f'a/train/{k}': v for k, v in nested.items()}))
    for root in ('set', 'packed'):
        samples = load('folder', str(tmp_path / root), 'train')
        assert samples.classes == ['green', 'red']
        assert sorted(zip((int(image[0, 0, 0]) for image in samples), samples.labels, strict=True)) == [
            (1, 1), (2, 1), (3, 0)
        ]  # fmt: skip
    assert [number for _, number in find_images(tmp_path / 'set/train')] == [0, 1, 1]


def test_tiny_imagenets_layout(tmp_path: Path) -> None:
    files = {f'train/n0{i}/images/n0{i}_{j}.png': png(10 * i + j) for i in range(2) for j in range(2)}
    files |= {
        'val/images/val_0.png': png(40),
        'val/images/val_1.png': png(50),
        'test/images/a.png': png(60),
    }
    for name, data in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    labels = tmp_path / 'val/val_annotations.txt'
    labels.write_text('val_0.png\tn01\t0\t0\t7\t7\nval_1.png\tn00\t0\t0\t7\t7\n')
    assert load('folder', str(tmp_path), 'train').classes == ['n00', 'n01']
    test = load('folder', str(tmp_path), 'test')
    found = {
        int(image[0, 0, 0]): test.classes[label] for image, label in zip(test, test.labels, strict=True)
    }
    assert found == {40: 'n01', 50: 'n00'}
    load.cache_clear()
    labels.write_text('val_0.png\tn01\n')
    with pytest.raises(UserError, match=r'val_1\.png is not in .*val_annotations\.txt'):
        load('folder', str(tmp_path), 'test')


def test_endings_that_are_not_read_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, data in {'train/a/0.png': png(1), 'train/b/0.png': png(2), 'train/b/1.heic': b'x'}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)
    encoded = cv2.imencode('.tif', np.full((8, 8, 3), 7, np.uint8))[1].tobytes()
    (tmp_path / 'train/a/1.tif').write_bytes(encoded)
    samples = load('folder', str(tmp_path), 'train')
    assert [int(image[0, 0, 0]) for image in samples] == [1, 7, 2]
    assert '1 images are left out, such as b/1.heic' in capsys.readouterr().err
