"""Safe unpacking of archives: no file is written outside the target, partial results are deleted."""

import contextlib
import gzip
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO

from compactdet.data.download import Progress, need_space
from compactdet.errors import UserError

BROKEN = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError),
    *(RuntimeError, NotImplementedError),  # zip files with a password or of an unknown kind
)


def is_archive(path: Path) -> bool:
    """Return True if a file is an archive that `unpacked` reads."""
    return path.is_file() and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


@contextlib.contextmanager
def unpacked(
    archive: Path,
    near: Path,
    *,
    members: Sequence[str] = ('*',),
    progress: Progress = lambda done, total: None,
) -> Iterator[Path]:
    """Unpack a tar or zip file into a new folder in ``near``, which is deleted at the end of the context.

    Args:
        archive: The file.
        near: Folder on the disk to which the files are moved later.
        members: Patterns of the files that are unpacked.
        progress: Called with the number of bytes done and the total.

    Raises:
        UserError: It is not an archive, damaged, truncated, or has a member that could be written elsewhere
            (an absolute path, `..`, a link, a device); nothing is unpacked then. Or the disk is full.
    """
    near.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix='.unpack-', dir=near))
    try:
        _unpack(archive, folder, members, progress)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(archive: Path, folder: Path, members: Sequence[str], progress: Progress) -> None:
    try:
        opened: tarfile.TarFile | zipfile.ZipFile
        if zipfile.is_zipfile(archive):
            opened = zipfile.ZipFile(archive)
        else:
            opened = tarfile.open(archive)  # noqa: SIM115 - closed below
        with opened:
            files = list(
                _zip_files(opened) if isinstance(opened, zipfile.ZipFile) else _tar_files(opened, archive)
            )
            for name, *_ in files:
                if problem := _unsafe(name):
                    raise UserError(f'{archive}: refused: {name!r} {problem}; get the archive again')
            wanted = [file for file in files if any(fnmatchcase(file[0], m) for m in members)]
            total, done = sum(size for _, size, _ in wanted), 0
            need_space(folder.parent, total, f'unpacking {archive.name}')
            for name, size, member in wanted:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with _open(opened, member) as source, target.open('wb') as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                done += size
                progress(done, total)
    except FileNotFoundError as error:
        raise UserError(f'{archive}: no such file') from error
    except BROKEN as error:
        reason = str(error).partition('\n')[0].rstrip(':')
        raise UserError(f'{archive}: broken or truncated ({reason}); get it again') from error
    except OSError as error:
        raise UserError(f"cannot unpack '{archive}' ({error.strerror or error})") from error
    if not wanted:
        raise UserError(f'{archive}: holds none of {", ".join(members)}: another archive?')


Member = tarfile.TarInfo | zipfile.ZipInfo
File = tuple[str, int, Member]


def _tar_files(tar: tarfile.TarFile, path: Path) -> Iterator[File]:
    members = tar.getmembers()
    check_end(tar)
    while tar.fileobj is not None and tar.fileobj.read(1 << 20):
        pass  # to the end, where the checksum of a compressed file is
    for member in members:
        if member.isdir():
            continue
        if not member.isreg():
            raise UserError(f'{path}: refused: {member.name!r} is a link or device; get it again')
        yield member.name, member.size, member


def check_end(tar: tarfile.TarFile) -> None:
    """Check that a tar file is complete after its last member: Python accepts one truncated between two
    members.

    Raises:
        tarfile.ReadError: The two blocks of zeros at the end are missing.
    """
    if tar.fileobj is None or not tar.fileobj.read(1):
        raise tarfile.ReadError('unexpected end of data')


def _zip_files(archive: zipfile.ZipFile) -> Iterator[File]:
    for member in archive.infolist():
        if stat.S_ISLNK(member.external_attr >> 16):
            raise UserError(f'{archive.filename}: refused: {member.filename!r} is a link; get it again')
        if not member.is_dir():
            yield member.filename, member.file_size, member


def _unsafe(name: str) -> str | None:
    path, windows = PurePosixPath(name), PureWindowsPath(name)
    if path.is_absolute() or windows.drive or windows.root:
        return 'is an absolute path'
    if '..' in path.parts or '..' in windows.parts:
        return 'leads out of its folder'
    if not path.parts or '\0' in name:
        return 'is no name'
    return None


def _open(archive: tarfile.TarFile | zipfile.ZipFile, member: Member) -> IO[bytes]:
    if isinstance(archive, zipfile.ZipFile) and isinstance(member, zipfile.ZipInfo):
        return archive.open(member)  # checks the CRC at the end
    if isinstance(archive, tarfile.TarFile) and isinstance(member, tarfile.TarInfo):
        file = archive.extractfile(member)
        if file is not None:
            return file
    raise tarfile.ReadError('a member cannot be read')


def merge(source: Path, target: Path) -> None:
    """Move the content of a folder into another on the same disk. Existing files are replaced."""
    if source.is_dir() and target.is_dir():
        for path in list(source.iterdir()):
            merge(path, target / path.name)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
