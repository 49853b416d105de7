"""Checks of PyTorch, MMDetection and the files, in separate processes because they may crash or hang."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compactdet.doctor.findings import REINSTALL, DoctorOptions, Finding
from compactdet.errors import HEADLESS_OPENCV, WINDOW_LIBRARY

REPO = Path(__file__).parents[3]
TIMEOUT_S = 300


def run_python(code: str, *, limited: bool = True) -> tuple[dict[str, Any] | None, str]:
    """Run Python code in a separate process.

    Args:
        code: Code that prints JSON on its last line.
        limited: Whether the process is stopped after `TIMEOUT_S` seconds.

    Returns:
        The JSON, or None and a description of the failure.
    """
    try:
        done = subprocess.run(
            [sys.executable, '-c', code],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S if limited else None,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f'no result within {TIMEOUT_S} s'
    except OSError as error:
        return None, f'cannot be started ({error.strerror})'
    if done.returncode < 0:
        return None, f'crashes (signal {-done.returncode})'
    if done.returncode:
        errors = done.stderr.strip().splitlines()
        return None, errors[-1] if errors else f'exit status {done.returncode}'
    try:
        return json.loads(done.stdout.strip().splitlines()[-1]), ''
    except (IndexError, ValueError):
        return None, 'no result is printed'


TORCH_TEST = """
import json, torch, torchvision
boxes = torch.tensor([[0., 0, 2, 2], [0, 0, 2, 2.1]])
kept = torchvision.ops.nms(boxes, torch.tensor([.9, .8]), .5).tolist()
found = dict(torch=torch.__version__, torchvision=torchvision.__version__, kept=kept)
found['built'] = torch.version.cuda
found['gpus'] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
if torch.cuda.is_available():
    try:
        found['sum'] = float((torch.ones(64, 64, device='cuda') @ torch.ones(64, 64, device='cuda')).sum())
    except Exception as error:
        found['error'] = str(error).splitlines()[0]
print(json.dumps(found))
"""


def check_torch(options: DoctorOptions) -> Iterator[Finding]:
    """Check PyTorch, torchvision's operators and the GPU."""
    found, failure = run_python(TORCH_TEST)
    if found is None or found['kept'] != [0]:
        cure = 'python -m pip install --force-reinstall torch torchvision'
        text = failure or "torchvision's NMS gives wrong results"
        yield Finding('PyTorch', 'problem', text, cure, main_job=True)
        return
    yield Finding('PyTorch', 'ok', f'{found["torch"]}, torchvision {found["torchvision"]}')
    if 'error' in found:
        cure = 'install the PyTorch build for this GPU (pytorch.org), or hide it with CUDA_VISIBLE_DEVICES='
        yield Finding('CUDA', 'problem', f'{found["gpus"][0]}: {found["error"]}', cure, main_job=True)
    elif 'sum' in found:
        yield Finding('CUDA', 'ok', f'{found["built"]}, {", ".join(found["gpus"])}')
    elif not has_nvidia_driver():
        yield Finding('CUDA', 'absent', 'no NVIDIA GPU; everything runs on the CPU')
    elif found['built'] is None:
        cure = 'install a CUDA build to use it (pytorch.org, "Get started")'
        yield Finding(
            'CUDA', 'problem', 'there is an NVIDIA GPU, but the CPU build of PyTorch is installed', cure
        )
    else:
        hidden = os.environ.get('CUDA_VISIBLE_DEVICES')
        cure = 'update the NVIDIA driver, or install a build of PyTorch for an older CUDA'
        if hidden is not None:
            cure = f'unset CUDA_VISIBLE_DEVICES={hidden!r}, which hides it'
        yield Finding('CUDA', 'problem', f'PyTorch (CUDA {found["built"]}) does not find the GPU', cure)


def has_nvidia_driver() -> bool:
    """Return True if this machine has the driver of an NVIDIA GPU."""
    return Path('/proc/driver/nvidia/version').exists() or shutil.which('nvidia-smi') is not None


MMDETECTION_TEST = """
import importlib.metadata, json, sys, torch
import backbones, compactdet
from compactdet import mmdetection
import mmcv, mmdet, mmengine
from mmcv.ops import RoIAlign, nms
boxes = torch.tensor([[0., 0, 2, 2], [0, 0, 2, 2.1]])
kept = nms(boxes, torch.tensor([.9, .8]), .5)[1].tolist()
level = RoIAlign(1, 1.0, 1)(torch.ones(1, 1, 4, 4), torch.tensor([[0., 1, 1, 3, 3]])).item()
spec = sys.modules['mmcv._ext'].__spec__
print(json.dumps(dict(
    versions={m.__name__: m.__version__ for m in (mmdet, mmcv, mmengine)}, ops=spec.origin,
    maintained=importlib.metadata.packages_distributions()['mmdet'] == ['onedl-mmdetection'],
    correct=kept == [0] and abs(level - 1) < 1e-6, archs=len(backbones.list_archs()),
    backbones=backbones.__file__, compactdet=compactdet.__file__,
)))
"""


def check_mmdetection(options: DoctorOptions) -> Iterator[Finding]:
    """Check MMDetection's packages, the source of the compiled operators, and the suite's own packages."""
    found, failure = run_python(MMDETECTION_TEST)
    if found is None or not found['correct']:
        text = failure or f"mmcv's operators from {found and found['ops']} give wrong results"
        cure = f'python -m pip uninstall -y mmcv mmcv-full mmcv-lite mmdet mmengine, then {REINSTALL}'
        if WINDOW_LIBRARY.search(failure):
            cure = HEADLESS_OPENCV
        yield Finding('MMDetection', 'problem', text, cure, main_job=True)
        return
    kind = 'onedl (maintained)' if found['maintained'] else 'OpenMMLab (original)'
    versions = ', '.join(f'{name} {version}' for name, version in found['versions'].items())
    yield Finding('MMDetection', 'ok', f'{kind}: {versions}')
    ours = found['ops'] == 'backbones.mmcv_ops'
    source = 'torchvision, through backbones.mmcv_ops' if ours else f"mmcv's compiled ones, {found['ops']}"
    yield Finding('ops', 'ok', f'NMS, RoIAlign and the other operators: {source}')
    for package, folder in (
        ('backbones', REPO / 'backbones'),
        ('compactdet', REPO / 'tools' / 'compactdet'),
    ):
        imported = Path(found[package]).parent
        if imported.resolve() != folder.resolve():
            cure = f'run in this checkout: {REINSTALL}'
            yield Finding(
                'checkout', 'problem', f'{package} is imported from {imported}, not from {folder}', cure
            )
    yield Finding('networks', 'ok', f'{found["archs"]} archs')


FILES_TEST = """
import json
from dataclasses import asdict
from pathlib import PosixPath, WindowsPath
from compactdet.doctor.file_checks import check_files
from compactdet.doctor.findings import DoctorOptions
print(json.dumps(dict(findings=[asdict(finding) for finding in check_files({options!r})])))
"""


def check_files(options: DoctorOptions) -> Iterator[Finding]:
    """Check data sets, weights files and checkpoints."""
    code = FILES_TEST.format(options=options)
    found, failure = run_python(code, limited=False)  # with --full, COCO alone takes many minutes
    if found is None:
        text = f'data sets, weights files and checkpoints were not checked: {failure}'
        cure = 'solve the problems of PyTorch and MMDetection first'
        yield Finding('files', 'problem', text, cure)
        return
    for finding in found['findings']:
        yield Finding(**finding)
