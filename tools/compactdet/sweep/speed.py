"""Measured speed of trainings: seconds per image, in training and in evaluation.

If there is a record of the same network on the same hardware, its speed is used. Otherwise a straight line
is fitted over two or more other networks, seconds = a + b x multiply-adds with a and b at least 0.
Otherwise there is no estimate.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import nnls

from compactdet.errors import UserError
from compactdet.records import record_file
from compactdet.records.pretraining_types import PretrainingRecord
from compactdet.records.record_types import Record

MEASURED, FITTED, TIMED = 'measured', 'fitted', 'timed'


@dataclass(frozen=True)
class Speed:
    """One measurement.

    Attributes:
        arch: The network.
        key: Other settings that affect speed: detector, data and sizes, batch size (see ``key_of``).
        gpu: Name of the GPU; None for a CPU.
        cpu: Name of the processor.
        threads: Threads of the CPU.
        train_s: Seconds per image of training; None if too few steps were timed.
        test_s: Seconds per image of evaluation.
        macs: Multiply-adds of an image at ``size``.
        size: Height and width at which the median test image enters the network.
    """

    arch: str
    key: str
    gpu: str | None
    cpu: str
    threads: int
    train_s: float | None
    test_s: float
    macs: int
    size: tuple[int, int]

    @property
    def hardware(self) -> str:
        """The machine, as far as it affects speed."""
        return hardware_name(self.gpu, self.cpu, self.threads)


@dataclass(frozen=True)
class Estimate:
    """Estimated time per image.

    Attributes:
        train_s: Seconds per image of training.
        test_s: Seconds per image of evaluation.
        basis: ``measured``, ``fitted`` or ``timed``.
        words: Source of the estimate, for the console.
        hardware: On which machine.
        on_gpu: Whether a GPU did it.
        threads: Of the CPU.
    """

    train_s: float
    test_s: float
    basis: str
    words: str
    hardware: str
    on_gpu: bool
    threads: int


def hardware_name(gpu: str | None, cpu: str, threads: int) -> str:
    """Return a GPU by its name, or a CPU by its name and number of threads."""
    return gpu or f'{cpu}, {threads} thread{"s" if threads > 1 else ""}'


def key_of(protocol: Mapping[str, Any]) -> str:
    """Return the settings of a protocol that affect speed: detector, data and batch size, not the BN
    policy.
    """
    names = ('model', 'train_data', 'test_data', 'batch_size', 'amp')
    if 'train_pipeline' in protocol:  # of a pretraining
        names = ('size', 'train_pipeline', 'test_pipeline', 'batch_size', 'amp')
    return record_file.content_key(_without_policy({name: protocol.get(name) for name in names}))


def _without_policy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_policy(item) for key, item in value.items() if key != 'bn_policy'}
    return [_without_policy(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass
class Speeds:
    """The available measurements.

    Attributes:
        all: All measurements.
        unreadable: Messages about records that cannot be used.
    """

    all: list[Speed] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def hardware(self, key: str) -> list[str]:
        """Return the machines with measurements."""
        return sorted({speed.hardware for speed in self.all if speed.key == key})


def read(places: Iterable[str | Path]) -> Speeds:
    """Read the speeds of the records in folders; a missing folder has none."""
    found = Speeds()
    for path in dict.fromkeys(path.resolve() for place in map(Path, places) for path in _records(place)):
        try:
            found.all.append(speed_of(record_file.read_any(path)))
        except UserError as error:
            found.unreadable.append(str(error))
    return found


def _records(place: Path) -> Iterator[Path]:
    yield from [place] if place.is_file() else sorted(place.rglob('record.json'))


def speed_of(record: Record | PretrainingRecord) -> Speed:
    """Return the measurement in a record.

    Raises:
        UserError: Several processes were used, whose speed is not that of one; or the costs were not
            measured.
    """
    training, hardware, costs = record['training'], record['hardware'], record['costs']
    if training.get('processes', 1) != 1:
        raise UserError(
            f'{record["arch"]}: {training["processes"]} processes trained it; one is planned for'
        )
    if 'at_input' in costs:
        at_input = costs['at_input']
        macs, height, width = at_input['total_macs'], at_input['height'], at_input['width']
        if macs is None or height is None or width is None:
            raise UserError(f'{record["arch"]}: the multiply-adds of its detector were not measured')
        size = (height, width)
    else:
        macs, size = costs['macs'], (costs['size'], costs['size'])
    images_per_s = training['images_per_s']
    test_images = record['dataset']['splits']['test']['images']
    return Speed(
        arch=record['arch'],
        key=key_of(record['protocol']),
        gpu=hardware['gpu'],
        cpu=hardware['cpu'],
        threads=hardware['threads'],
        train_s=1 / images_per_s if images_per_s else None,
        test_s=record['evaluation']['wall_s'] / test_images,
        macs=macs,
        size=size,
    )


def choose(
    speeds: Sequence[Speed], key: str, hardware: str | None, here: Speed | None
) -> tuple[list[Speed], str | None]:
    """Return the measurements of one machine for a plan.

    Args:
        speeds: All measurements.
        key: Key of the job.
        hardware: Part of the name of a machine; None for this machine.
        here: A `Speed` that identifies this machine.

    Returns:
        The measurements, and the reason if there are none.
    """
    groups: dict[str, list[Speed]] = {}
    for speed in speeds:
        if speed.key == key and speed.train_s is not None:
            groups.setdefault(speed.hardware, []).append(speed)
    if not groups:
        return [], 'no record of this detector and data; --measure 50 times it'
    known = '; '.join(sorted(groups))
    if hardware is not None:
        fit = {name: group for name, group in groups.items() if hardware.lower() in name.lower()}
        if not fit:
            return [], f'no record on hardware {hardware!r}; there are: {known}'
    else:
        fit = {name: group for name, group in groups.items() if here and _same_device(group[0], here)}
        if not fit:
            return (
                [],
                f'no record on this machine; --measure 50 times it, or --hardware takes one of: {known}',
            )

    def likeness(item: tuple[str, list[Speed]]) -> tuple:
        name, group = item
        threads = abs(group[0].threads - here.threads) if here else 0
        return (here is None or name != here.hardware, threads, -len({s.arch for s in group}), name)

    return min(fit.items(), key=likeness)[1], None


def _same_device(speed: Speed, here: Speed) -> bool:
    return speed.gpu == here.gpu if here.gpu or speed.gpu else speed.cpu == here.cpu


def estimate(speeds: Sequence[Speed], arch: str, macs: int | None) -> Estimate | None:
    """Estimate the time per image of a network from the measurements of one machine.

    Args:
        speeds: Measurements of one key and machine.
        arch: The network.
        macs: Its multiply-adds at their size; None if unknown: then only its own record is used.
    """
    own = [speed for speed in speeds if speed.arch == arch]
    if own:
        times = [statistics.fmean(getattr(speed, name) for speed in own) for name in ('train_s', 'test_s')]
        runs = f'{len(own)} run' + ('s' if len(own) > 1 else '')
        return _estimate(times, MEASURED, f'measured, {runs}', own[0])
    archs = sorted({speed.arch for speed in speeds})
    points = {name: [s for s in speeds if s.arch == name] for name in archs}
    x = [group[0].macs for group in points.values()]
    if macs is None or len(set(x)) < 2:
        return None
    times, worst = [], 0.0
    for name in ('train_s', 'test_s'):
        y = [statistics.fmean(getattr(speed, name) for speed in group) for group in points.values()]
        a, b = line(x, y)
        times.append(a + b * macs)
        worst = max(worst, *(abs(a + b * one - two) / two for one, two in zip(x, y, strict=True)))
    words = f'line through {len(archs)} networks'
    words += f', off by up to {100 * worst:.0f} % on them' if len(archs) > 2 else ''
    words += '' if min(x) <= macs <= max(x) else ', beyond them'
    return _estimate(times, FITTED, words, speeds[0])


def _estimate(times: Sequence[float], basis: str, words: str, speed: Speed) -> Estimate:
    return Estimate(times[0], times[1], basis, words, speed.hardware, speed.gpu is not None, speed.threads)


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Return a and b of the least-squares line y = a + b x, neither below 0."""
    scale = max(x)
    (a, b), _ = nnls(np.column_stack([np.ones(len(x)), np.asarray(x, float) / scale]), np.asarray(y, float))
    return float(a), float(b) / scale


def as_json(value: Estimate | None) -> dict[str, Any] | None:
    """Return an estimate for ``--format json``."""
    return None if value is None else json.loads(json.dumps(vars(value)))
