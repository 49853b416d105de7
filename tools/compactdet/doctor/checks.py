"""Check whether the suite can run on this machine, and state what to do if not.

Nothing that may be damaged is imported at the top: PyTorch and MMDetection are tried in separate processes
(`compactdet.doctor.stack`), and what needs them (`compactdet.doctor.files`) is checked only if they work.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from compactdet.doctor.findings import REINSTALL, Finding, Places
from compactdet.doctor.stack import check_stack, check_torch

GIB = 2**30
OLDEST_PYTHON = (3, 10)
MAIN_JOB = 'python tools/train.py det_configs/menet_frcnn_shapes.py'
DISK_BYTES = GIB  # the main job writes 0.1 GB of data and checkpoints
MEMORY_BYTES = 3 * GIB  # 2.9 GB in its records
SHARED_MEMORY_BYTES = GIB // 4  # four workers with two batches of VOC each
CGROUPS = (  # files of limit, usage and statistics, of version 2 and version 1
    ('memory.max', 'memory.current', 'memory.stat'),
    ('memory/memory.limit_in_bytes', 'memory/memory.usage_in_bytes', 'memory/memory.stat'),
)

# Requirement: the original package that may replace it, with the same import name.
ORIGINALS = {
    'onedl-mmcv': ('mmcv', 'mmcv-lite'),
    'onedl-mmengine': ('mmengine',),
    'onedl-mmdetection': ('mmdet',),
}


def examine(places: Places) -> list[Finding]:
    """Make every check; a check that fails itself is reported as a problem."""
    found: list[Finding] = []
    for name, check in CHECKS.items():
        if name == 'files' and any(f.main_job for f in found if f.check in ('PyTorch', 'MMDetection')):
            text = 'data, weights and checkpoints were not looked at'
            found.append(Finding(name, 'absent', text, 'fix the problems above first'))
            continue
        try:
            found += check(places)
        except Exception as error:
            text = ' '.join(f'the check failed ({type(error).__name__}: {error})'.split())
            found.append(Finding(name, 'problem', text, 'report this as a defect of the suite'))
    return found


def check_files(places: Places) -> Iterator[Finding]:
    """Check data sets, weights and checkpoints."""
    from compactdet.doctor import files  # here: loads what the previous checks have tried

    yield from files.examine(places)


def check_python(places: Places) -> Iterator[Finding]:
    """Check the version of Python."""
    version = platform.python_version()
    if sys.version_info[:2] < OLDEST_PYTHON:
        cure = 'make an environment with Python 3.10 or newer: python3.12 -m venv .venv'
        yield Finding('Python', 'problem', f'{version} is too old', cure, main_job=True)
    else:
        yield Finding('Python', 'ok', f'{version} ({sys.executable})')


def check_packages(places: Places) -> Iterator[Finding]:
    """Check the distributions that pyproject.toml requires."""
    if not installed('compactdet'):
        cure = f'in the checkout: {REINSTALL}'
        yield Finding('packages', 'problem', 'compactdet is not installed', cure, main_job=True)
        return
    from packaging.requirements import Requirement

    needs = importlib.metadata.requires('compactdet') or []
    problems = []

    def problem(text: str, cure: str, *, main_job: bool = True) -> None:
        problems.append(Finding('packages', 'problem', text, cure, main_job))

    for text in needs:
        need = Requirement(text)
        if need.marker is not None and not need.marker.evaluate({'extra': ''}):
            continue
        version, others = installed(need.name), ORIGINALS.get(need.name, ())
        there = [other for other in others if installed(other)]
        if version and there:
            cure = f'python -m pip uninstall -y {need.name} {" ".join(there)}, then {REINSTALL}'
            problem(f'{need.name} and {there[0]} overwrite each other', cure, main_job=False)
        elif not version and not there:
            problem(f'{need.name} is not installed', REINSTALL)
        elif version and not need.specifier.contains(version, prereleases=True):
            problem(f'{need.name} is {version}, not {need.specifier}', f"python -m pip install '{text}'")
    yield from problems or [Finding('packages', 'ok', f'{len(needs)} requirements are met')]


def installed(distribution: str) -> str | None:
    """Return the version of a distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_disk(places: Places) -> Iterator[Finding]:
    """Check the space for data, runs and temporary files, and whether they can be written."""
    temporary = Path(tempfile.gettempdir())
    for name, folder in (('runs', places.work_dirs), ('data', places.data), ('temporary files', temporary)):
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            cure = 'make it writable for your user, or work in another folder'
            text = f'{there} cannot be written ({error.strerror})'
            yield Finding('disk', 'problem', text, cure, main_job=True)
            continue
        free = shutil.disk_usage(there).free
        text = f'{free / GIB:.1f} GB free for {name} in {there}'
        if free < DISK_BYTES:
            text += f'; the main job needs {DISK_BYTES / GIB:.0f}'
            cure = 'make room, or use a folder on another disk'
            yield Finding('disk', 'problem', text, cure, main_job=True)
        else:
            yield Finding('disk', 'ok', text)
    shared = Path('/dev/shm')
    if shared.is_dir() and (size := shutil.disk_usage(shared).free) < SHARED_MEMORY_BYTES:
        cure = 'docker run --shm-size=2g, or --cfg-options train_dataloader.num_workers=0'
        text = f'{size / 2**20:.0f} MB of shared memory, through which workers pass images'
        yield Finding('disk', 'problem', text, cure)


def check_memory(places: Places) -> Iterator[Finding]:
    """Check the free memory and the number of cores."""
    free = available_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    if free is None:
        yield Finding('memory', 'absent', f'the free memory cannot be told here; {cores} cores')
    elif free < MEMORY_BYTES:
        text = f'{free / GIB:.1f} GB free; the main job needs {MEMORY_BYTES / GIB:.0f}'
        cure = 'close other programs, or raise the limit of the container'
        yield Finding('memory', 'problem', text, cure, main_job=True)
    else:
        yield Finding('memory', 'ok', f'{free / GIB:.1f} GB free, {cores} cores')


def available_memory() -> int | None:
    """Return the free memory in bytes, of the machine or of the container (cgroup) if it has a limit."""
    free = None
    info = Path('/proc/meminfo')
    if info.exists():
        rows = dict(line.split(':', 1) for line in info.read_text().splitlines())
        free = int(rows['MemAvailable'].split()[0]) * 1024
    elif 'SC_AVPHYS_PAGES' in os.sysconf_names:
        free = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    for limit, used, statistics in ([Path('/sys/fs/cgroup') / name for name in names] for names in CGROUPS):
        if limit.exists() and (text := limit.read_text().strip()).isdigit():
            rows = dict(line.split() for line in statistics.read_text().splitlines())
            cache = int(rows.get('inactive_file', 0))  # is released when it is needed
            rest = int(text) - int(used.read_text()) + cache
            free = rest if free is None else min(free, rest)
    return free


CHECKS: dict[str, Callable[[Places], Iterator[Finding]]] = {
    'Python': check_python,
    'packages': check_packages,
    'PyTorch': check_torch,
    'MMDetection': check_stack,
    'disk': check_disk,
    'memory': check_memory,
    'files': check_files,
}
