"""Checkpoint files: read without executing code, written completely or not at all, checked by checksum."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from torch import Tensor

from backbones.weights import WeightsError, load_pickle_safely
from compactdet.errors import UserError


class StateFile(TypedDict):
    """A training state that a run keeps.

    Attributes:
        name: Its file name.
        iter: Number of iterations that were done.
        periodic: Whether it was saved at the interval of the checkpoint hook.
        best: File names of the best checkpoints at that time.
    """

    name: str
    iter: int
    periodic: bool
    best: list[str]


class StateFiles(TypedDict):
    """The training states of a run when one was saved.

    Attributes:
        kept: Those that are kept, the saved one included, oldest first.
        removed: Names of the files that are removed once the state is saved.
    """

    kept: list[StateFile]
    removed: list[str]


class Position(TypedDict):
    """The position of a training run.

    Attributes:
        epoch: Number of epochs that were completed.
        iter: Number of iterations that were done.
        turn: Epoch number that the sampler has; with an iteration-based loop, its number of passes.
        batch: Number of batches of that epoch or pass that were used.
        batches: Length of the data loader.
        validated: Whether the validation that was due here is done.
        stopped: Whether a hook has stopped the training early.
        wall_s: Training time so far, in seconds.
        peak_memory_bytes: Highest memory use so far.
    """

    epoch: int
    iter: int
    turn: int
    batch: int
    batches: int
    validated: bool
    stopped: bool
    wall_s: float
    peak_memory_bytes: int


class ProcessState(TypedDict, total=False):
    """The part of a training state that differs between processes.

    Attributes:
        generators: States of the random number generators; see ``randomness.get_generator_states``.
        threads: Number of PyTorch's CPU threads.
        torch: Version of PyTorch.
        hooks: States of the hooks by name; see `HookStates`.
        buffers: The model's buffers by name; only with several processes.
    """

    generators: dict[str, Any]
    threads: int
    torch: str
    hooks: dict[str, Any]
    buffers: dict[str, Tensor]


class Progress(Position):
    """The entry ``progress`` of a checkpoint: what MMEngine's own checkpoints lack for an exact resume.

    Attributes:
        processes: One entry for each process, by rank.
        protocol: The protocol of the run, or None if the runner has none.
        files: The run's training states.
    """

    processes: list[ProcessState]
    protocol: dict[str, Any] | None
    files: StateFiles


def temporary_path(path: Path) -> Path:
    """Return the path of the temporary file that is written before it replaces ``path``."""
    return path.with_name(f'{path.name}.part')


def verify_and_move(part: Path, path: Path) -> None:
    """Flush a written checkpoint to the disk, read it back and move it to ``path``.

    An existing file at ``path`` is replaced only if the new one is valid.

    Raises:
        OSError: The disk is full or not available.
        WeightsError: The file that was read back is damaged.
    """
    with part.open('rb') as file:
        os.fsync(file.fileno())
        if hasattr(os, 'posix_fadvise'):  # otherwise the read is served from memory
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    check_checksums(part)
    load_pickle_safely(part)
    part.replace(path)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk: flushing a file does not include its name."""
    if os.name != 'posix':
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_checksums(path: Path) -> None:
    """Compare the content of a PyTorch file with its checksums, which PyTorch itself does not check.

    Raises:
        WeightsError: The file is truncated, damaged, absent, or not a PyTorch file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except OSError as error:
        raise WeightsError(f'cannot read {path}: {error.strerror or error}') from error
    except Exception as error:  # a damaged file can raise any error in the reader
        raise WeightsError(f'{path} is truncated or not a PyTorch file ({error})') from error
    if damaged is not None:
        raise WeightsError(f'{path} is damaged: the checksum of its entry {damaged} is wrong')


def copy_checkpoint(source: Path, target: Path) -> None:
    """Copy a checkpoint through a temporary file, and verify the copy.

    Raises:
        UserError: The file cannot be read or written; no partial copy is left.
        WeightsError: The file is damaged.
    """
    part = temporary_path(target)
    try:
        shutil.copyfile(source, part)
        verify_and_move(part, target)
    except OSError as error:
        raise UserError(f'cannot copy {source} to {target}: {error.strerror}') from error
    finally:
        part.unlink(missing_ok=True)


def read_checkpoint(filename: str | Path) -> dict[str, Any]:
    """Read a detector checkpoint without executing code in it.

    Raises:
        WeightsError: The file is absent, truncated, or contains code.
        UserError: The file is not a detector checkpoint.
    """
    checkpoint = load_pickle_safely(filename)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get('state_dict'), dict):
        raise UserError(f'{filename} is not a detector checkpoint: it has no state_dict')
    if not all(isinstance(value, Tensor) for value in checkpoint['state_dict'].values()):
        raise UserError(
            f'{filename} is not a detector checkpoint: its state_dict contains more than tensors'
        )
    if not isinstance(checkpoint.setdefault('meta', {}), dict):
        raise UserError(f'{filename} is not a detector checkpoint: its meta is not a dict')
    return checkpoint


def read_training_state(filename: str | Path) -> dict[str, Any]:
    """Read a checkpoint from which training can resume, without executing code in it.

    Raises:
        WeightsError: The file is absent, truncated, damaged, or contains code.
        UserError: The file is not a detector checkpoint, or has no training state.
    """
    checkpoint = read_checkpoint(filename)
    missing = [key for key in ('optimizer', 'message_hub') if key not in checkpoint]
    missing += [f'meta.{key}' for key in ('epoch', 'iter') if key not in checkpoint['meta']]
    if missing:
        raise UserError(
            f'{filename} is not a training state: it has no {", ".join(missing)}; '
            'resume from a checkpoint that the training saved at an interval (epoch_N.pth)'
        )
    if zipfile.is_zipfile(filename):
        check_checksums(Path(filename))
    return checkpoint


def best_checkpoints(checkpoint: Mapping[str, Any]) -> dict[str, Path]:
    """Return the best checkpoints that a training state names, by their key in the message hub."""
    found = checkpoint['message_hub'].get('runtime_info', {})
    return {key: Path(value) for key, value in found.items() if key.startswith('best_ckpt')}
