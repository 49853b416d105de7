"""Download published weights and convert them."""

import contextlib
import os
import shlex
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from compactdet.data.acquire import bar
from compactdet.data.download import RemoteFile, fetch, file_hash, need_space
from compactdet.errors import UserError
from compactdet.weights.catalog import PublishedWeights
from compactdet.weights.convert import PublishedFacts, convert_file
from compactdet.weights.formats import TENSORFLOW

MAX_BYTES = 2_000_000_000  # maximum size of a file in an archive; the largest network has a tenth of it


def download_weights(
    row: PublishedWeights, out: Path, *, keep: bool = False, fetch: Callable[..., Path] = fetch
) -> str:
    """Download a published file and convert it to a weights file.

    A partial download stays in the folder ``downloads`` beside ``out`` and is resumed.

    Args:
        row: The published weights.
        out: The weights file to write.
        keep: Whether to keep the downloaded file.
        fetch: Function that downloads a file.

    Returns:
        The SHA-256 of the downloaded file.

    Raises:
        UserError: It must be downloaded manually, cannot be downloaded, is a different file, or cannot be
            converted.
    """
    convert_command = (
        f'python tools/weights.py convert FILE --arch {row.arch} --out {shlex.quote(str(out))}'
    )
    if row.url is None:
        raise UserError(
            f'{row.name} must be downloaded manually ({row.by_hand}): open {row.page} in a browser, save '
            f'the file, then run `{convert_command}`'
        )
    folder = out.parent / 'downloads'
    name = row.url.rpartition('/')[2] if row.sha1 else row.file or row.url.rpartition('/')[2]
    need_space(out.parent, 3 * (row.size or 0), row.name)
    checksum = f'sha256:{row.sha256}' if row.sha256 else None
    try:
        quiet = contextlib.nullcontext(lambda done, total: None)
        with bar(name) if sys.stderr.isatty() else quiet as progress:
            remote = RemoteFile([row.url], row.size, checksum)
            file = fetch(remote, folder / name, progress=progress, by_hand=convert_command)
        sha256 = file_hash(file, 'sha256')
        published = _unzip(file, row) if row.sha1 else file
        facts = PublishedFacts(
            top1=row.top1,
            top5=row.top5,
            licence=row.licence,
            preprocessing=row.preprocessing,
            conventions=TENSORFLOW if row.tensorflow else None,
        )
        convert_file(published, row.arch, out, facts)
        if published != file:
            published.unlink()
        if not keep:
            file.unlink()
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()
    return sha256


def _unzip(archive: Path, row: PublishedWeights) -> Path:
    """Unpack the only file of an archive; return its path.

    Raises:
        UserError: The archive does not contain exactly one file, or it is too large or not the published
            one.
    """
    target = archive.with_name(row.file or archive.stem)
    part = target.with_name(f'.{target.name}.{os.getpid()}.part')
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            if len(members) != 1 or members[0].file_size > MAX_BYTES:
                raise UserError(f'{archive} does not contain exactly one file of at most {MAX_BYTES} bytes')
            need_space(archive.parent, members[0].file_size, target.name)
            with opened.open(members[0]) as source, part.open('wb') as copy:
                shutil.copyfileobj(source, copy)
        if (found := file_hash(part, 'sha1')) != row.sha1:
            raise UserError(
                f'{archive} does not contain the published file: its SHA-1 is {found}, not {row.sha1}'
            )
        part.replace(target)
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise UserError(
            f'{archive} is damaged or not a zip archive ({error}); download it again'
        ) from error
    except UserError:
        archive.unlink()
        raise
    finally:
        part.unlink(missing_ok=True)
    return target
