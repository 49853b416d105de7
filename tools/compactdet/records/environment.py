"""The machine and the software of a run, for its record; what is not known is None."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

# import name: the distributions that may bring it, the first one installed counts
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
    """Version of each package that can move a figure; None where absent."""
    found: dict[str, str | None] = {'python': platform.python_version()}
    for name, distributions in DISTRIBUTIONS.items():
        found[name] = next(filter(None, map(_version, distributions)), None)
    found['torch'] = torch.__version__  # with the build's suffix (+cpu, +cu128)
    found['cuda'] = torch.version.cuda
    cudnn = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    found['cudnn'] = None if cudnn is None else str(cudnn)
    return found


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def hardware() -> dict[str, Any]:
    """Processor, usable cores, torch's threads, GPU and memory of this machine."""
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return {
        'cpu': _cpu_name(),
        'cores': _usable_cores(),
        'threads': torch.get_num_threads(),
        'gpu': gpu and gpu.name,
        'gpu_memory_bytes': gpu and gpu.total_memory,
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
    """Cores that this process may use: in a container fewer than the machine has."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory_bytes() -> int | None:
    try:
        return os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    except (ValueError, OSError):
        return None


def peak_memory_bytes() -> int:
    """Highest memory use so far: torch's on the GPU where it was used, else the process's.

    On the CPU it is the process's peak plus the largest child's (a data loader's worker): the
    system keeps no sum over children.
    """
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == 'darwin' else 1024  # Linux counts kilobytes
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(resource.getrusage(one).ru_maxrss for one in who) * unit


def git_state(repo: Path | str) -> dict[str, Any] | None:
    """Commit and dirty flag (untracked files count) of the checkout whose top folder is ``repo``.

    None where git is absent, there is no commit, or ``repo`` is not a checkout's top folder: an
    installed package inside another project's checkout must not take that project's commit.
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
