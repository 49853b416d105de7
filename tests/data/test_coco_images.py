"""The folder of a split's images in COCO format."""

from pathlib import Path

import pytest

from compactdet.data.coco_images import find_images
from compactdet.errors import UserError


@pytest.mark.parametrize(
    ('file', 'place', 'name'),
    [
        ('annotations/train.json', 'train', 'a.jpg'),
        ('annotations/instances_train.json', 'images/train', 'a.png'),
        ('annotations/train.json', 'images', 'b/a.jpg'),
        ('annotations/train.json', '', 'train/a.jpg'),
        ('train/_annotations.coco.json', 'train', 'a.jpg'),
        ('train.json', 'pictures', 'a.jpg'),
        ('annotations/instances_train2017.json', 'val2014', 'COCO_val2014_000000000001.jpg'),
    ],
)
def test_images_are_found(tmp_path: Path, file: str, place: str, name: str) -> None:
    for path in (tmp_path / place / name, tmp_path / 'val' / name, tmp_path / file):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert find_images(tmp_path, tmp_path / file, [name, name]) == [tmp_path / place / name] * 2


def test_an_image_is_not_taken_from_another_split(tmp_path: Path) -> None:
    for name in ('train/1.jpg', 'train/2.jpg', 'val/1.jpg', 'val/3.jpg', 'annotations/train.json'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_images(tmp_path, tmp_path / 'annotations/train.json', ['1.jpg', '2.jpg', '3.jpg'])
    assert found == [tmp_path / 'train' / name for name in ('1.jpg', '2.jpg', '3.jpg')]


def touch(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


NUMBERED = '000000000001.jpg'


@pytest.mark.parametrize(
    ('file', 'folder', 'other', 'name'),
    [
        ('annotations/val.json', 'val_images', 'train_images', '1.jpg'),
        ('annotations/val_annotations.json', 'images/val', 'images/train', '1.jpg'),
        ('val.json', 'images/valid', 'images/train', '1.jpg'),
        ('annotations/instances_val2017.json', 'val2017', 'train2017', NUMBERED),
        ('annotations/instances_val2017.json', 'images/val2017', 'images/train2017', NUMBERED),
        ('annotations/val.json', 'val2017', 'train2017', NUMBERED),
        ('annotations/test.json', 'test/images', 'train/images', '1.jpg'),
        ('labels/annotations_test.json', 'images/testing', 'images/training', '1.jpg'),
        ('annotations/validation.json', 'ValImages', 'TrainImages', '1.jpg'),
        ('annotations/trainval.json', 'trainval', 'train', '1.jpg'),
        ('annotations/default.json', 'images', 'train', '1.jpg'),
    ],
)
def test_splits_share_file_names(tmp_path: Path, file: str, folder: str, other: str, name: str) -> None:
    touch(tmp_path, file, f'{folder}/{name}', f'{other}/{name}', f'{other}/2.jpg')
    assert find_images(tmp_path, tmp_path / file, [name]) == [tmp_path / folder / name]


def test_missing_images_are_not_taken_from_the_folder_of_another_split(tmp_path: Path) -> None:
    names = ['1.jpg', '2.jpg']
    touch(tmp_path, 'val_images/1.jpg', *(f'train_images/{name}' for name in names))
    found = find_images(tmp_path, tmp_path / 'annotations/val.json', names)
    assert found == [tmp_path / 'val_images' / name for name in names]
    names = [f'{number:012}.jpg' for number in (1, 2)]
    touch(tmp_path, f'val2017/{names[0]}', *(f'train2017/{name}' for name in names))
    found = find_images(tmp_path, tmp_path / 'annotations/instances_val2017.json', names)
    assert found == [tmp_path / 'val2017' / name for name in names]


def test_several_folders_of_images_are_an_error(tmp_path: Path) -> None:
    touch(tmp_path, 'images/1.jpg', 'masks/1.jpg', 'train/1.jpg')
    with pytest.raises(
        UserError,
        match=r'val\.json: its images are in several folders \(images, masks\), and '
        r"none is named as the split 'val'; rename one folder to val, or write the folder into",
    ):
        find_images(tmp_path, tmp_path / 'annotations/val.json', ['1.jpg'])
    (tmp_path / 'masks/1.jpg').unlink()
    (tmp_path / 'masks').rmdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'images')  # the same folder
    assert find_images(tmp_path, tmp_path / 'annotations/val.json', ['1.jpg'])[0].samefile(
        tmp_path / 'images/1.jpg'
    )
