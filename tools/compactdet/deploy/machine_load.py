"""State of the machine during a measurement: load of other processes, CPU frequency, throttling, energy."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

CPUFREQ = '/sys/devices/system/cpu/cpu{}/cpufreq/scaling_cur_freq'
THROTTLE = '/sys/devices/system/cpu/cpu{}/thermal_throttle/core_throttle_count'
RAPL = Path('/sys/class/powercap/intel-rapl:0/energy_uj')
RAPL_RANGE = Path('/sys/class/powercap/intel-rapl:0/max_energy_range_uj')


@dataclass(frozen=True)
class Load:
    """What the machine did between two snapshots.

    Attributes:
        wall_s: Time between them, in seconds.
        other_cores: Cores that other processes used on average; None where the system does not tell.
        stolen_share: Share of CPU time that the hypervisor gave to other machines, 0 to 1; None as above.
        frequency_change: Largest CPU frequency over the smallest, of the snapshots; None as above.
        throttled: Number of thermal throttling events; None as above.
        energy_j: Energy of the CPU package in joules; None as above.
    """

    wall_s: float
    other_cores: float | None
    stolen_share: float | None
    frequency_change: float | None
    throttled: int | None
    energy_j: float | None


@dataclass(frozen=True)
class Snapshot:
    """Counters of the machine at one time; None where the system does not have one."""

    time_s: float
    process_s: float
    busy_s: float | None
    stolen_s: float | None
    total_s: float | None
    frequencies_khz: tuple[int, ...]
    throttled: int | None
    energy_uj: int | None


def snapshot() -> Snapshot:
    """Read the counters."""
    busy = stolen = total = None
    ticks = os.sysconf('SC_CLK_TCK') if hasattr(os, 'sysconf') else 100
    cpu = _read(Path('/proc/stat')).partition('\n')[0].split()
    if len(cpu) > 8:
        user, nice, system, idle, iowait, irq, softirq, steal = (int(x) / ticks for x in cpu[1:9])
        busy, stolen = user + nice + system + irq + softirq, steal
        total = busy + idle + iowait + steal
    cores = range(os.cpu_count() or 1)
    frequencies = tuple(
        int(text) for core in cores if (text := _read(Path(CPUFREQ.format(core)))).isdigit()
    )
    counts = [int(text) for core in cores if (text := _read(Path(THROTTLE.format(core)))).isdigit()]
    energy = _read(RAPL)
    times = os.times()
    return Snapshot(
        time.monotonic(),
        times.user + times.system + times.children_user + times.children_system,
        busy,
        stolen,
        total,
        frequencies,
        sum(counts) if counts else None,
        int(energy) if energy.isdigit() else None,
    )


def between(first: Snapshot, last: Snapshot) -> Load:
    """Return what happened between two snapshots."""
    wall = last.time_s - first.time_s
    other = stolen = change = throttled = energy = None
    if first.busy_s is not None and last.busy_s is not None and wall > 0:
        others = last.busy_s - first.busy_s - (last.process_s - first.process_s)
        other = max(0.0, others / wall)
    if None not in (first.total_s, last.total_s) and last.total_s != first.total_s:
        stolen = (last.stolen_s - first.stolen_s) / (last.total_s - first.total_s)  # type: ignore[operator]
    frequencies = first.frequencies_khz + last.frequencies_khz
    if frequencies and min(frequencies) > 0:
        change = max(frequencies) / min(frequencies)
    if first.throttled is not None and last.throttled is not None:
        throttled = last.throttled - first.throttled
    if first.energy_uj is not None and last.energy_uj is not None:
        used = last.energy_uj - first.energy_uj
        if used < 0:  # the counter started again
            limit = _read(RAPL_RANGE)
            used += int(limit) if limit.isdigit() else 0
        energy = used / 1e6 if used >= 0 else None
    return Load(wall, other, stolen, change, throttled, energy)


def _read(path: Path) -> str:
    """Return a text file's content without spaces around it; '' if it cannot be read."""
    try:
        return path.read_text(encoding='utf-8').strip()
    except (OSError, UnicodeDecodeError):
        return ''
