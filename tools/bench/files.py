"""Files that are whole or not there at all."""

import contextlib
import os
from pathlib import Path

from bench.errors import UserError


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
