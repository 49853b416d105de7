"""The plan of a grid: runs, finished runs, and estimated hours from measured speeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from mmengine.registry import DATASETS, MODELS, init_default_scope

from backbones.spec import UnknownArchError
from compactdet.costs import has_two_forms
from compactdet.detector_costs import detector_costs
from compactdet.errors import UserError
from compactdet.layer_costs import count
from compactdet.mmdetection import DATASETS as DETECTION
from compactdet.pretraining import record_facts
from compactdet.records import protocol
from compactdet.records.environment import hardware as hardware_facts
from compactdet.sweep import measure as sweep_measure
from compactdet.sweep import speed as sweep_speed
from compactdet.sweep.folder import Folder
from compactdet.sweep.grid import Job, Pretraining, Run
from compactdet.sweep.jobs import compose_job_config
from compactdet.sweep.speed import Estimate, Speed, Speeds

# Published number of images for training (with boxes), validation and testing.
IMAGES = {
    'voc07': (5011, 0, 4952),
    'coco': (117_266, 0, 5000),
    'coco_600': (117_266, 0, 5000),
    'coco_300': (117_266, 0, 5000),
    'shapes': (3000, 200, 500),
    'bccd': (205, 87, 72),
    'imagenet': (1_281_167, 0, 50_000),
    'cifar10': (50_000, 0, 10_000),
    'cifar100': (50_000, 0, 10_000),
    'svhn': (73_257, 0, 26_032),
    'mnist': (60_000, 0, 10_000),
}


@dataclass(frozen=True)
class Work:
    """The amount of work of a run.

    Attributes:
        train: Training images, each counted as often as it is used.
        evaluated: Images of every validation and of the test.
        counted: Whether the images were counted; otherwise the published numbers are used.
    """

    train: int
    evaluated: int
    counted: bool

    def seconds(self, estimate: Estimate) -> float:
        """Return the time of training, validation and testing."""
        return self.train * estimate.train_s + self.evaluated * estimate.test_s


@dataclass(frozen=True)
class Row:
    """The runs that differ only in their seed.

    Attributes:
        jobs: Jobs of the runs.
        finished: Number of jobs that have their record.
        work: Amount of work of each run.
        estimate: Estimated time of an image; None if it is not known.
        why: Reason why there is no estimate; None if there is one.
    """

    jobs: tuple[Job, ...]
    finished: int
    work: Work
    estimate: Estimate | None
    why: str | None

    @property
    def seconds(self) -> float | None:
        """Seconds of one run."""
        return None if self.estimate is None else self.work.seconds(self.estimate)


def plan(
    folder: Folder,
    jobs: Sequence[Job],
    speeds: Speeds,
    hardware: str | None = None,
    threads: int = 1,
    measure: int | None = None,
) -> list[Row]:
    """Return the rows of a plan.

    Args:
        folder: Folder of the sweep, which need not exist.
        jobs: Jobs to plan.
        speeds: Measured speeds.
        hardware: Part of the name of the machine to plan for; None for this one.
        threads: Threads of each run on a CPU.
        measure: Number of steps to time where no speed is known; None to time nothing.

    Raises:
        UserError: A job is not possible, or its data cannot be counted.
    """
    here = this_machine(threads)
    groups: dict[Job, list[Job]] = {}
    for job in jobs:
        groups.setdefault(replace(job, seed=0, **_no_seeds(job)), []).append(job)
    works: dict[str, Work] = {}
    rows = []
    for group in groups.values():
        cfg = compose_job_config(group[0], folder.out)
        key = sweep_speed.key_of(protocol_of(group[0], cfg))
        name = f'{key} {cfg.train_cfg}'
        if name not in works:
            works[name] = work_of(group[0], cfg)
        found, why = sweep_speed.choose(speeds.all, key, hardware, here)
        estimate = None
        if found:
            arch = cfg.model.backbone.arch
            macs = None
            if all(speed.arch != arch for speed in found):
                macs = macs_of(group[0], cfg, found[0].size)
                found = [as_trained(speed, group[0], folder.out) for speed in found]
            estimate = sweep_speed.estimate(found, arch, macs)
            if estimate is None:
                why = 'no record of this network, and a line needs two networks; --measure 50 times it'
        if estimate is None and measure and hardware and hardware.lower() not in here.hardware.lower():
            why = f'{why}; this machine, which could be timed, is another: {here.hardware}'
        elif estimate is None and measure:
            try:
                estimate = sweep_measure.measure(cfg, measure, threads)
            except UserError as error:
                why = f'cannot be timed: {error}'
        finished = sum(
            (folder.out / job.name / 'record.json').is_file() and folder.finished(job) for job in group
        )
        rows.append(Row(tuple(group), finished, works[name], estimate, why if estimate is None else None))
    return rows


def _no_seeds(job: Job) -> dict[str, Any]:
    if isinstance(job, Pretraining) or job.pretraining is None:
        return {}
    return {'pretraining': replace(job.pretraining, seed=0)}


def this_machine(threads: int) -> Speed:
    """Return a `Speed` that identifies this machine."""
    facts = hardware_facts()
    return Speed('', '', facts['gpu'], facts['cpu'], threads, None, 0, 0, (0, 0))


def protocol_of(job: Job, cfg: Any) -> dict[str, Any]:
    """Return the protocol of a job, without what depends on its data."""
    if isinstance(job, Run):
        return protocol.protocol_of(cfg, {}, 'none')
    return record_facts.protocol_of(cfg, {})


def work_of(job: Job, cfg: Any) -> Work:
    """Return the work of a job.

    Raises:
        UserError: Its data set has no published number of images, and is missing or cannot be read.
    """
    train, val, test, counted = images_of(job, cfg)
    loop = cfg.train_cfg
    if 'max_epochs' in loop:
        seen, ends = loop.max_epochs * train, loop.max_epochs
    else:
        seen, ends = loop.max_iters * cfg.train_dataloader.batch_size, loop.max_iters
    validations = 0
    if val:
        begin, interval = loop.get('val_begin', 1), loop.get('val_interval', 1)
        validations = sum(n >= begin and (n % interval == 0 or n == ends) for n in range(1, ends + 1))
        validations += bool(
            cfg.default_hooks.checkpoint.get('save_best')
        )  # the best checkpoint is validated again
    return Work(seen, validations * val + test, counted)


def images_of(job: Job, cfg: Any) -> tuple[int, int, int, bool]:
    """Return the number of images of the three splits, and whether they were counted.

    A data set whose folder the grid names is counted if it exists; another is assumed to be the published
    one.
    """
    if job.dataset in IMAGES and (job.data_root is None or not Path(job.data_root).is_dir()):
        train, val, test = IMAGES[job.dataset]
        return train, val if cfg.get('val_dataloader') else 0, test, False
    registry = DETECTION if isinstance(job, Run) else DATASETS
    init_default_scope(cfg.default_scope)
    counts = [
        len(registry.build(loader.dataset)) if (loader := cfg.get(f'{name}_dataloader')) else 0
        for name in ('train', 'val', 'test')
    ]
    return counts[0], counts[1], counts[2], True


def as_trained(speed: Speed, job: Job, out: Path) -> Speed:
    """Return a speed with the multiply-adds of the training form; the record has those of the test-time
    form.
    """
    try:
        if isinstance(job, Pretraining) or not has_two_forms(speed.arch):
            return speed
    except UnknownArchError:  # a record made elsewhere
        return speed
    same = replace(job, arch=speed.arch, init='none', pretraining=None)
    return replace(speed, macs=macs_of(same, compose_job_config(same, out), speed.size))


def macs_of(job: Job, cfg: Any, size: tuple[int, int]) -> int:
    """Return the multiply-adds of an image of ``size`` (height, width), in the training form.

    Raises:
        UserError: They cannot be measured.
    """
    if isinstance(job, Run):
        costs = detector_costs(cfg.model, *size, test_time=False)
        if costs.total_macs is None:
            raise UserError(f'{job.arch}: {"; ".join(costs.not_measured.values())}')
        return costs.total_macs
    with torch.device('meta'):
        network = MODELS.build(dict(cfg.model.backbone))
        return count(network, torch.empty(1, 3, *size)).macs
