"""Labeled images in folders, zip files or tar files, read without unpacking.

An archive is indexed once; an image is then one read at an offset, which several processes may do at the
same time. Supported: a folder, a zip or a tar with ``CLASS/FILE``, tar shards of that form, a tar with one
tar per class (ImageNet's training archive), a tar without classes (its validation archive, with its
development kit beside it), and the layout of Tiny ImageNet.

The class is the first folder below the split, as in torchvision's ``ImageFolder``: that of
``red/apple/1.jpg`` is ``red``. In an archive, folders that all its images share are not counted.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import struct
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from compactdet.classification.devkit import DEVKIT, read_devkit
from compactdet.data.archives import BROKEN, check_end
from compactdet.errors import UserError

SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff', '.ppm', '.pgm'}
OTHER_SUFFIXES = {'.gif', '.heic', '.heif', '.avif', '.jp2', '.jxl', '.svg', '.dng', '.raw', '.npy', '.dcm'}
TINY_IMAGENET_LABELS = 'val_annotations.txt'  # in its folder val: lines of file, class and a box
ARCHIVES = ('.zip', '.tar')
LOCAL_HEADER = struct.Struct('<4s22xHH')  # of a zip's member: signature, lengths of name and extra field


@dataclass(frozen=True)
class Entry:
    """An encoded image.

    Attributes:
        store: Folder or archive.
        name: Path in it.
        label: Name of its class; None if the path does not contain it.
        size: Bytes in the store.
        offset: Offset of the data in a tar, of the local header in a zip.
        crc: Checksum of a zip member after unpacking; None elsewhere.
        deflated: Whether a zip member is compressed.
    """

    store: Path
    name: str
    label: str | None
    size: int
    offset: int = 0
    crc: int | None = None
    deflated: bool = False


def decode(data: bytes) -> np.ndarray | None:
    """Decode an image to (H, W, 3), 8 bits, BGR; None if that fails."""
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error:  # too many pixels
        return None


class Images:
    """Index and reader of encoded images with labels.

    Attributes:
        classes: Names, sorted; a label is an index into them.
        labels: (N,).
        source: Names of the folders and archives.
        sha256: Hash of the name, size and class of every image.
    """

    def __init__(self, entries: Sequence[Entry]):
        entries = sorted(entries, key=lambda e: (str(e.label), e.name))
        self._stores = sorted({e.store for e in entries})
        place = {store: i for i, store in enumerate(self._stores)}
        # Arrays instead of objects, so that all workers share a million entries.
        self._store = np.array([place[e.store] for e in entries], np.int32)
        self._names = np.array([os.fsencode(e.name) for e in entries])
        self._spans = np.array([(e.offset, e.size) for e in entries], np.int64)
        self._crcs = np.array([-1 if e.crc is None else e.crc for e in entries], np.int64)
        self._deflated = np.array([e.deflated for e in entries])
        self.classes = sorted({str(e.label) for e in entries})
        if odd := [name for name in self.classes if not name.isprintable()]:
            raise UserError(f'class {odd[0]!r}: its name is no printable text; give it another')
        number = {name: i for i, name in enumerate(self.classes)}
        self.labels = np.array([number[str(e.label)] for e in entries], np.int64)
        self.source = ', '.join(store.name for store in self._stores[:3])
        if len(self._stores) > 3:
            self.source += f', ... ({len(self._stores)} files)'
        lines = (f'{e.name}\t{e.size}\t{e.label}\n' for e in entries)
        self.sha256 = hashlib.sha256(os.fsencode(''.join(lines))).hexdigest()
        self._files: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {'_files': {}}  # each process opens its own files

    def __getitem__(self, index: int) -> np.ndarray:
        """(H, W, 3), 8 bits, BGR.

        Raises:
            UserError: The image cannot be read or decoded.
        """
        image = decode(self.read(index))
        if image is None:
            raise UserError(f'{self.where(index)} is no readable image; get it again')
        return image

    def where(self, index: int) -> str:
        """Return file and archive of an image, for messages."""
        store, name = self._stores[self._store[index]], os.fsdecode(self._names[index])
        return f'{store / name}' if store.is_dir() else f'{store}: {name}'

    def read(self, index: int) -> bytes:
        """Return the encoded bytes of an image.

        Raises:
            UserError: They cannot be read, or do not match the checksum.
        """
        number = int(self._store[index])
        store, name = self._stores[number], os.fsdecode(self._names[index])
        offset, size = map(int, self._spans[index])
        try:
            if store.is_dir():
                return (store / name).read_bytes()
            if number not in self._files:
                self._files[number] = os.open(store, os.O_RDONLY)
            file, crc = self._files[number], int(self._crcs[index])
            if crc >= 0:
                _, *lengths = LOCAL_HEADER.unpack(os.pread(file, LOCAL_HEADER.size, offset))
                offset += LOCAL_HEADER.size + sum(lengths)
            data = os.pread(file, size, offset)
            if crc >= 0:
                data = zlib.decompress(data, -zlib.MAX_WBITS) if self._deflated[index] else data
            if (crc >= 0 and zlib.crc32(data) != crc) or (crc < 0 and len(data) != size):
                raise zlib.error('its checksum or length is wrong')
        except (OSError, zlib.error, struct.error) as error:
            raise UserError(
                f'{self.where(index)} cannot be read ({error}); get {store.name} again'
            ) from error
        return data


def find(root: Path, names: Sequence[str]) -> Images:
    """Return the images of a split.

    Args:
        root: A folder, or one archive with one folder per split.
        names: Possible names of the split, such as ``('test', 'val')``.

    Raises:
        UserError: There is no such split, it is damaged, or an image has no class.
    """
    entries = _tiny_imagenet(root, names) or _with_classes(_entries(root, names))
    if any(entry.label is None for entry in entries):
        entries = _labelled(root, entries)
    return Images(entries)


def _entries(root: Path, names: Sequence[str]) -> list[Entry]:
    for name in names:
        folder = root / name
        if folder.is_dir():
            shards = sorted(p for p in folder.iterdir() if p.suffix in ARCHIVES)
            return _collect(shards or [folder], str(folder))
        if root.is_dir():
            files = [p for p in sorted(root.iterdir()) if p.suffix in ARCHIVES and name in _words(p.stem)]
            if files:
                return _collect(files, f'{root}/*{name}*')
    whole = [root] if root.is_file() else sorted(p for p in root.glob('*') if p.suffix in ARCHIVES)
    if len(whole) == 1:
        inside = list(_index(whole[0]))
        for name in names:
            if found := [e for e in inside if name in PurePosixPath(e.name).parts[:-1]]:
                return found
    wanted = ' or '.join(names)
    if not root.exists():
        raise UserError(f'{root}: no such folder; say where the images are: --data-root DIR')
    raise UserError(
        f'{root} has no images called {wanted}: there has to be a folder {names[0]}/CLASS/FILE, or a zip '
        f'or tar file with {names[0]} in its name and CLASS/FILE in it'
    )


def _tiny_imagenet(root: Path, names: Sequence[str]) -> list[Entry]:
    """Return the labeled test images of Tiny ImageNet, ``val/images/FILE``; none for another layout.

    Its images for training are an ordinary ``train/CLASS/images/FILE``; those of its folder test have no
    labels.

    Raises:
        UserError: The list of classes cannot be read or lacks an image.
    """
    folder = root / 'val'
    if 'val' not in names or not (folder / TINY_IMAGENET_LABELS).is_file():
        return []
    try:
        lines = (folder / TINY_IMAGENET_LABELS).read_text(encoding='utf-8').splitlines()
        labels = dict(line.split('\t')[:2] for line in lines if line.strip())
    except (OSError, ValueError) as error:
        raise UserError(f'{folder / TINY_IMAGENET_LABELS}: cannot be read ({error})') from error
    entries = []
    for entry in _collect([folder], str(folder)):
        name = PurePosixPath(entry.name).name
        if name not in labels:
            raise UserError(f'{folder / entry.name} is not in {folder / TINY_IMAGENET_LABELS}')
        entries.append(replace(entry, label=labels[name]))
    return entries


def _words(text: str) -> list[str]:
    return re.split(r'[^a-z0-9]+|(?<=[a-z])(?=\d)', text.lower())


def _collect(places: Sequence[Path], what: str) -> list[Entry]:
    entries = [entry for place in places for entry in _index(place)]
    if not entries:
        raise UserError(f'{what} holds no image ({", ".join(sorted(SUFFIXES))})')
    return entries


def is_hidden(name: str) -> bool:
    """Return True for files and folders that file managers and notebooks create."""
    return name == '__MACOSX' or (name.startswith('.') and name != '..')


def is_image(path: str) -> bool:
    """Return True if a path is that of an image and no part of it is hidden."""
    parts = PurePosixPath(path).parts
    return PurePosixPath(path).suffix.lower() in SUFFIXES and not any(map(is_hidden, parts))


def images_in(folder: Path) -> Iterator[str]:
    """Return the images in a folder as relative paths; links to folders are followed, except to itself.

    Images of endings that are not read are named in a note on stderr.

    Raises:
        OSError: A folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise error

    left_out = []
    for place, folders, files in os.walk(folder, onerror=refuse, followlinks=True):
        here = Path(place).resolve()
        folders[:] = sorted(name for name in folders if not here.is_relative_to((here / name).resolve()))
        for file in sorted(files):
            path = Path(place, file)
            name = path.relative_to(folder).as_posix()
            if is_image(name) and path.is_file():
                yield name
            elif path.suffix.lower() in OTHER_SUFFIXES and not is_hidden(file):
                left_out.append(name)
    if left_out:
        print(
            f'note: {folder}: {len(left_out)} images are left out, such as {left_out[0]}; convert them to '
            f'one of {", ".join(sorted(SUFFIXES))}',
            file=sys.stderr,
        )


def _index(place: Path) -> Iterator[Entry]:
    try:
        if place.is_dir():
            for name in images_in(place):
                yield Entry(place, name, None, (place / name).stat().st_size)
        else:
            yield from (_zip if zipfile.is_zipfile(place) else _tar)(place)
    except UserError:
        raise
    except BROKEN as error:
        with place.open('rb') as file:
            magic = file.read(4)
        if magic.startswith((b'\x1f\x8b', b'BZh', b'\xfd7zX', b'\x28\xb5\x2f\xfd')):
            hint = 'it is compressed, so no image in it can be read alone; decompress it, such as by gunzip'
        else:
            hint = f'broken or truncated ({error}); get it again'
        raise UserError(f'{place}: {hint}') from error
    except OSError as error:
        raise UserError(f'{place}: cannot be read ({error.strerror or error})') from error


def _with_classes(entries: Sequence[Entry]) -> list[Entry]:
    """Return entries with their classes: the first folder below those that all images of an archive share.

    Raises:
        UserError: An image in a folder lies in no class folder.
    """
    archived = {
        PurePosixPath(e.name).parts[:-1] for e in entries if e.label is None and not e.store.is_dir()
    }
    levels = zip(*archived, strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda names: len(set(names)) == 1, levels))
    labelled = []
    for entry in entries:
        parts = PurePosixPath(entry.name).parts[:-1]
        if entry.label is None and entry.store.is_dir() and not parts:
            place = entry.store / entry.name
            raise UserError(f'{place} lies in no class folder; move it to {entry.store}/CLASS/{entry.name}')
        start = 0 if entry.store.is_dir() else min(shared, len(parts) - 1)
        label = entry.label or (parts[start] if parts else None)
        labelled.append(replace(entry, label=label))
    return labelled


def _zip(path: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not is_image(info.filename) or info.is_dir():
                continue
            if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise UserError(
                    f'{path}: {info.filename} is encrypted or uses an unsupported method; '
                    'make the zip with `zip -0 -r`'
                )
            yield Entry(
                path, info.filename, None, info.compress_size, info.header_offset,
                info.CRC, info.compress_type == zipfile.ZIP_DEFLATED,
            )  # fmt: skip


def _tar(path: Path) -> Iterator[Entry]:
    with tarfile.open(path, 'r:') as archive:
        for member in archive:
            name = member.name.removeprefix('./')
            if member.isreg() and is_image(name):
                yield Entry(path, name, None, member.size, member.offset_data)
            elif member.isreg() and PurePosixPath(name).suffix.lower() == '.tar':
                yield from _inner_tar(path, archive, member, PurePosixPath(name).stem)
        check_end(archive)


def _inner_tar(path: Path, outer: tarfile.TarFile, member: tarfile.TarInfo, label: str) -> Iterator[Entry]:
    """Return the images of a class that is a tar of its own."""
    file = outer.extractfile(member)
    if file is None:
        raise tarfile.ReadError(f'{member.name} cannot be read')
    with tarfile.open(fileobj=file, mode='r:') as inner:
        for image in inner:
            if image.isreg() and is_image(image.name):
                name = f'{label}/{PurePosixPath(image.name).name}'
                yield Entry(path, name, label, image.size, member.offset_data + image.offset_data)
        check_end(inner)


def _labelled(root: Path, entries: Sequence[Entry]) -> list[Entry]:
    """Assign the classes of the development kit to ImageNet's validation images."""
    kit = (root if root.is_dir() else root.parent) / DEVKIT
    unlabelled = next(e for e in entries if e.label is None)
    if not kit.is_file():
        raise UserError(
            f'{unlabelled.store}: {unlabelled.name} lies in no class folder; for the official validation '
            f'archive put {DEVKIT} beside it, else pack it as CLASS/FILE'
        )
    classes = read_devkit(kit)
    if len(classes) != len(entries):
        raise UserError(
            f'{kit} has the classes of {len(classes)} images, {unlabelled.store} has {len(entries)}: '
            'is the archive whole?'
        )
    ordered = sorted(entries, key=lambda e: e.name)  # ILSVRC2012_val_00000001.JPEG and so on
    return [Entry(e.store, e.name, c, e.size, e.offset) for e, c in zip(ordered, classes, strict=True)]


def decoded(images: Images, size: int, progress: Callable[[int], None] = lambda done: None) -> np.ndarray:
    """Decode all images into memory: (N, size, size, 3), 8 bits, BGR.

    Raises:
        UserError: An image cannot be read or has another size.
    """
    array = np.empty((len(images), size, size, 3), np.uint8)
    for index in range(len(images)):
        image = images[index]
        if image.shape != array.shape[1:]:
            height, width = image.shape[:2]
            raise UserError(
                f'{images.where(index)} has {width}x{height} pixels, the images of this set have '
                f'{size}x{size}; for a set of your own: --dataset folder'
            )
        array[index] = image
        progress(index + 1)
    return array
