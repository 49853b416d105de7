"""Single-stream latency of several candidates, measured in interleaved rounds.

One image at a time, as in the single-stream scenario of MLPerf Inference (Reddi et al. 2020,
arXiv:1911.02549). In every round each candidate runs for a short time, in random order, so that a
disturbance of the machine reaches all of them. The latency of a candidate is the median of its inferences.
Its interval and the interval of a ratio are bootstrap intervals over rounds, since the inferences of a
round are not independent. A measurement is not usable if the machine was disturbed more than `LIMITS`
allow; a single result is marked as uncertain if its interval is too wide.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compactdet.deploy.machine_load import Load, between, snapshot

TURN_S = 0.05  # seconds of a candidate in a round, at least one inference
WARM_UP_S, STABLE = 5.0, 0.05  # longest warm-up; it ends when two successive medians differ by less
RESAMPLES = 2000
# Above these a measurement is not usable: cores used by other processes, share of time that the hypervisor
# took, ratio of CPU frequencies, throttling events. 'interval' is half the interval of a median over the
# median, above which that result is uncertain.
LIMITS = {
    'other_cores': 0.25,
    'stolen_share': 0.02,
    'frequency_change': 1.2,
    'throttled': 0,
    'interval': 0.05,
}


@dataclass(frozen=True)
class Candidate:
    """Something whose latency is measured.

    Attributes:
        name: Network or file.
        backend: 'eager', 'channels_last', 'compile', 'onnxruntime' or 'openvino'.
        threads: Number of threads.
        batch: Images per inference.
        size: Height and width in pixels.
        run: Function of no arguments that does one inference and waits for its end.
        prepare: Function that sets the number of threads before a turn.
    """

    name: str
    backend: str
    threads: int
    batch: int
    size: tuple[int, int]
    run: Callable[[], Any] = field(repr=False)
    prepare: Callable[[], None] = field(default=lambda: None, repr=False)

    @property
    def key(self) -> tuple[str, str, int, int, tuple[int, int]]:
        """What tells candidates apart."""
        return self.name, self.backend, self.threads, self.batch, self.size


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Result:
    """The latency of one candidate; times in milliseconds.

    Attributes:
        candidate: What was measured.
        median: Median and its interval.
        p90: 90th percentile.
        p99: 99th percentile; None with fewer than 100 inferences.
        inferences: Number of measured inferences.
        warm_up: Number of inferences before them.
        ratio: Median over that of the reference of the same backend, threads, batch and size; None for
            the reference itself.
        energy_mj: Energy of the CPU package per inference in millijoules; None where the machine does not
            tell.
    """

    candidate: Candidate
    median: Interval
    p90: float
    p99: float | None
    inferences: int
    warm_up: int
    ratio: Interval | None
    energy_mj: float | None


@dataclass(frozen=True)
class Measurement:
    """All results of one run of the rig.

    Attributes:
        results: In the order of the candidates.
        load: What else the machine did.
        problems: Why the results are not usable, one sentence each; empty if they are.
        rounds: Number of rounds.
    """

    results: tuple[Result, ...]
    load: Load
    problems: tuple[str, ...]
    rounds: int


def measure(
    candidates: Sequence[Candidate], rounds: int, reference: str | None = None, seed: int = 0
) -> Measurement:
    """Measure candidates in interleaved rounds.

    Args:
        candidates: With different keys.
        rounds: Number of rounds; at least 2.
        reference: Name of the candidate to which ratios are stated; None for no ratios.
        seed: Seed of the orders and of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    warm_ups = [warm_up(candidate) for candidate in candidates]
    turns: list[list[np.ndarray]] = [[] for _ in candidates]
    energies: list[list[float]] = [[] for _ in candidates]
    before = snapshot()
    for _ in range(rounds):
        for index in rng.permutation(len(candidates)):
            candidates[index].prepare()
            start = snapshot()
            turns[index].append(turn(candidates[index].run))
            used = between(start, snapshot()).energy_j
            if used is not None:
                energies[index].append(used)
    load = between(before, snapshot())
    results = []
    for index, candidate in enumerate(candidates):
        base = _reference(candidates, candidate, reference)
        ratio = None if base is None else ratio_interval(turns[index], turns[base], rng)
        times = np.concatenate(turns[index])
        energy = 1e3 * sum(energies[index]) / len(times) if energies[index] else None
        results.append(
            Result(
                candidate,
                median_interval(turns[index], rng),
                float(np.percentile(times, 90)),
                float(np.percentile(times, 99)) if len(times) >= 100 else None,
                len(times),
                warm_ups[index],
                ratio,
                energy,
            )
        )
    return Measurement(tuple(results), load, tuple(find_problems(load)), rounds)


def warm_up(candidate: Candidate) -> int:
    """Run a candidate until its latency is stable, or for `WARM_UP_S`; return the number of inferences."""
    candidate.prepare()
    count, last, end = 0, math.inf, time.monotonic() + WARM_UP_S
    while time.monotonic() < end:
        times = turn(candidate.run)
        count += len(times)
        median = statistics.median(times)
        if abs(median - last) < STABLE * last < math.inf:
            break
        last = median
    return count


def turn(run: Callable[[], Any]) -> np.ndarray:
    """Run for `TURN_S`, at least once; return the time of each inference in milliseconds, (n,).

    A first inference is not timed: it finds the caches filled by another candidate.
    """
    times: list[float] = []
    run()
    end = time.perf_counter() + TURN_S
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - start))
    return np.array(times)


def median_interval(turns: Sequence[np.ndarray], rng: np.random.Generator) -> Interval:
    """Return the median of all inferences and its bootstrap interval over rounds."""
    medians = np.array([np.median(times) for times in turns])
    drawn = np.median(rng.choice(medians, (RESAMPLES, len(medians))), axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    value = float(np.median(np.concatenate(turns)))
    return Interval(value, min(float(low), value), max(float(high), value))


def ratio_interval(
    turns: Sequence[np.ndarray], base: Sequence[np.ndarray], rng: np.random.Generator
) -> Interval:
    """Return the ratio of two candidates' latency in the same rounds, and its bootstrap interval."""
    ratios = np.array([np.median(own) / np.median(other) for own, other in zip(turns, base, strict=True)])
    drawn = np.median(rng.choice(ratios, (RESAMPLES, len(ratios))), axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(np.median(ratios)), float(low), float(high))


def find_problems(load: Load) -> list[str]:
    """Return why a measurement is not usable."""
    problems = []
    texts = {
        'other_cores': 'other processes used {:.2f} cores',
        'stolen_share': 'the hypervisor took {:.1%} of the CPU time',
        'frequency_change': 'the CPU frequency changed by a factor of {:.2f}',
        'throttled': 'the CPU was throttled {} times',
    }
    for name, text in texts.items():
        value = getattr(load, name)
        if value is not None and value > LIMITS[name]:
            problems.append(f'{text.format(value)} (limit {LIMITS[name]:g})')
    return problems


def uncertainty(median: Interval) -> float:
    """Return half the width of the interval of a median over the median."""
    return (median.high - median.low) / 2 / median.value


def _reference(candidates: Sequence[Candidate], candidate: Candidate, name: str | None) -> int | None:
    """Return the index of the reference for a candidate; None for itself, or if there is none."""
    if name is None or candidate.name == name:
        return None
    wanted = (name, *candidate.key[1:])
    return next((i for i, other in enumerate(candidates) if other.key == wanted), None)
