"""Whether a run that is to be resumed has finished; its command may be repeated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.config import Config

from compactdet.data.base_dataset import annotations_sha256, innermost
from compactdet.errors import UserError
from compactdet.records.pretraining_types import PretrainingRecord
from compactdet.records.record_file import is_pretraining_record, read
from compactdet.records.record_types import Record
from compactdet.records.run_identity import difference, has_other_locations, identity_of, stated_identity
from compactdet.training.checkpoints import read_checkpoint, read_training_state
from compactdet.training.run_folder import check_no_unfinished_run
from compactdet.training.run_stages import build_datasets


def is_finished(
    cfg: Config, record_path: Path, read_record: Callable[[Path], Record | PretrainingRecord] = read
) -> bool:
    """Return True if a run that is to be resumed has finished.

    Args:
        cfg: The composed config.
        record_path: Path of the run's record.
        read_record: ``record_file.read``, or ``read_pretraining`` for a pretraining.

    Raises:
        UserError: The folder holds the record of another run, or training states that this run does not
            resume.
        WeightsError: The checkpoint to start from cannot be read.
    """
    if record_path.exists():
        differs = 'this run does not resume it'
        if cfg.get('resume'):
            found = _other_run(cfg, read_record(record_path), str(record_path))
            if found is None:
                return True
            differs = found
        raise UserError(
            f'{record_path} is the record of a finished run, which is never overwritten ({differs}); '
            'give this run its own --work-dir, or move the old folder away'
        )
    if not cfg.get('resume'):
        check_no_unfinished_run(Path(cfg.work_dir))
    if cfg.get('load_from'):  # before the run folder is created
        (read_training_state if cfg.get('resume') else read_checkpoint)(cfg.load_from)
    return False


def _other_run(cfg: Config, record: Record | PretrainingRecord, name: str) -> str | None:
    """Return in words how the run of a record differs from that of a config; None if it is the same."""
    wanted, stated = (
        identity_of(cfg, cfg.randomness.get('seed', record['seed'])),
        stated_identity(record, name),
    )
    differs = difference(wanted, stated)
    if differs is None and has_other_locations(wanted, stated):
        return other_data(cfg, record)
    return differs


def other_data(cfg: Config, record: Record | PretrainingRecord) -> str | None:
    """Return in words how a config's data differ from those of a record; None if they have its content.

    Args:
        cfg: The config.
        record: The record.
    """
    try:
        datasets = build_datasets(cfg)
    except UserError as error:
        return f'its data are in another folder, and those of this run cannot be compared: {error}'
    splits: Any = record['dataset']['splits']
    for name, dataset in datasets.items():
        if is_pretraining_record(record):
            key, found = 'sha256', dataset.facts()['sha256']
        else:
            place = f'{name}_dataloader.dataset'
            inner = innermost(dataset, place, several=name == 'train')
            key, found = 'annotations_sha256', annotations_sha256(inner)
        if splits.get(name, {}).get(key) != found:
            return f'its {name} split is of other data'
    return None
