"""The record of a finished training that could not be written: kept in the run folder until it can."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from compactdet.errors import UserError, one_line
from compactdet.files import load_json, write_whole
from compactdet.records import record_file

RECORD, UNFINISHED = 'record.json', 'unfinished_record.json'

# Writes the detections of the test split to a path.
WriteDetections = Callable[[Path], None]


def write_record(folder: Path, content: Any, write_detections: WriteDetections | None = None) -> Path:
    """Write ``record.json`` into a run folder and return its path.

    If that fails, the content is kept as ``unfinished_record.json``, and the detections beside it.

    Args:
        folder: The run folder.
        content: Content of the record.
        write_detections: Writes the detections of the test split to a path; None if there are none to keep.

    Raises:
        UserError: The record cannot be written. The message states what was kept and how to write it.
    """
    path = folder / RECORD
    try:
        record_file.write(path, content)
    except Exception as error:  # whatever it is, the results of the training are kept
        kept = _keep(folder, content, write_detections)
        raise UserError(
            f'{one_line(error)}; kept in {folder}: {", ".join(kept) or "the checkpoints"}; '
            + (
                f'`{shlex.join(["python", "tools/record.py", str(folder)])}` writes the record'
                if UNFINISHED in kept
                else 'the training command with --resume repeats the test'
            )
        ) from error
    _remove(folder)
    return path


def finish_record(folder: Path) -> Path:
    """Write ``record.json`` from the ``unfinished_record.json`` of a run folder and return its path.

    Raises:
        UserError: The folder has none, or the record cannot be written.
    """
    path = folder / UNFINISHED
    if (folder / RECORD).exists():
        raise UserError(f'{folder / RECORD}: the run has its record already')
    if not path.is_file():
        raise UserError(
            f'{folder}: no {UNFINISHED} in it; the training command with --resume trains the rest, repeats '
            'the test and writes the record'
        )
    record_file.write(folder / RECORD, load_json(path))
    _remove(folder)
    return folder / RECORD


def _keep(folder: Path, content: Mapping[str, Any], write_detections: WriteDetections | None) -> list[str]:
    """Write the content and the detections, if that is possible, and return the names of the files."""
    kept = []
    with contextlib.suppress(Exception):  # as on a full disk
        write_whole(folder / UNFINISHED, json.dumps(content, indent=2, default=str))
        kept.append(UNFINISHED)
    with contextlib.suppress(Exception):
        if write_detections is not None:
            write_detections(folder / 'predictions.json')
            kept.append('predictions.json')
    return kept


def _remove(folder: Path) -> None:
    """Remove the kept content: the record has it."""
    (folder / UNFINISHED).unlink(missing_ok=True)
