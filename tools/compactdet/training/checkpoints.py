"""Checkpoint files: data and never code, whole or not there, and known to be so."""

from __future__ import annotations

import errno
import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from torch import Tensor

from backbones.weights import WeightsError, load_pickle_safely
from compactdet.errors import UserError
from compactdet.records import protocol_diff

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]

# Names of the states that a training goes on from. The best one has weights only.
STATE_NAMES = ('epoch_', 'iter_')


def part_of(path: Path) -> Path:
    """Where a file is written before it is moved to its place."""
    return path.with_name(f'{path.name}.part')


def settle(part: Path, path: Path) -> None:
    """Brings a written file onto the disk, reads it back from there and moves it to its place.

    What stood at ``path`` is there until then, whatever happens.

    Raises:
        OSError: The disk is full, or gone.
        WeightsError: What was read back is not what was written.
    """
    with part.open('rb') as file:
        os.fsync(file.fileno())
        if hasattr(os, 'posix_fadvise'):  # else it is read back from memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    check_whole(part)
    load_pickle_safely(part)
    part.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Brings a folder's names onto the disk: a new file's name is not there with the file."""
    if os.name != 'posix':
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_whole(path: Path) -> None:
    """Compares a PyTorch file with the checksums that its writer put into it, which PyTorch does not.

    Raises:
        WeightsError: It is cut short, damaged or no such file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError as error:
        raise WeightsError(f'cannot read {path}: {error.strerror or error}') from error
    except Exception as error:  # a damaged file may fail anywhere in the reader
        raise WeightsError(f'{path} is truncated or no PyTorch file ({error})') from error
    if damaged is not None:
        raise WeightsError(f'{path} is damaged: the checksum of {damaged} in it is another')


def copy_whole(source: Path, target: Path) -> None:
    """Copies a checkpoint beside its place, then moves it there.

    Raises:
        UserError: It cannot be read or written; nothing of it is left.
        WeightsError: It is damaged.
    """
    part = part_of(target)
    try:
        shutil.copyfile(source, part)
        settle(part, target)
    except OSError as error:
        raise UserError(f'cannot copy {source} to {target}: {error.strerror}') from error
    finally:
        part.unlink(missing_ok=True)


def read_checkpoint(filename: str | Path) -> dict[str, Any]:
    """Reads a model's checkpoint without executing anything in it.

    Raises:
        WeightsError: The file is absent, cut short, or holds code.
        UserError: It is not a model's checkpoint.
    """
    checkpoint = load_pickle_safely(filename)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get('state_dict'), dict):
        raise UserError(f'{filename} is no detector checkpoint: it holds no state_dict')
    if not all(isinstance(value, Tensor) for value in checkpoint['state_dict'].values()):
        raise UserError(f'{filename} is no detector checkpoint: its state_dict holds more than tensors')
    if not isinstance(checkpoint.setdefault('meta', {}), dict):
        raise UserError(f'{filename} is no detector checkpoint: its meta is no dict')
    return checkpoint


def read_resumable(filename: str | Path) -> dict[str, Any]:
    """Reads a checkpoint that a training can go on from, as ``read_checkpoint`` does.

    Raises:
        WeightsError: The file is absent, cut short, damaged, or holds code.
        UserError: It is not a model's checkpoint, or holds no training's state.
    """
    checkpoint = read_checkpoint(filename)
    missing = [key for key in ('optimizer', 'message_hub') if key not in checkpoint]
    missing += [f'meta.{key}' for key in ('epoch', 'iter') if key not in checkpoint['meta']]
    if missing:
        raise UserError(
            f'{filename} is no checkpoint to go on from: it holds no {", ".join(missing)}; '
            'give one that the training saved at an interval (epoch_N.pth)'
        )
    if zipfile.is_zipfile(filename):
        check_whole(Path(filename))
    return checkpoint


def best_files(checkpoint: Mapping[str, Any]) -> dict[str, Path]:
    """The best checkpoints of a training so far, by their key in the message hub."""
    found = checkpoint['message_hub'].get('runtime_info', {})
    return {key: Path(value) for key, value in found.items() if key.startswith('best_ckpt')}


def states(folder: Path) -> list[Path]:
    """A run's states: those by epoch, then those by iteration, each row from its highest number down."""
    found = {
        name: sorted(
            (path for path in folder.glob(f'{name}*.pth') if _number(path) is not None),
            key=lambda path: _number(path) or 0,
            reverse=True,
        )
        for name in STATE_NAMES
    }
    return [path for paths in found.values() for path in paths]


def _number(path: Path) -> int | None:
    digits = path.stem.rpartition('_')[2]
    return (
        int(digits)
        if path.stem in {f'{name}{digits}' for name in STATE_NAMES} and digits.isdigit()
        else None
    )


def newest_valid(folder: Path) -> Path | None:
    """The state in a run's folder that is furthest, of those that are whole with their best checkpoints.

    A damaged one is named and set aside as ``NAME.damaged``. What ``last_checkpoint`` says does not count.

    Raises:
        UserError: There are some, and all are damaged.
    """
    rows = [[p for p in states(folder) if p.name.startswith(name)] for name in STATE_NAMES]
    furthest: tuple[int, Path] | None = None
    damaged: dict[Path, str] = {}
    for row in rows:
        for path in row:
            try:
                checkpoint = read_resumable(path)
                for best in best_files(checkpoint).values():
                    check_whole(_nearest(best, path))
            except (WeightsError, UserError) as error:
                damaged[path] = str(error)
                continue
            done = int(checkpoint['meta']['iter'])
            if furthest is None or done > furthest[0]:
                furthest = (done, path)
            break
    if furthest is None and damaged:
        reasons = '; '.join(damaged.values())
        raise UserError(
            f'no checkpoint in {folder} is whole: {reasons}; move the folder away to start anew'
        )
    for path, reason in damaged.items():
        path.rename(path.with_name(f'{path.name}.damaged'))
        print(f'{reason}; set aside as {path.name}.damaged', flush=True)
    return furthest and furthest[1]


def _nearest(best: Path, state: Path) -> Path:
    """A best checkpoint as its run's folder has it: the folder may have been moved or copied."""
    beside = state.with_name(best.name)
    return beside if beside.exists() else best


def bring_best(checkpoint: Mapping[str, Any], filename: Path, folder: Path) -> None:
    """Copies a training's best checkpoints into the folder of the run that goes on from it.

    Raises:
        UserError: One is gone, or cannot be copied.
        WeightsError: One is damaged.
    """
    for best in best_files(checkpoint).values():
        here = folder / best.name
        if not here.exists():
            copy_whole(_nearest(best, filename), here)


_taken: dict[Path, IO[str]] = {}


def take(folder: Path) -> None:
    """Keeps other trainings out of a folder until this process ends, however it ends.

    By a lock that children do not inherit: a data loader's worker may outlive a killed training.

    Raises:
        UserError: Another training is under way there.
    """
    path = folder.resolve() / '.lock'
    if fcntl is None or path in _taken:
        return
    file = path.open('w')
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in (errno.EACCES, errno.EAGAIN):  # else the file system has no locks
            raise UserError(
                f'another training is under way in {folder}; wait for its end, or give this one its own '
                '--work-dir'
            ) from None
        return
    _taken[path] = file


def refuse_unfinished(folder: Path) -> None:
    """Refuses to begin a training where another one left its states.

    Raises:
        UserError: There is one.
    """
    if found := states(folder):
        raise UserError(
            f'{found[0]} belongs to an unfinished training: add --resume to go on with it, give this one '
            'its own --work-dir, or move the old folder away'
        )


def refuse_later(folder: Path, epoch: int, iteration: int) -> None:
    """Refuses to go on from a state where the folder has later ones: the next resume would take those.

    Raises:
        UserError: There is one.
    """
    done = {'epoch_': epoch, 'iter_': iteration}
    for path in states(folder):
        name = next(name for name in STATE_NAMES if path.name.startswith(name))
        if (_number(path) or 0) > done[name]:
            raise UserError(
                f'{path} is later than the checkpoint that --resume names; move it away, or give this run '
                'its own --work-dir'
            )


def check_protocol(filename: str | Path, progress: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Sees that a training goes on under its protocol, which its record will state; it may end elsewhere.

    Args:
        filename: The checkpoint, for the message.
        progress: Its ``progress``.
        now: The protocol that it is to go on under.

    Raises:
        UserError: It is another; names the first differences and counts them.
    """
    done = {'max_epochs': progress['epoch'], 'max_iters': progress['iter']}
    ahead = {key: end for key, end in now['loop'].items() if key in done and end >= done[key]}
    then = {**progress['protocol'], 'loop': {**progress['protocol']['loop'], **ahead}}
    if found := protocol_diff.differences(then, now):
        shown = '; '.join(f'{one.words} {one.one}, now {one.other}' for one in found[:4])
        raise UserError(
            f'{filename} is of a training under another protocol ({len(found)} differences): {shown}; go '
            'on as it began, or begin anew in another --work-dir'
        )


def check_fit(filename: str | Path, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Compares two state dicts by names and shapes.

    Raises:
        UserError: They differ; the message lists the first differences and counts them.
    """
    problems = [f'{name} is missing' for name in wanted.keys() - found.keys()]
    problems += [f'{name} is not part of the model' for name in found.keys() - wanted.keys()]
    problems += [
        f'{name} is {tuple(found[name].shape)}, the model has {tuple(wanted[name].shape)}'
        for name in wanted.keys() & found.keys()
        if found[name].shape != wanted[name].shape
    ]
    if problems:
        shown = '; '.join(sorted(problems)[:4])
        raise UserError(
            f'{filename} does not fit this config ({len(problems)} differences): {shown}. '
            'Is it from another arch or another number of classes?'
        )
