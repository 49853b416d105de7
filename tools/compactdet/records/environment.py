"""Machine, software and checkout of a run, for its record. Unknown values are None."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import torch

from compactdet.records.record_types import GitState, Hardware

# By import name: the distributions that may provide it. The first installed one is used.
DISTRIBUTIONS = {
    'compactdet': ('compactdet',),
    'torch': ('torch',),
    'torchvision': ('torchvision',),
    'mmcv': ('onedl-mmcv', 'mmcv', 'mmcv-lite'),
    'mmengine': ('onedl-mmengine', 'mmengine'),
    'mmdet': ('onedl-mmdetection', 'mmdet'),
    'numpy': ('numpy',),
    'opencv': ('opencv-python', 'opencv-python-headless'),
    'pycocotools': ('pycocotools',),
}


def versions() -> dict[str, str | None]:
    """Return the version of each package that can affect results; None if it is not installed."""
    found: dict[str, str | None] = {'python': platform.python_version()}
    for name, distributions in DISTRIBUTIONS.items():
        found[name] = next(filter(None, map(_version, distributions)), None)
    found['torch'] = torch.__version__  # includes the suffix of the build (+cpu, +cu128)
    found['cuda'] = torch.version.cuda
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    found['cudnn'] = None if cudnn is None else str(cudnn)
    return found


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def hardware() -> Hardware:
    """Return the hardware of this machine."""
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        'cpu': _cpu_name(),
        'cores': _usable_cores(),
        'threads': torch.get_num_threads(),
        'gpu': None if gpu is None else gpu.name,
        'gpu_memory_bytes': None if gpu is None else gpu.total_memory,
        'memory_bytes': _memory_bytes(),
        'platform': platform.platform(),
    }


def _cpu_name() -> str:
    info = Path('/proc/cpuinfo')
    if info.exists():
        for line in info.read_text(encoding='utf-8', errors='replace').splitlines():
            if line.startswith('model name'):
                return line.split(':', 1)[1].strip()
    return platform.processor() or platform.machine() or 'unknown'


def _usable_cores() -> int:
    """Return the number of cores that this process may use; a container can limit it."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int | None:
    try:
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (ValueError, OSError):
        return None


def peak_memory_bytes() -> int:
    """Return the peak memory use so far in bytes: of PyTorch on a GPU, otherwise of the process.

    On a CPU, it is the peak of the process plus the peak of its largest child (a data loader's worker
    process), because the system does not record the peak of the sum.
    """
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == 'darwin' else 1024  # kilobytes on Linux
    processes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(who).ru_maxrss for who in processes) * unit


def git_state(repo: Path | str) -> GitState | None:
    """Return the state of the checkout whose top folder is ``repo``.

    Returns:
        The state; untracked files make it dirty. None if git is not installed, there is no commit, or
        ``repo`` is not the top folder of a checkout. The last condition prevents that a package which is
        installed inside another project's checkout takes that project's commit.
    """
    repo = Path(repo).resolve()
    top = _git(repo, 'rev-parse', '--show-toplevel')
    commit = _git(repo, 'rev-parse', '--verify', '--quiet', 'HEAD')
    status = _git(repo, 'status', '--porcelain')
    if not top or not commit or status is None or Path(top).resolve() != repo:
        return None
    return {'commit': commit, 'dirty': bool(status)}


def _git(repo: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ['git', '-C', str(repo), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
