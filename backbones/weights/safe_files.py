"""Load untrusted PyTorch files without executing code."""

from __future__ import annotations

import hashlib
import re
import stat
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer


class WeightsError(ValueError):
    """A weights file that cannot be used. The message states which, why and what to do."""


def file_sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open('rb') as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def check_file(path: str | Path) -> None:
    """Check that a file can be read to its end, unlike pipes and devices, and holds what was downloaded.

    Raises:
        WeightsError: It cannot be read, is missing, or is a web page or a Git LFS pointer.
    """
    try:
        mode = Path(path).stat().st_mode
    except OSError as error:
        raise WeightsError(f'cannot read {path}: {error.strerror or error}') from error
    if not stat.S_ISREG(mode):
        raise WeightsError(f'cannot read {path}: it is a folder, a pipe or a device, no file')
    try:
        with Path(path).open('rb') as file:
            head = file.read(512)
    except OSError as error:
        raise WeightsError(f'cannot read {path}: {error.strerror or error}') from error
    if re.match(rb'\s*(<!doctype html|<html|<\?xml)', head, re.IGNORECASE):
        raise WeightsError(
            f'{path} is a web page, not weights: its address needs a log-in or a confirmation; download '
            'the file in a browser'
        )
    if head.startswith(b'version https://git-lfs.github.com/spec/'):
        raise WeightsError(
            f'{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its repository'
        )


def _history_method(owner: object, name: str) -> object:
    """Return the method for ``getattr`` in a checkpoint: MMEngine's logs name their statistics by it."""
    if owner is HistoryBuffer and name in ('min', 'max', 'current', 'mean'):
        return getattr(HistoryBuffer, name)
    raise WeightsError(f'builtins.getattr of {name!r}')


class Inert:
    """A value in a checkpoint whose class is not loaded: it keeps nothing and does nothing."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# Classes of values that training programs store beside the weights: options, paths and times. Each is read
# as an `Inert` object.
_INERT = (
    'argparse.Namespace',
    *(f'pathlib{module}.{kind}' for module in ('', '._local') for kind in (
        'Path', 'PosixPath', 'WindowsPath', 'PurePath', 'PurePosixPath', 'PureWindowsPath',
    )),
    *(f'datetime.{kind}' for kind in ('datetime', 'date', 'time', 'timedelta', 'timezone')),
)  # fmt: skip

# Names that files of MMEngine's runner need besides tensors, of NumPy 1 and 2.
_NUMPY = {'_reconstruct': np.zeros(1).__reduce__()[0], 'scalar': np.float64().__reduce__()[0]}
_SAFE_GLOBALS: list[Any] = [
    HistoryBuffer,
    (_history_method, 'builtins.getattr'),
    Counter,
    np.ndarray,
    np.dtype,
    *((f, f'numpy.{core}.multiarray.{name}') for name, f in _NUMPY.items() for core in ('core', '_core')),
    *((Inert, name) for name in _INERT),
    *{type(np.dtype(code)) for code in ('f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'bool')},
]


def load_pickle_safely(path: str | Path) -> Any:
    """Read a PyTorch file onto the CPU without executing code.

    Tensors, plain containers and the objects in checkpoints of MMEngine's runner are allowed.

    Raises:
        WeightsError: The file is missing, truncated, not a PyTorch file, or contains other code.
    """
    check_file(path)
    try:
        _check_kind(Path(path))
    except (OSError, zipfile.BadZipFile) as error:
        raise WeightsError(f'cannot read {path}: {getattr(error, "strerror", None) or error}') from error
    try:
        with torch.serialization.safe_globals(_SAFE_GLOBALS):
            return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # a damaged file may fail anywhere in the reader
        asked = re.search(r'GLOBAL ([\w.]+)|unrecognized function (.+)|(builtins\.getattr.*)', str(error))
        if asked:
            name = next(filter(None, asked.groups()))
            message = f'{path} contains code ({name}), which was not executed; get it from another source'
        else:
            text = str(error)  # PyTorch's message has advice before the reason and links after it
            lines = (text.partition('WeightsUnpickler error: ')[2] or text).strip().splitlines()
            reason = lines[0][:120] if lines else type(error).__name__
            message = f'{path} is truncated or no PyTorch file ({reason})'
        raise WeightsError(message) from error


def _check_kind(path: Path) -> None:
    """Raise WeightsError for kinds of files about which PyTorch's reader gives no clear message.

    Raises:
        WeightsError: A program (TorchScript), NumPy arrays, a tar, or a compressed archive, which PyTorch
            does not write.
        OSError: The file cannot be read.
    """
    with path.open('rb') as file:
        head = file.read(265)
    if head[257:262] == b'ustar':
        raise WeightsError(
            f"{path} is a tar archive (an unpacked file's name ends in .tar too); unpack it, or save the "
            'weights again with a PyTorch of this decade'
        )
    if head.startswith(b'\x93NUMPY'):
        raise WeightsError(f'{path} holds a NumPy array, no named tensors; save them by torch.save')
    if not head.startswith(b'PK\x03\x04') or not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    names = [member.filename for member in members]
    if any('/code/' in name or name.endswith('/constants.pkl') for name in names):
        raise WeightsError(
            f'{path} contains code (a TorchScript program), which was not executed; save its state_dict()'
        )
    if any(name.endswith('.npy') for name in names):
        raise WeightsError(f"{path} is an archive of NumPy's (.npz), which may hold pickled code; not read")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise WeightsError(
            f'{path} unpacks to more than it is, which no PyTorch file does; get it from another source'
        )
