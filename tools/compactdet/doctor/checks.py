"""Check whether the suite can run on this machine, and state what to do about each problem.

No package that may be damaged is imported at the top: PyTorch and MMDetection are tested in separate
processes (`compactdet.doctor.framework_checks`), and so are the files, whose readers import both
(`compactdet.doctor.file_checks`).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from compactdet.doctor.findings import REINSTALL, Check, DoctorOptions, Finding, run_check
from compactdet.doctor.framework_checks import check_files, check_mmdetection, check_torch

GIB = 2**30
OLDEST_PYTHON = (3, 10)
MAIN_JOB = 'python tools/train.py det_configs/menet_frcnn_shapes.py'
MIN_DISK_BYTES = GIB  # the main job writes 0.1 GB of data and checkpoints
MIN_MEMORY_BYTES = 3 * GIB  # the main job uses 2.9 GB, according to its records
MIN_SHARED_MEMORY_BYTES = GIB // 4  # two batches of VOC for each of four data loader workers
CGROUP_FILES = (  # limit, usage and statistics of cgroup version 2 and version 1
    ('memory.max', 'memory.current', 'memory.stat'),
    ('memory/memory.limit_in_bytes', 'memory/memory.usage_in_bytes', 'memory/memory.stat'),
)

# Original packages that may be installed instead of a requirement; they have the same import names.
ORIGINALS = {
    'onedl-mmcv': ('mmcv', 'mmcv-lite'),
    'onedl-mmengine': ('mmengine',),
    'onedl-mmdetection': ('mmdet',),
}


def run_checks(options: DoctorOptions) -> Iterator[Finding]:
    """Run all checks at the same time; yield their findings in the order of `CHECKS`.

    An exception in a check is reported as a problem and does not affect the other checks.
    """
    with ThreadPoolExecutor(len(CHECKS)) as pool:
        running = {name: pool.submit(run_check, name, check, options) for name, check in CHECKS.items()}
        for name, findings in running.items():
            if not findings.done():
                _show_waiting(name)
            yield from findings.result()


def _show_waiting(name: str) -> None:
    """Show on a terminal which check is awaited; the next finding overwrites the line."""
    if sys.stderr.isatty():
        print(f'checking {name} ...', end='\r', file=sys.stderr, flush=True)


def check_python(options: DoctorOptions) -> Iterator[Finding]:
    """Check the version of Python."""
    version = platform.python_version()
    if sys.version_info[:2] < OLDEST_PYTHON:
        cure = 'create an environment with Python 3.10 or newer: python3.12 -m venv .venv'
        yield Finding('Python', 'problem', f'{version} is too old', cure, main_job=True)
    else:
        yield Finding('Python', 'ok', f'{version} ({sys.executable})')


def check_packages(options: DoctorOptions) -> Iterator[Finding]:
    """Check the distributions that pyproject.toml requires."""
    if not installed_version('compactdet'):
        cure = f'run in the checkout: {REINSTALL}'
        yield Finding('packages', 'problem', 'compactdet is not installed', cure, main_job=True)
        return
    from packaging.requirements import Requirement  # here: the package may be missing

    requirements = importlib.metadata.requires('compactdet') or []
    problems = []

    def problem(text: str, cure: str, *, main_job: bool = True) -> None:
        problems.append(Finding('packages', 'problem', text, cure, main_job))

    for text in requirements:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({'extra': ''}):
            continue
        version = installed_version(requirement.name)
        originals = [name for name in ORIGINALS.get(requirement.name, ()) if installed_version(name)]
        if version and originals:
            cure = f'python -m pip uninstall -y {requirement.name} {" ".join(originals)}, then {REINSTALL}'
            problem(
                f'{requirement.name} and {originals[0]} are both installed and overwrite each other',
                cure,
                main_job=False,
            )
        elif not version and not originals:
            problem(f'{requirement.name} is not installed', REINSTALL)
        elif version and not requirement.specifier.contains(version, prereleases=True):
            problem(
                f'{requirement.name} is {version}, not {requirement.specifier}',
                f"python -m pip install '{text}'",
            )
    yield from problems or [Finding('packages', 'ok', f'{len(requirements)} requirements are met')]


def installed_version(distribution: str) -> str | None:
    """Return the version of a distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_disk(options: DoctorOptions) -> Iterator[Finding]:
    """Check that the folders of data, runs and temporary files are writable and have enough space."""
    temporary = Path(tempfile.gettempdir())
    for name, folder in (
        ('runs', options.work_dirs),
        ('data', options.data),
        ('temporary files', temporary),
    ):
        parents = (folder.absolute(), *folder.absolute().parents)
        existing = next(parent for parent in parents if parent.is_dir())
        try:
            with tempfile.TemporaryFile(dir=existing):
                pass
        except OSError as error:
            cure = 'make it writable for your user, or use another folder'
            text = f'{existing} cannot be written ({error.strerror})'
            yield Finding('disk', 'problem', text, cure, main_job=True)
            continue
        free = shutil.disk_usage(existing).free
        text = f'{free / GIB:.1f} GB free for {name} in {existing}'
        if free < MIN_DISK_BYTES:
            text += f'; the main job needs {MIN_DISK_BYTES / GIB:.0f} GB'
            cure = 'free disk space, or use a folder on another disk'
            yield Finding('disk', 'problem', text, cure, main_job=True)
        else:
            yield Finding('disk', 'ok', text)
    shared = Path('/dev/shm')
    if shared.is_dir() and (size := shutil.disk_usage(shared).free) < MIN_SHARED_MEMORY_BYTES:
        cure = 'use docker run --shm-size=2g, or --cfg-options train_dataloader.num_workers=0'
        text = f'{size / 2**20:.0f} MB of shared memory, which data loader workers use to pass images'
        yield Finding('disk', 'problem', text, cure)


def check_memory(options: DoctorOptions) -> Iterator[Finding]:
    """Check the free memory and the number of cores."""
    free = available_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    if free is None:
        yield Finding('memory', 'absent', f'the free memory is unknown; {cores} cores')
    elif free < MIN_MEMORY_BYTES:
        text = f'{free / GIB:.1f} GB free; the main job needs {MIN_MEMORY_BYTES / GIB:.0f} GB'
        cure = 'close other programs, or raise the limit of the container'
        yield Finding('memory', 'problem', text, cure, main_job=True)
    else:
        yield Finding('memory', 'ok', f'{free / GIB:.1f} GB free, {cores} cores')


def available_memory() -> int | None:
    """Return the free memory of the machine or the container (cgroup) in bytes; None if unknown."""
    free = None
    info = Path('/proc/meminfo')
    if info.exists():
        rows = dict(line.split(':', 1) for line in info.read_text().splitlines())
        free = int(rows['MemAvailable'].split()[0]) * 1024
    elif 'SC_AVPHYS_PAGES' in os.sysconf_names:
        free = os.sysconf('SC_AVPHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    for limit, used, statistics in (
        [Path('/sys/fs/cgroup') / name for name in names] for names in CGROUP_FILES
    ):
        if limit.exists() and (text := limit.read_text().strip()).isdigit():
            rows = dict(line.split() for line in statistics.read_text().splitlines())
            cache = int(rows.get('inactive_file', 0))  # released when needed
            rest = int(text) - int(used.read_text()) + cache
            free = rest if free is None else min(free, rest)
    return free


CHECKS: dict[str, Check] = {  # the quick ones first
    'Python': check_python,
    'packages': check_packages,
    'disk': check_disk,
    'memory': check_memory,
    'PyTorch': check_torch,
    'MMDetection': check_mmdetection,
    'files': check_files,
}
