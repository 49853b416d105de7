"""The folder of a training run: its lock and its training states."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from backbones.weights import WeightsError
from compactdet.errors import UserError
from compactdet.training.checkpoints import (
    best_checkpoints,
    check_checksums,
    copy_checkpoint,
    read_training_state,
)

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

# File names of training states begin with one of these. The best checkpoint has weights only.
STATE_PREFIXES = ('epoch_', 'iter_')

# By lock file: the open file that holds the lock until the process ends.
_locks: dict[Path, IO[str]] = {}


def open_run_folder(work_dir: str) -> Path:
    """Create a run folder and check that files can be written in it.

    Raises:
        UserError: The folder cannot be created or written in.
    """
    path = Path(work_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f'.writable.{os.getpid()}'
        probe.touch()
        probe.unlink(missing_ok=True)  # a process on another machine may have the same id
    except OSError as error:
        raise UserError(
            f'cannot write in the work dir {path}: {error.strerror}; choose another --work-dir'
        ) from error
    return path


def lock_run_folder(folder: Path) -> None:
    """Lock a run folder against other training runs until this process ends, even if it is killed.

    Child processes do not inherit the lock, since a data loader worker may outlive a killed training run.

    Raises:
        UserError: Another training run holds the lock.
    """
    path = folder.resolve() / '.lock'
    if fcntl is None or path in _locks:
        return
    file = path.open('w')
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        if error.errno in (errno.EACCES, errno.EAGAIN):  # other errors: the file system has no locks
            raise UserError(
                f'another training is running in {folder}; wait until it ends, or give this one its own '
                '--work-dir'
            ) from None
        return
    _locks[path] = file


def list_training_states(folder: Path) -> list[Path]:
    """Return a run's training states: those by epoch, then those by iteration, each latest first."""
    return [path for prefix in STATE_PREFIXES for path in _states_with_prefix(folder, prefix)]


def _states_with_prefix(folder: Path, prefix: str) -> list[Path]:
    numbers = {path: _state_number(path, prefix) for path in folder.glob(f'{prefix}*.pth')}
    found = {path: number for path, number in numbers.items() if number is not None}
    return sorted(found, key=lambda path: found[path], reverse=True)


def _state_number(path: Path, prefix: str) -> int | None:
    """Return N of ``epoch_N.pth`` or ``iter_N.pth``; None for other names."""
    digits = path.stem.removeprefix(prefix)
    return int(digits) if path.stem.startswith(prefix) and digits.isdigit() else None


def newest_valid_state(folder: Path) -> Path | None:
    """Return the training state with the most iterations that is valid, as are its best checkpoints.

    Damaged states are reported and renamed to ``NAME.damaged``. The file ``last_checkpoint`` is not used.

    Raises:
        UserError: There are states, but all are damaged.
    """
    newest: Path | None = None
    most_iterations = -1
    damaged: dict[Path, str] = {}
    for prefix in STATE_PREFIXES:
        for path in _states_with_prefix(folder, prefix):
            try:
                checkpoint = read_training_state(path)
                for best in best_checkpoints(checkpoint).values():
                    check_checksums(_locate_best(best, path))
            except (WeightsError, UserError) as error:
                damaged[path] = str(error)
                continue
            if (iterations := int(checkpoint['meta']['iter'])) > most_iterations:
                newest, most_iterations = path, iterations
            break
    if newest is None and damaged:
        reasons = '; '.join(damaged.values())
        raise UserError(
            f'no checkpoint in {folder} is valid: {reasons}; move the folder away to train from the start'
        )
    for path, reason in damaged.items():
        path.rename(path.with_name(f'{path.name}.damaged'))
        print(f'{reason}; renamed to {path.name}.damaged', flush=True)
    return newest


def _locate_best(best: Path, state: Path) -> Path:
    """Return the path of a best checkpoint, also in a run folder that was moved or copied."""
    beside = state.with_name(best.name)
    return beside if beside.exists() else best


def copy_best_checkpoints(checkpoint: Mapping[str, Any], filename: Path, folder: Path) -> None:
    """Copy the best checkpoints of a training state into the folder of the run that resumes from it.

    Args:
        checkpoint: Content of the training state.
        filename: Its file.
        folder: The run folder.

    Raises:
        UserError: A best checkpoint is missing, or cannot be copied.
        WeightsError: A best checkpoint is damaged.
    """
    for best in best_checkpoints(checkpoint).values():
        target = folder / best.name
        if not target.exists():
            copy_checkpoint(_locate_best(best, filename), target)


def check_no_unfinished_run(folder: Path) -> None:
    """Raise UserError if a folder has training states of an unfinished run."""
    if found := list_training_states(folder):
        raise UserError(
            f'{found[0]} belongs to an unfinished training: add --resume to continue it, give this run '
            'its own --work-dir, or move the old folder away'
        )


def check_no_later_state(folder: Path, epoch: int, iteration: int) -> None:
    """Raise UserError if a folder has a later training state, from which the next resume would start.

    Args:
        folder: The run folder.
        epoch: Number of completed epochs of the state from which training resumes.
        iteration: Its number of iterations.
    """
    for prefix, done in zip(STATE_PREFIXES, (epoch, iteration), strict=True):
        for path in _states_with_prefix(folder, prefix):
            if (_state_number(path, prefix) or 0) > done:
                raise UserError(
                    f'{path} is later than the checkpoint given to --resume; move it away, or give this '
                    'run its own --work-dir'
                )
