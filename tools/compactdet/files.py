"""Files that are whole or not there at all, and JSON that may be large."""

import contextlib
import gc
import json
import os
from pathlib import Path
from typing import Any

from compactdet.errors import UserError


def write_whole(path: str | Path, data: bytes | str) -> None:
    """Writes a file beside its place, then moves it there.

    Args:
        path: In a folder that exists; a file that is there is replaced.
        data: Text is written in UTF-8, its line ends as they are.

    Raises:
        UserError: It cannot be written; nothing of it is left.
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
        raise UserError(f"cannot write '{path}' ({error.strerror}); choose another place") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Sees, before the work for it is done, that a file can be written.

    Raises:
        UserError: It cannot.
    """
    probe = path.with_name(f'{path.name}.{os.getpid()}.part')
    try:
        if path.is_dir():
            raise IsADirectoryError(0, 'is a folder')
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # on another machine a process may have the same number
    except OSError as error:
        raise UserError(f'{path} cannot be written ({error.strerror}); name another file') from error


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For ``json``'s ``object_pairs_hook``: JSON lets a key stand twice and takes the last.

    Raises:
        ValueError: A key stands twice.
    """
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f'the key "{twice}" stands twice in one object')
    return made


def load_json(path: Path) -> Any:
    """Reads a JSON file, in UTF-8 with or without a byte order mark.

    Raises:
        UserError: It cannot be read or is not JSON.
    """
    collecting = gc.isenabled()
    gc.disable()  # millions of small objects, no cycles: halves the time
    try:
        return json.loads(path.read_text(encoding='utf-8-sig'))
    except OSError as error:
        raise UserError(f'{path}: cannot read the file ({error.strerror})') from error
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: not JSON ({error}); write it anew') from error
    finally:
        if collecting:
            gc.enable()
