"""Small labeled images in the files of their authors: CIFAR-10, CIFAR-100, SVHN, MNIST.

Each reader takes a folder and a split and returns ``Arrays``, or None if the folder has no such files.
Pickles are read by a reader that allows only arrays and plain containers; nothing in them is executed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from compactdet.data.archives import BROKEN
from compactdet.errors import UserError

DIGITS = [str(digit) for digit in range(10)]
CIFAR10 = ['airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse', 'ship', 'truck']


@dataclass
class Arrays:
    """Decoded images in memory.

    Attributes:
        images: (N, H, W, 3), 8 bits, BGR.
        labels: (N,), indices into ``classes``.
        classes: Names.
        source: Names of the files.
        sha256: Hash of all pixels and labels.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: list[str]
    source: str
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.images.tobytes())
        digest.update(self.labels.astype('<i8').tobytes())
        self.sha256 = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> np.ndarray:
        """(H, W, 3)."""
        return self.images[index]


def arrays(rgb: np.ndarray, labels: Any, classes: list[str], path: Path) -> Arrays:
    """Check the content of a file and return it as ``Arrays``.

    Args:
        rgb: (N, H, W, 3).
        labels: N numbers.
        classes: Names.
        path: The file, for messages.

    Raises:
        UserError: Shapes, types or labels are not those of labeled images.
    """
    numbers = np.asarray(labels)
    fits = rgb.dtype == np.uint8 and numbers.dtype.kind in 'iu' and numbers.shape == (len(rgb),)
    if not fits or not len(rgb) or numbers.min() < 0 or numbers.max() >= len(classes):
        raise UserError(
            f'{path}: {rgb.dtype} images {rgb.shape} with {numbers.dtype} labels {numbers.shape} are not '
            f'8-bit images of {len(classes)} classes; get the file again'
        )
    return Arrays(np.ascontiguousarray(rgb[..., ::-1]), numbers.astype(np.int64), classes, path.name)


def _latin1(text: str, encoding: str) -> bytes:
    """Restore bytes in an old pickle; called by Python 3."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'bytes in {encoding!r}')
    return text.encode('latin1')


# Names that a pickle may contain besides plain values, of NumPy 1 and 2.
_RECONSTRUCT = np.zeros(1).__reduce__()[0]
_KNOWN = {
    ('_codecs', 'encode'): _latin1,
    ('numpy', 'ndarray'): np.ndarray,
    ('numpy', 'dtype'): np.dtype,
    ('numpy.core.multiarray', '_reconstruct'): _RECONSTRUCT,
    ('numpy._core.multiarray', '_reconstruct'): _RECONSTRUCT,
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return _KNOWN[module, name]
        except KeyError:
            raise UserError(f'contains code ({module}.{name}), which was not executed') from None


def unpickled(data: bytes, path: Path) -> dict[str, Any]:
    """Read a pickled dict of arrays and plain values, with its keys as text.

    Raises:
        UserError: It is damaged, or contains code.
    """
    try:
        content = _ArrayUnpickler(io.BytesIO(data), encoding='bytes').load()
        return {k.decode() if isinstance(k, bytes) else str(k): v for k, v in content.items()}
    except UserError as error:
        raise UserError(f'{path} {error}; get it from another source') from None
    except Exception as error:  # a damaged file may fail anywhere in the reader
        raise UserError(f'{path} is damaged ({type(error).__name__}); get it again') from error


def _members(root: Path, archive: str, folder: str, names: list[str]) -> tuple[Path, list[bytes]] | None:
    """Return files of the official archive, packed or unpacked."""
    place = root / archive
    if not place.is_file():
        place = root / folder if (root / folder).is_dir() else root
        if not all((place / name).is_file() for name in names):
            return None
        return place, [_bytes(place / name) for name in names]
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(place, 'r:*') as tar:
            for member in tar:
                name = PurePosixPath(member.name).name
                if member.isreg() and name in names and (file := tar.extractfile(member)):
                    found[name] = file.read()
    except BROKEN as error:
        raise UserError(f'{place}: broken or truncated ({error}); get it again') from error
    except OSError as error:
        raise UserError(f'{place}: cannot be read ({error.strerror or error})') from error
    missing = [name for name in names if name not in found]
    if missing:
        raise UserError(f'{place} has no {missing[0]} in it: another archive? Get it again')
    return place, [found[name] for name in names]


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b'\x1f\x8b' else data
    except (OSError, EOFError, *BROKEN) as error:
        raise UserError(f'{path}: cannot be read, or is truncated ({error}); get it again') from error


def _planes(flat: np.ndarray, size: int) -> np.ndarray:
    """Convert (N, 3 * size * size), color after color, to (N, size, size, 3)."""
    return flat.reshape(-1, 3, size, size).transpose(0, 2, 3, 1)


def cifar10(root: Path, split: str) -> Arrays | None:
    """Read ``cifar-10-python.tar.gz`` or ``cifar-10-binary.tar.gz``, or their content."""
    batches = [f'data_batch_{i}' for i in range(1, 6)] if split == 'train' else ['test_batch']
    if found := _members(root, 'cifar-10-python.tar.gz', 'cifar-10-batches-py', batches):
        return _pickles(*found, 'labels', CIFAR10)
    names = [f'{name}.bin' for name in batches]
    if found := _members(root, 'cifar-10-binary.tar.gz', 'cifar-10-batches-bin', names):
        return _records(*found, 1, CIFAR10)
    return None


def cifar100(root: Path, split: str) -> Arrays | None:
    """Read ``cifar-100-python.tar.gz`` or ``cifar-100-binary.tar.gz``, or their content; 100 classes."""
    if found := _members(root, 'cifar-100-python.tar.gz', 'cifar-100-python', [split, 'meta']):
        place, (data, meta) = found
        names = unpickled(meta, place).get('fine_label_names')
        return _pickles(place, [data], 'fine_labels', _texts(names, place))
    names = [f'{split}.bin', 'fine_label_names.txt']
    if found := _members(root, 'cifar-100-binary.tar.gz', 'cifar-100-binary', names):
        place, (data, text) = found
        return _records(place, [data], 2, _texts(text.split(), place))
    return None


def _texts(names: Any, place: Path) -> list[str]:
    if not isinstance(names, list) or not all(isinstance(name, bytes | str) for name in names):
        raise UserError(f'{place} names no classes; get it again')
    return [name.decode(errors='replace') if isinstance(name, bytes) else name for name in names]


def _pickles(place: Path, batches: list[bytes], key: str, classes: list[str]) -> Arrays:
    pixels: list[np.ndarray] = []
    labels: list[Any] = []
    for batch in batches:
        content = unpickled(batch, place)
        data: Any = content.get('data')
        numbers: Any = content.get(key)
        fits = isinstance(data, np.ndarray) and data.dtype == np.uint8 and data.shape[1:] == (3072,)
        fits = fits and isinstance(numbers, list) and all(isinstance(number, int) for number in numbers)
        if not fits or len(numbers) != len(data):
            raise UserError(f'{place}: a batch has no data (N, 3072) with N {key}; get it again')
        pixels.append(data)
        labels += numbers
    return arrays(_planes(np.concatenate(pixels), 32), labels, classes, place)


def _records(place: Path, batches: list[bytes], num_labels: int, classes: list[str]) -> Arrays:
    length = num_labels + 3072
    data = b''.join(batches)
    if not data or len(data) % length:
        raise UserError(
            f'{place}: {len(data)} bytes are no whole number of {length}-byte images; get it again'
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, length)
    return arrays(_planes(rows[:, num_labels:], 32), rows[:, num_labels - 1], classes, place)


def svhn(root: Path, split: str) -> Arrays | None:
    """Read ``train_32x32.mat`` and ``test_32x32.mat``; their class 10 is the digit 0."""
    from scipy.io import loadmat  # here: the other data sets do without SciPy

    path = root / f'{split}_32x32.mat'
    if not path.is_file():
        return None
    try:
        content = loadmat(path, variable_names=['X', 'y'])
        images, labels = content['X'], content['y'].ravel()
        labels = np.where(labels == 10, 0, labels)
        return arrays(images.transpose(3, 0, 1, 2), labels, DIGITS, path)
    except UserError:
        raise
    except Exception as error:  # scipy's reader has no specific error class
        raise UserError(f'{path} is no whole SVHN file ({type(error).__name__}); get it again') from error


def mnist(root: Path, split: str) -> Arrays | None:
    """Read the four ``*-ubyte`` files, gzipped or not; a gray image becomes three equal channels."""
    prefix = 'train' if split == 'train' else 't10k'
    parts = []
    for kind, dims in (('images', 3), ('labels', 1)):
        names = [f'{prefix}-{kind}{dot}idx{dims}-ubyte{gz}' for dot in '-.' for gz in ('.gz', '')]
        path = next((root / name for name in names if (root / name).is_file()), None)
        if path is None:
            return None
        parts.append(idx(_bytes(path), path, dims))
    return arrays(np.repeat(parts[0][..., None], 3, axis=3), parts[1], DIGITS, root / f'{prefix}-images')


def idx(data: bytes, path: Path, dims: int) -> np.ndarray:
    """Read an array in MNIST's format: two zeros, type 8, number of dimensions, sizes, bytes.

    Raises:
        UserError: It is not such an array, or truncated.
    """
    start = 4 + 4 * dims
    if len(data) >= start and data[:4] == bytes([0, 0, 8, dims]):
        shape = struct.unpack(f'>{dims}I', data[4:start])
        if np.prod(shape, dtype=object) == len(data) - start:
            return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
    raise UserError(f'{path} is no whole file of {dims}-dimensional bytes in the IDX format; get it again')


READERS: dict[str, Callable[[Path, str], Arrays | None]] = {
    'cifar10': cifar10,
    'cifar100': cifar100,
    'svhn': svhn,
    'mnist': mnist,
}
