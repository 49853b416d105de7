"""Find images of the validation and test splits that are also training images.

Two images are the same if they are one file, or if their decoded pixels are equal, as after a copy under
another name or a conversion to a format without loss.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from compactdet.errors import UserError


@dataclass(frozen=True)
class Leak:
    """An image of an evaluation split that is also a training image.

    Attributes:
        image: Its file.
        train_image: The file of the training image.
    """

    image: Path
    train_image: Path

    @property
    def same(self) -> str:
        """'file', or 'pixels' of two files."""
        return 'file' if self.image.samefile(self.train_image) else 'pixels'


def pixels_digest(path: str | Path) -> bytes | None:
    """Return a hash of the pixels of an image as stored, in BGR; None if it cannot be decoded."""
    try:
        pixels = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # more pixels than OpenCV decodes
        return None
    if pixels is None:
        return None
    return hashlib.blake2b(pixels.tobytes() + repr(pixels.shape).encode(), digest_size=16).digest()


def find_leaks(splits: Mapping[str, Iterable[Mapping[str, Any]]]) -> dict[str, list[Leak]]:
    """Return the images of each split other than 'train' that are also training images.

    Only images of a size that occurs in 'train' and in another split are decoded, in threads.

    Args:
        splits: Entries of the data sets by split, with ``img_path``, ``width`` and ``height``.
    """
    files = {
        name: {Path(e['img_path']): (e['width'], e['height']) for e in splits[name]} for name in splits
    }
    train = files.pop('train')
    shared = set(train.values()) & {size for split in files.values() for size in split.values()}
    wanted = {path for split in (train, *files.values()) for path, size in split.items() if size in shared}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ordered = sorted(wanted)
        digests = dict(zip(ordered, pool.map(pixels_digest, ordered), strict=True))
    seen = {digest: path for path in train if (digest := digests.get(path))}
    return {
        name: [
            Leak(path, path if path in train else seen[digest])
            for path in split
            if (digest := digests.get(path)) in seen
        ]
        for name, split in files.items()
    }


def check_leaks(leaks: Mapping[str, Sequence[Leak]]) -> None:
    """Raise UserError if an evaluation image is also a training image.

    Raises:
        UserError: The message states the number of images and the first one.
    """
    found = {name: split for name, split in leaks.items() if split}
    for name, split in found.items():
        first = split[0]
        what = 'is' if first.same == 'file' else 'has the same pixels as'
        raise UserError(
            f'{len(split)} images of the split {name} are also training images: {first.image} {what} '
            f'{"a training image" if first.same == "file" else first.train_image}; take them out of one '
            'split, or train nevertheless with --cfg-options allow_leaks=True, which the record states'
        )
