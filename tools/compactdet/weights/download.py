"""Download published weights and convert them."""

import contextlib
import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from compactdet.data.acquire import bar
from compactdet.data.download import fetch, file_hash, need_space
from compactdet.errors import UserError
from compactdet.weights.catalog import KnownWeights
from compactdet.weights.convert import convert_file
from compactdet.weights.formats import TENSORFLOW

LARGEST = 2_000_000_000  # largest size of a file in an archive; the largest network has a tenth of it


def get(row: KnownWeights, out: Path, *, keep: bool = False, fetch: Callable[..., Path] = fetch) -> str:
    """Download a file and convert it to ``out``; return the SHA-256 of the download.

    A partial download stays in the folder ``downloads`` beside ``out`` and is continued.

    Raises:
        UserError: It must be downloaded manually, cannot be downloaded, is another file, or cannot be
            converted.
    """
    convert_by_hand = f'python tools/weights.py convert FILE --arch {row.arch} --out {out}'
    if row.url is None:
        raise UserError(
            f'{row.name} cannot be downloaded by a program ({row.by_hand}): open {row.page} in a browser, '
            f'save the file, then: {convert_by_hand}'
        )
    folder = out.parent / 'downloads'
    name = row.url.rpartition('/')[2] if row.sha1 else row.file or row.url.rpartition('/')[2]
    need_space(out.parent, 3 * (row.size or 0), row.name)
    checksum = f'sha256:{row.sha256}' if row.sha256 else None
    try:
        quiet = contextlib.nullcontext(lambda done, total: None)
        with bar(name) if sys.stderr.isatty() else quiet as progress:
            file = fetch(
                [row.url],
                folder / name,
                size=row.size,
                checksum=checksum,
                progress=progress,
                by_hand=convert_by_hand,
            )
        sha256 = file_hash(file, 'sha256')
        published = _unzipped(file, row) if row.sha1 else file
        convert_file(
            published,
            row.arch,
            out,
            top1=row.top1,
            top5=row.top5,
            licence=row.licence,
            preprocessing=row.preprocessing,
            conventions=TENSORFLOW if row.tensorflow else None,
        )
        if published != file:
            published.unlink()
        if not keep:
            file.unlink()
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()
    return sha256


def _unzipped(archive: Path, row: KnownWeights) -> Path:
    """Return the only file in an archive, checked.

    Raises:
        UserError: There is not exactly one, it is too large, or not the published one.
    """
    target = archive.with_name(row.file or archive.stem)
    part = target.with_name(f'.{target.name}.{os.getpid()}.part')
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            if len(members) != 1 or members[0].file_size > LARGEST:
                raise UserError(f'{archive} does not hold one file of at most {LARGEST} bytes')
            need_space(archive.parent, members[0].file_size, target.name)
            with opened.open(members[0]) as source, part.open('wb') as copy:
                shutil.copyfileobj(source, copy)
        if (found := file_hash(part, 'sha1')) != row.sha1:
            raise UserError(f'{archive} holds another file: its sha1 is {found}, published is {row.sha1}')
        part.replace(target)
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(f'{archive} is no whole zip archive ({error}); get it again') from error
    except UserError:
        archive.unlink()
        raise
    finally:
        part.unlink(missing_ok=True)
    return target
