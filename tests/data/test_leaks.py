"""Images of an evaluation split that are also training images."""

import os
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from compactdet.data.leaks import check_leaks, find_leaks, pixels_digest
from compactdet.errors import UserError

from data_sets import picture


def entry(path: Path, size: tuple[int, int] = (40, 30)) -> dict[str, Any]:
    return {'img_path': str(path), 'width': size[0], 'height': size[1]}


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """Four different images: a and b to train on, c for val, d for test."""
    paths = {name: tmp_path / f'{name}.png' for name in 'abcd'}
    for seed, path in enumerate(paths.values()):
        picture(path, seed)
    return paths


def leaks(images: dict[str, Path]) -> dict[str, list[tuple[str, str, str]]]:
    splits = {'train': ('a', 'b'), 'val': ('c',), 'test': ('d',)}
    found = find_leaks({split: [entry(images[name]) for name in names] for split, names in splits.items()})
    return {
        name: [(leak.image.name, leak.train_image.name, leak.same) for leak in split]
        for name, split in found.items()
    }


def test_different_images_are_no_leak(images: dict[str, Path]) -> None:
    assert leaks(images) == {'val': [], 'test': []}
    check_leaks({'val': [], 'test': []})


def test_one_file(images: dict[str, Path]) -> None:
    assert leaks(images | {'d': images['a']}) == {'val': [], 'test': [('a.png', 'a.png', 'file')]}
    images['c'].unlink()
    os.link(images['b'], images['c'])
    assert leaks(images)['val'] == [('c.png', 'b.png', 'file')]
    images['c'].unlink()
    images['c'].symlink_to(images['b'])
    assert leaks(images)['val'] == [('c.png', 'b.png', 'file')]


def test_the_same_pixels_in_another_file(images: dict[str, Path]) -> None:
    shutil.copy(images['a'], images['c'])
    with Image.open(images['b']) as image:
        image.save(images['d'].with_suffix('.bmp'))
    images['d'] = images['d'].with_suffix('.bmp')
    assert leaks(images) == {'val': [('c.png', 'a.png', 'pixels')], 'test': [('d.bmp', 'b.png', 'pixels')]}
    pixels = cv2.imread(str(images['a']))
    pixels[0, 0, 0] ^= 1  # one pixel
    cv2.imwrite(str(images['c']), pixels)
    assert leaks(images)['val'] == []


def test_pixels_of_one_sequence_of_bytes_in_another_shape_differ(tmp_path: Path) -> None:
    zeros = np.zeros((2, 3, 3), np.uint8)
    cv2.imwrite(str(tmp_path / 'wide.png'), zeros)
    cv2.imwrite(str(tmp_path / 'high.png'), zeros.transpose(1, 0, 2))
    assert pixels_digest(tmp_path / 'wide.png') != pixels_digest(tmp_path / 'high.png')
    (tmp_path / 'bad.png').write_bytes(b'no image')
    assert pixels_digest(tmp_path / 'bad.png') is None


def test_only_images_of_sizes_in_both_splits_are_decoded(
    images: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    monkeypatch.setattr('compactdet.data.leaks.pixels_digest', lambda path: decoded.append(path.name))
    train = [entry(images['a']), entry(images['b'], (41, 30))]
    find_leaks({'train': train, 'test': [entry(images['d'])]})
    assert sorted(decoded) == ['a.png', 'd.png']


def test_the_error_names_split_image_and_option(images: dict[str, Path]) -> None:
    found = find_leaks({'train': [entry(images['a'])], 'test': [entry(images['a'])]})
    with pytest.raises(
        UserError,
        match=r'^1 images of the split test are also training images: .*a\.png is '
        r'a training image; take them out .* --cfg-options allow_leaks=True',
    ):
        check_leaks(found)
    shutil.copy(images['a'], images['d'])
    found = find_leaks({'train': [entry(images['a'])], 'test': [entry(images['d'])]})
    with pytest.raises(UserError, match=r'd\.png has the same pixels as .*a\.png; take'):
        check_leaks(found)
