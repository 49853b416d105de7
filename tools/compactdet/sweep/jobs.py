"""Commands of a sweep's jobs, and the check whether a job has already finished.

A finished run is recognized by its record: network, seed, content of the initial weights, and resolved
config, which is composed here exactly as in ``tools/train.py``. Settings that do not affect results are
excluded: how the run was started, saved and logged, messages for the user, and the path of the initial
weights, whose content is compared. So the folder of a sweep may be moved.
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from compactdet.config.resolved import comparable, read_comparable_config
from compactdet.errors import UserError, user_line
from compactdet.records import record_file
from compactdet.records.pretraining_types import PretrainingRecord
from compactdet.records.record_types import Record
from compactdet.sweep.grid import Job, Pretraining, Run

TOOLS = Path(__file__).parents[2]
# Patterns of places in a config. The selection of the tested checkpoint (save_best, rule) affects results.
NO_EFFECT_ON_RESULTS = (
    'work_dir', 'launcher', 'resume', 'log_*', 'runner_type', 'custom_imports', 'default_hooks.timer',
    'default_hooks.logger', *(f'default_hooks.checkpoint.{key}' for key in ('type', 'interval', 'minutes')),
    'default_hooks.checkpoint.max_keep_ckpts', 'how_to_get', '*.how_to_get',
)  # fmt: skip
WEIGHTS_FILES = ('*.init_cfg.checkpoint', 'model.backbone.init')
ABSENT = 'nothing'
NOT_THERE = 'a file that is not there yet'

_one_at_a_time = threading.Lock()  # MMEngine uses global variables while composing


@dataclass(frozen=True)
class JobIdentity:
    """Settings that decide whether a finished run is the run of a job.

    Attributes:
        arch: Name of the network.
        seed: Seed.
        init: SHA-256 of the initial weights; `NOT_THERE` if the file does not exist yet, None for none.
        config: Resolved config, as ``comparable`` returns it.
    """

    arch: str
    seed: int
    init: str | None
    config: Mapping[str, Any]


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

    def identity(self, job: Job) -> JobIdentity:
        """Return the identity of a job.

        Raises:
            UserError: The job cannot be composed, or its initial weights cannot be read.
        """
        from backbones.weights import file_sha256  # here: loads PyTorch

        cfg = compose_job_config(job, self.out)
        backbone = cfg.model.backbone
        init = backbone.get('init') or (backbone.get('init_cfg') or {}).get('checkpoint')
        if init is not None:
            init = file_sha256(init) if Path(init).is_file() else NOT_THERE
        return JobIdentity(backbone.arch, job.seed, init, comparable(cfg.to_dict()))

    def stated(self, job: Job, record: Record | PretrainingRecord) -> JobIdentity:
        """Return the job identity stated in a record."""
        config = read_comparable_config(record['config']['text'], f'{job.name}: config.text of its record')
        return JobIdentity(record['arch'], record['seed'], record['init']['sha256'], config)

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


def result_settings(identity: JobIdentity) -> dict[str, Any]:
    """Return the fields of an identity, its config reduced to the settings that affect results."""
    return {
        'arch': identity.arch,
        'seed': identity.seed,
        'init': identity.init,
        'config': _result_settings(identity.config, ''),
    }


def _result_settings(value: Any, place: str) -> Any:
    if any(fnmatchcase(place, pattern) for pattern in WEIGHTS_FILES):
        return value is not None
    if isinstance(value, Mapping):
        inner = {key: (item, f'{place}.{key}'.lstrip('.')) for key, item in value.items()}
        return {
            key: _result_settings(*pair)
            for key, pair in inner.items()
            if not any(fnmatchcase(pair[1], pattern) for pattern in NO_EFFECT_ON_RESULTS)
        }
    return (
        [_result_settings(item, f'{place}.{n}') for n, item in enumerate(value)]
        if isinstance(value, list)
        else value
    )


def difference(wanted: JobIdentity, stated: JobIdentity) -> str | None:
    """Return in words the first difference of two identities that affects results, or None."""
    for place, one, other in _differences(result_settings(wanted), result_settings(stated), ''):
        if place == 'config.load_from' and ABSENT in (one, other):
            continue  # excluded from the record of a resumed run
        return f'its {place.removeprefix("config.")} is {_short(other)}, the grid asks for {_short(one)}'
    return None


def _differences(one: Any, other: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            inner = f'{place}.{key}' if place else str(key)
            yield from _differences(one.get(key, ABSENT), other.get(key, ABSENT), inner)
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from _differences(*pair, f'{place}.{index}')
    elif one != other or type(one) is not type(other):
        yield place, one, other


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f'{text[:57]}...'
