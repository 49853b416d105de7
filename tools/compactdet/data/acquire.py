"""Download a published data set, or import one from the disk: unpack, check, move to its place."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as SpeedColumn

from compactdet.console import PlainConsole
from compactdet.data import download
from compactdet.data.archives import is_archive, merge, unpacked
from compactdet.data.catalog import SOURCES, Archive, Source
from compactdet.data.coco_file import SAME
from compactdet.data.coco_splits import build_splits, can_build
from compactdet.data.download import RemoteFile, fetch, need_space, wrong_file
from compactdet.data.layout import layout_of
from compactdet.data.voc_files import read_split
from compactdet.errors import UserError
from compactdet.files import load_json

DEPTH = 3  # depth to which a part of a data set is searched


def get(name: str, data: Path, *, variant: str | None = None, keep: bool = False) -> None:
    """Download the missing parts of a published data set and move them to their place.

    Args:
        name: A name in `SOURCES`.
        data: Folder of all data sets.
        variant: Variant of the files, if there are several (COCO: '2017', '2014').
        keep: Keep the archives in ``data/downloads``.

    Raises:
        UserError: It cannot be downloaded or written. Downloaded parts are kept.
    """
    source = SOURCES[name]
    archives = source.archives[variant or next(iter(source.archives))]
    home = data / source.home
    wanted = [archive for archive in archives if not is_there(archive, home)]
    sizes = [archive.size or 0 for archive in wanted]
    there = sum(file.stat().st_size for archive in wanted for file in _files_of(archive, data))
    # Annotations unpack to five times their size. An archive is deleted before the next one.
    unpacks = sum(5 * s if 'annotations' in a.name else s for a, s in zip(wanted, sizes, strict=True))
    archives_need = sum(sizes) if keep else max(sizes, default=0)
    need_space(data, unpacks + max(0, archives_need - there), f'data set {name!r}')
    for archive in wanted:
        with bar(archive.name) as progress:
            remote = RemoteFile(archive.urls, archive.size, archive.checksum)
            path = fetch(remote, data / 'downloads' / archive.name, progress=progress)
        _bring_archive(name, path, data, members=archive.members)
        if not is_there(archive, home):
            raise UserError(f'{path}: it was unpacked, but {", ".join(archive.gives)} is not complete')
        if not keep:
            path.unlink()
    with contextlib.suppress(OSError):
        (data / 'downloads').rmdir()
    _finish(name, data, subset=False)


def _files_of(archive: Archive, data: Path) -> list[Path]:
    folder = data / 'downloads'
    return [file for name in (archive.name, f'.{archive.name}.part') if (file := folder / name).is_file()]


def bring(
    name: str, paths: Sequence[Path], data: Path, *, link: bool = False, subset: bool = False
) -> None:
    """Import archives or folders of a published data set.

    Args:
        name: A name in `SOURCES`.
        paths: Archives, which are unpacked, or folders, which are copied: the data set, parts of it, or
            folders that contain it.
        data: Folder of all data sets.
        link: Whether folders are linked instead of copied.
        subset: Whether it is deliberately a part of the data set, so that counts are not checked.

    Raises:
        UserError: A path is missing or damaged, or contains nothing of the data set.
    """
    for path in paths:
        if path.is_dir():
            _bring_folder(name, path, data, how='link' if link else 'copy', subset=subset)
        elif path.is_file():
            for archive in {a.name: a for some in SOURCES[name].archives.values() for a in some}.values():
                problem = archive.name == path.name and wrong_file(
                    path, RemoteFile(archive.urls, archive.size, archive.checksum)
                )
                if problem:
                    raise UserError(f'{path}: not the published file ({problem}); get it again')
            if not is_archive(path):
                raise UserError(f'{path}: broken or truncated, or no tar or zip file; get it again')
            _bring_archive(name, path, data, subset=subset)
        else:
            raise UserError(f'{path}: no such file or folder')
    _finish(name, data, subset=subset)


def bring_custom(path: Path, target: Path, *, link: bool = False) -> None:
    """Import a user's own data set (a folder or an archive) to ``target``.

    Raises:
        UserError: It is not in VOC or COCO format, or ``target`` exists.
    """
    if target.exists():
        raise UserError(f"'{target}' already exists; remove it or give another --name")
    if path.is_dir():
        layout_of(path)
        _place(path, target, 'link' if link else 'copy')
        return
    with bar(path.name) as progress, unpacked(path, target.parent, progress=progress) as folder:
        _place(_set_in(folder, path), target, 'move')


def _set_in(folder: Path, archive: Path) -> Path:
    """Return the folder of the data set: the given folder, or the only folder in it; files are ignored."""
    try:
        layout_of(folder)
    except UserError as error:
        inner = [
            entry
            for entry in folder.iterdir()
            if entry.is_dir() and not entry.name.startswith(('.', '__MACOSX'))
        ]
        if len(inner) == 1:
            return _set_in(inner[0], archive)
        raise UserError(str(error).replace(str(folder), str(archive))) from error
    return folder


def _bring_archive(
    name: str, path: Path, data: Path, *, members: Sequence[str] = ('*',), subset: bool = False
) -> None:
    home = data / SOURCES[name].home
    with (
        bar(f'unpacking {path.name}') as progress,
        unpacked(path, home, members=members, progress=progress) as folder,
    ):
        _bring_folder(name, folder, data, how='move', said=path, subset=subset)


def _bring_folder(
    name: str, folder: Path, data: Path, *, how: str, said: Path | None = None, subset: bool = False
) -> None:
    source = SOURCES[name]
    parts = {part: place for part in source.parts if (place := _find(folder, part, source)) is not None}
    if not parts:
        listed = ', '.join(source.parts)
        raise UserError(f"'{said or folder}' holds nothing of the data set {name!r}: no folder {listed}")
    for part, place in () if subset else parts.items():
        _check_counts(source, part, place)
    for part, place in parts.items():
        _place(place, data / source.home / part, how)


def _check_counts(source: Source, part: str, place: Path) -> None:
    """Compare the splits in a part of a data set with the published numbers of images."""
    for file, count in source.splits.items():
        path = Path(source.root, file)
        if not path.is_relative_to(Path(source.home, part)):
            continue
        here = place / path.relative_to(Path(source.home, part))
        for candidate in {here, here.with_name(SAME.get(here.name, here.name))}:
            if candidate.is_file() and (found := count_images(candidate)) != count:
                raise UserError(
                    f'{candidate} has {found} images, the published split has {count}; get the official '
                    'files, or use --subset if they are a part of the set on purpose'
                )


def count_images(path: Path) -> int:
    """Return the number of images of a split file in VOC format or an annotation file in COCO format."""
    if path.suffix != '.json':
        return len(read_split(path))
    data = load_json(path)
    images = data.get('images') if isinstance(data, dict) else None
    if not isinstance(images, list):
        raise UserError(f'{path}: has no list "images": not a COCO annotation file; get it again')
    return len(images)


def _find(folder: Path, part: str, source: Source) -> Path | None:
    """Return the folder of a part of a data set: the given folder, or one in it."""
    if folder.name == part:
        return folder
    for depth in range(1, DEPTH + 1):
        for path in sorted(folder.glob('*/' * (depth - 1) + part)):
            if path.is_dir():
                return path
    if len(source.parts) == 1 and (folder / 'Annotations').is_dir():
        return folder  # the part has another name
    return None


def _place(source: Path, target: Path, how: str) -> None:
    """Move, copy or link a folder. Copied files are written atomically."""
    try:
        if target.exists() and target.resolve() == source.resolve():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if how == 'move':
            merge(source, target)
        elif how == 'link':
            if target.exists():
                raise UserError(f"'{target}' already exists; remove it to have a link in its place")
            target.symlink_to(source.resolve(), target_is_directory=True)
        elif target.resolve().is_relative_to(source.resolve()):
            raise UserError(
                f"'{target}' is in '{source}' itself; name another --root, or use the set as it is"
            )
        else:
            size = sum(file.stat().st_size for file in source.rglob('*') if file.is_file())
            need_space(target.parent, size, f"a copy of '{source}' (or use --link)")
            draft = Path(tempfile.mkdtemp(prefix='.copy-', dir=target.parent))
            try:
                copied = draft / 'copy'
                shutil.copytree(source, copied, copy_function=shutil.copyfile)
                merge(copied, target)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    except (OSError, shutil.Error) as error:
        reason = getattr(error, 'strerror', None) or error
        raise UserError(f"cannot put '{source}' at '{target}' ({reason})") from error


def is_there(archive: Archive, home: Path) -> bool:
    """Return True if everything that an archive contains is in place, with every image."""
    for name, count in archive.gives.items():
        path = home / name
        if count > 0:
            if not path.is_dir() or sum(1 for _ in path.glob('*.jpg')) != count:
                return False
        elif not path.is_file():
            return False
        elif count < 0:
            folder = path.parents[2]
            ids = path.read_text(encoding='utf-8').split()
            files = (
                folder / part.format(i) for i in ids for part in ('JPEGImages/{}.jpg', 'Annotations/{}.xml')
            )
            if not ids or not all(file.is_file() for file in files):
                return False
    return True


def _finish(name: str, data: Path, *, subset: bool) -> None:
    """Build the files that are derived from the downloaded ones."""
    root = data / SOURCES[name].root
    built = [root / file for file in SOURCES[name].splits]
    if name == 'coco' and can_build(root) and not all(file.is_file() for file in built):
        build_splits(root, subset=subset)


@contextlib.contextmanager
def bar(text: str) -> Iterator[download.Progress]:
    """Show a progress bar of bytes on standard error."""
    columns = (
        TextColumn('{task.description}', markup=False),
        BarColumn(),
        DownloadColumn(),
        SpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=PlainConsole(stderr=True), transient=True) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
