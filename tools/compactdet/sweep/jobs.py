"""Commands of a sweep's jobs, and the check whether a job has already finished.

A finished run is recognized by its record, see ``compactdet.records.run_identity``. The config of the job
is composed exactly as in ``tools/train.py``. The folder of a sweep may be moved, and so may the data.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from compactdet.errors import UserError, user_line
from compactdet.records import record_file
from compactdet.records.pretraining_types import PretrainingRecord
from compactdet.records.record_types import Record
from compactdet.records.run_identity import (
    RunIdentity,
    difference,
    has_other_locations,
    identity_of,
    stated_identity,
)
from compactdet.sweep.grid import Job, Pretraining, Run

TOOLS = Path(__file__).parents[2]

_one_at_a_time = threading.Lock()  # MMEngine uses global variables while composing


class Suite:
    """Commands and identities of jobs.

    Attributes:
        out: Folder of the sweep, as in commands.
    """

    def __init__(self, out: Path) -> None:
        self.out = out

    def command(self, job: Job, *, resume: bool) -> list[str]:
        """Return the command that runs a job or resumes it."""
        tool = 'pretrain.py' if isinstance(job, Pretraining) else 'train.py'
        arguments = job.arguments(self.out)
        resumed = ['--resume'] if resume else []
        return [sys.executable, str(TOOLS / tool), *resumed, *arguments]

    def sweep_command(self) -> list[str]:
        """Return the command that runs jobs of a sweep, without its arguments."""
        return [sys.executable, str(TOOLS / 'sweep.py')]

    def check(self, jobs: Sequence[Job]) -> None:
        """Compose the config of every job before the first one starts; of jobs that differ only in their
        seed, one.

        Raises:
            UserError: One of them cannot be: an unknown network, one that the detector cannot use, a bad
                option, initial weights that are not there.
        """
        from compactdet.config.options import check_initial_weights  # here: loads PyTorch

        seen: set[Job] = set()
        for job in jobs:
            same = replace(job, seed=0)
            if isinstance(same, Run):
                same = replace(same, pretraining=None)
            if same in seen:
                continue
            seen.add(same)
            cfg = compose_job_config(job, self.out)
            if isinstance(job, Run) and job.pretraining is None:
                with naming(job):
                    check_initial_weights(cfg)

    def identity(self, job: Job) -> RunIdentity:
        """Return the identity of a job.

        Raises:
            UserError: The job cannot be composed, or its initial weights cannot be read.
        """
        return identity_of(compose_job_config(job, self.out), job.seed)

    def stated(self, job: Job, record: Record | PretrainingRecord) -> RunIdentity:
        """Return the identity of the run of a record."""
        return stated_identity(record, job.name)

    def other_run(self, job: Job, identity: RunIdentity, record: Record | PretrainingRecord) -> str | None:
        """Return in words how the run of a record differs from a job; None if it is that of the job.

        Args:
            job: The job.
            identity: Its identity.
            record: The record.
        """
        stated = self.stated(job, record)
        differs = difference(identity, stated)
        if differs is None and has_other_locations(identity, stated):
            from compactdet.training.finished import other_data  # here: loads PyTorch

            return other_data(compose_job_config(job, self.out), record)
        return differs

    def read(self, job: Job) -> Record | PretrainingRecord | None:
        """Read a job's record; return None if there is none.

        Raises:
            UserError: It is not valid, or the weights that it names are missing.
        """
        path = self.out / job.name / 'record.json'
        if not path.exists():
            return None
        if isinstance(job, Run):
            return record_file.read(path)
        record = record_file.read_pretraining(path)
        from backbones.weights import file_sha256  # here: loads PyTorch

        weights = job.weights(self.out)
        if not weights.is_file() or file_sha256(weights) != record['weights']['sha256']:
            raise UserError(f'{weights} is not the file that {path} tells of; move the folder away')
        return record


def compose_job_config(job: Job, out: Path) -> Any:
    """Return the config of a job, as its tool composes it.

    Raises:
        UserError: The job is not possible.
    """
    with _one_at_a_time, naming(job):
        return _compose_run(job, out) if isinstance(job, Run) else _compose_pretraining(job, out)


def _compose_run(job: Run, out: Path) -> Any:
    # here: a sweep starts, and shows its status, without loading PyTorch
    from compactdet.config.argument_types import parse_cfg_value
    from compactdet.config.choice import DetectorChoice
    from compactdet.config.options import TrainOptions, config_from_options

    options = {}
    for key, _, text in (option.partition('=') for option in job.options()):
        options[key] = parse_cfg_value(text)
    choice = DetectorChoice(job.arch, job.detector, job.dataset, job.schedule, job.data_root)
    return config_from_options(
        TrainOptions(
            choice, str(out / job.name), 'auto', job.seed, job.data_root, job.start(out), job.lr,
            precision='fp16' if job.amp else None, cfg_options=options,
        )
    )  # fmt: skip


def _compose_pretraining(job: Pretraining, out: Path) -> Any:
    try:
        # here: loads PyTorch, and MMPretrain, which is optional
        from compactdet.pretraining.choice import PretrainChoice
        from compactdet.pretraining.options import PretrainOptions, config_from_options
    except ModuleNotFoundError as error:
        raise UserError(f'{error}; pretraining needs MMPretrain: pip install -e ".[pretrain]"') from error

    choice = PretrainChoice(job.arch, job.dataset, job.recipe, job.size, job.data_root)
    folder = str(out / job.name)
    return config_from_options(
        PretrainOptions(choice, folder, 'auto', job.seed, job.data_root, epochs=job.epochs)
    )


@contextlib.contextmanager
def naming(job: Job) -> Iterator[None]:
    """Put the name of a job in front of the message of a user error."""
    try:
        yield
    except Exception as error:
        line = user_line(error)
        if line is None:
            raise
        raise UserError(f'{job.name}: {line}') from error
