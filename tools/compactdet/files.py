"""Atomic writing of files, and reading of JSON files."""

import contextlib
import gc
import json
import os
from pathlib import Path
from typing import Any

from compactdet.errors import UserError


def write_whole(path: str | Path, data: bytes | str) -> None:
    """Write a temporary file beside ``path``, then move it to ``path``.

    Args:
        path: The file, in an existing folder. An existing file is replaced.
        data: Bytes, or text, which is encoded as UTF-8 without a change of line endings.

    Raises:
        UserError: The file cannot be written. No partial file is left.
    """
    path = Path(path)
    part = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        with part.open('wb') as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise UserError(f"cannot write '{path}' ({error.strerror}); choose another path") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Check before a long computation that its result can be written to a file.

    Raises:
        UserError: The file cannot be written.
    """
    probe = path.with_name(f'{path.name}.{os.getpid()}.part')
    try:
        if path.is_dir():
            raise IsADirectoryError(0, 'is a folder')
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # missing_ok: a process on another machine may have the same id
    except OSError as error:
        raise UserError(f'{path} cannot be written ({error.strerror}); choose another path') from error


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a dict of key and value pairs, for ``json``'s ``object_pairs_hook``.

    By default, ``json`` takes the last of equal keys.

    Raises:
        ValueError: A key occurs twice.
    """
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f'the key "{repeated}" occurs twice in one object')
    return content


def load_json(path: Path) -> Any:
    """Read a JSON file in UTF-8, with or without a byte order mark.

    Raises:
        UserError: The file cannot be read or is not JSON.
    """
    collecting = gc.isenabled()
    gc.disable()  # halves the time for millions of small objects
    try:
        return json.loads(path.read_text(encoding='utf-8-sig'))
    except OSError as error:
        raise UserError(f'{path}: cannot read the file ({error.strerror})') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: not valid JSON ({error}); create the file again') from error
    finally:
        if collecting:
            gc.enable()
