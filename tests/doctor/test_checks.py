"""tools/doctor.py: every problem of the environment is a finding with a remedy, never a traceback."""

import importlib.metadata
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from compactdet.data import shapes
from compactdet.doctor import checks, file_checks, framework_checks
from compactdet.doctor.findings import DoctorOptions, Finding

DEFAULTS = DoctorOptions()
TORCH = dict(torch='2.9.0', torchvision='0.24.0', kept=[0], built='13.0', gpus=['H200'])
MMDETECTION = dict(
    versions=dict(mmdet='3.5.1', mmcv='2.3.6', mmengine='0.10.12'),
    ops='backbones.mmcv_ops',
    correct=True,
    archs=107,
    maintained=True,
    backbones=str(framework_checks.REPO / 'backbones' / '__init__.py'),
    compactdet=str(framework_checks.REPO / 'tools' / 'compactdet' / '__init__.py'),
)


def only(findings: Iterator[Finding]) -> Finding:
    (found,) = findings
    return found


def problems(findings: Iterator[Finding]) -> list[Finding]:
    return [found for found in findings if found.state == 'problem']


@pytest.fixture
def mock_result(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def answer(found: dict[str, Any] | None, failure: str = '') -> None:
        monkeypatch.setattr(framework_checks, 'run_python', lambda code, **options: (found, failure))

    return answer


# Python and packages


def test_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert only(checks.check_python(DEFAULTS)).state == 'ok'
    monkeypatch.setattr(checks.sys, 'version_info', (3, 9, 1))
    found = only(checks.check_python(DEFAULTS))
    assert (found.state, found.main_job) == ('problem', True)
    assert 'Python 3.10 or newer' in found.cure


def test_the_packages_of_this_environment() -> None:
    assert only(checks.check_packages(DEFAULTS)).state == 'ok'


def versions(monkeypatch: pytest.MonkeyPatch, found: dict[str, str]) -> None:
    def version(name: str) -> str:
        if name not in found:
            raise importlib.metadata.PackageNotFoundError(name)
        return found[name]

    needs = ['torch<2.15,>=2.6', 'onedl-mmcv>=2.3.6', 'pytest; extra == "dev"']
    monkeypatch.setattr(checks.importlib.metadata, 'version', version)
    monkeypatch.setattr(checks.importlib.metadata, 'requires', lambda name: needs)


@pytest.mark.parametrize(
    ('found', 'text', 'cure', 'main_job'),
    [
        ({}, 'compactdet is not installed', 'pip install -e', True),
        ({'torch': '2.9.0+cpu'}, 'onedl-mmcv is not installed', 'pip install -e', True),
        ({'torch': '2.5.1', 'mmcv': '2.1'}, 'torch is 2.5.1, not', "install 'torch<2.15,>=2.6'", True),
        (
            {'torch': '2.9', 'mmcv': '2.1', 'onedl-mmcv': '2.3.6'},
            'overwrite each other',
            'uninstall',
            False,
        ),
    ],
)
def test_problems_of_packages(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, str], text: str, cure: str, main_job: bool
) -> None:
    versions(monkeypatch, {**found, **({'compactdet': '0'} if found else {})})
    problem = only(checks.check_packages(DEFAULTS))
    assert (problem.state, problem.main_job) == ('problem', main_job)
    assert text in problem.text
    assert cure in problem.cure


def test_original_packages_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    versions(monkeypatch, {'compactdet': '0', 'torch': '2.9.0+cu128', 'mmcv-lite': '2.1.0'})
    assert only(checks.check_packages(DEFAULTS)).state == 'ok'


# PyTorch and MMDetection


def test_failures_of_a_separate_process(monkeypatch: pytest.MonkeyPatch) -> None:
    assert framework_checks.run_python('print("noise"); print("{\\"a\\": 1}")') == ({'a': 1}, '')
    assert framework_checks.run_python('raise ImportError("libx.so")') == (None, 'ImportError: libx.so')
    assert framework_checks.run_python('import os; os.abort()') == (None, 'crashes (signal 6)')
    assert framework_checks.run_python('pass') == (None, 'no result is printed')
    assert framework_checks.run_python('print("no JSON")') == (None, 'no result is printed')
    monkeypatch.setattr(framework_checks, 'TIMEOUT_S', 0.05)
    assert framework_checks.run_python('import time; time.sleep(9)') == (None, 'no result within 0.05 s')


def test_a_broken_pytorch(mock_result: Callable[..., None]) -> None:
    mock_result(None, 'RuntimeError: operator torchvision::nms does not exist')
    found = only(framework_checks.check_torch(DEFAULTS))
    assert found.line().startswith('PROBLEM PyTorch: RuntimeError: operator torchvision::nms')
    assert '--force-reinstall torch torchvision' in found.cure
    assert found.main_job
    mock_result({**TORCH, 'kept': [0, 1]})
    assert 'NMS gives wrong results' in only(framework_checks.check_torch(DEFAULTS)).text


@pytest.mark.parametrize(
    ('change', 'driver', 'hidden', 'state', 'words'),
    [
        ({'sum': 262144.0}, True, None, 'ok', '13.0, H200'),
        ({'error': 'no kernel image is available'}, True, None, 'problem', 'CUDA_VISIBLE_DEVICES='),
        ({}, False, None, 'absent', 'runs on the CPU'),
        ({'built': None}, True, None, 'problem', 'the CPU build of PyTorch'),
        ({}, True, None, 'problem', 'update the NVIDIA driver'),
        ({}, True, '', 'problem', "unset CUDA_VISIBLE_DEVICES='', which hides it"),
    ],
)
def test_the_gpu(
    mock_result: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    driver: bool,
    hidden: str | None,
    state: str,
    words: str,
) -> None:
    monkeypatch.setattr(framework_checks, 'has_nvidia_driver', lambda: driver)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    if hidden is not None:
        monkeypatch.setenv('CUDA_VISIBLE_DEVICES', hidden)
    mock_result({**TORCH, **change})
    _, cuda = framework_checks.check_torch(DEFAULTS)
    assert cuda.state == state
    assert words in cuda.line()
    assert cuda.main_job == ('error' in change)  # training would use the GPU and fail


def test_mmdetection_package_and_source_of_its_operators(mock_result: Callable[..., None]) -> None:
    mock_result(MMDETECTION)
    lines = [found.line() for found in framework_checks.check_mmdetection(DEFAULTS)]
    assert 'onedl (maintained): mmdet 3.5.1, mmcv 2.3.6' in lines[0]
    assert 'torchvision, through backbones.mmcv_ops' in lines[1]
    mock_result({**MMDETECTION, 'maintained': False, 'ops': '/x/_ext.so'})
    lines = [found.line() for found in framework_checks.check_mmdetection(DEFAULTS)]
    assert 'OpenMMLab (original)' in lines[0]
    assert "mmcv's compiled ones, /x/_ext.so" in lines[1]


def test_a_broken_mmdetection(mock_result: Callable[..., None]) -> None:
    mock_result(None, "ModuleNotFoundError: No module named 'mmcv'")
    found = only(framework_checks.check_mmdetection(DEFAULTS))
    assert found.main_job
    assert "No module named 'mmcv'; python -m pip uninstall" in found.line()
    mock_result({**MMDETECTION, 'correct': False})
    assert (
        'operators from backbones.mmcv_ops give wrong results'
        in only(framework_checks.check_mmdetection(DEFAULTS)).text
    )
    mock_result({**MMDETECTION, 'backbones': '/elsewhere/backbones/__init__.py'})
    (found,) = problems(framework_checks.check_mmdetection(DEFAULTS))
    assert 'backbones is imported from /elsewhere/backbones' in found.text
    assert not found.main_job


# Disk and memory


def test_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = DoctorOptions(data=tmp_path / 'data' / 'x', work_dirs=tmp_path)
    free = {'free': 2 * checks.GIB}
    monkeypatch.setattr(checks.shutil, 'disk_usage', lambda path: SimpleNamespace(**free))
    assert not problems(checks.check_disk(options))
    free['free'] = checks.GIB // 2
    found = problems(checks.check_disk(options))
    assert [f.text for f in found] == [
        f'0.5 GB free for {name} in {folder}; the main job needs 1 GB'
        for name, folder in (
            ('runs', tmp_path),
            ('data', tmp_path),
            ('temporary files', checks.tempfile.gettempdir()),
        )
    ]
    assert all(f.main_job for f in found)
    free['free'] = checks.GIB // 16
    assert '64 MB of shared memory' in problems(checks.check_disk(options))[-1].text


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(checks.tempfile, 'TemporaryFile', refuse)
    found = problems(checks.check_disk(DoctorOptions(tmp_path, tmp_path)))[0]
    assert found.text == f'{tmp_path} cannot be written (Permission denied)'
    assert found.main_job


@pytest.mark.parametrize(('free', 'state'), [(4, 'ok'), (2, 'problem'), (None, 'absent')])
def test_memory(monkeypatch: pytest.MonkeyPatch, free: int | None, state: str) -> None:
    monkeypatch.setattr(checks, 'available_memory', lambda: free and free * checks.GIB)
    found = only(checks.check_memory(DEFAULTS))
    assert (found.state, found.main_job) == (state, state == 'problem')


def test_memory_limit_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ('max', 'current', 'stat')
    monkeypatch.setattr(checks, 'CGROUP_FILES', [tuple(str(tmp_path / name) for name in names)])
    whole = checks.available_memory()
    assert whole is not None
    for name, text in zip(names, ('1000\n', '600\n', 'anon 500\ninactive_file 50\n'), strict=True):
        (tmp_path / name).write_text(text)
    assert checks.available_memory() == 450
    (tmp_path / 'max').write_text('max\n')
    assert checks.available_memory() > 1000


# Files


def test_absent_and_damaged_data_sets(tmp_path: Path) -> None:
    found = [*file_checks.check_data(DoctorOptions(tmp_path))]
    assert {f.state for f in found} == {'absent'}
    assert {f.cure for f in found} >= {
        'python tools/data.py get voc07',
        'it is drawn at the first use',
    }
    spec = shapes.Spec(images={'train': 2, 'val': 1, 'test': 1})
    shapes.ensure(tmp_path / 'shapes', spec)
    (tmp_path / 'shapes' / 'Annotations' / 'test_00000.xml').write_text('<annotation>')
    (damaged,) = problems(file_checks.check_data(DoctorOptions(tmp_path)))
    assert 'shapes in' in damaged.text
    assert 'python tools/data.py check shapes lists them' in damaged.cure
    assert damaged.main_job


def test_an_incomplete_large_data_set(tmp_path: Path) -> None:
    for folder in ('annotations', 'val2017'):
        (tmp_path / 'coco' / folder).mkdir(parents=True)
    (missing,) = problems(file_checks.check_data(DoctorOptions(tmp_path)))
    assert 'no file' in missing.text
    for split in ('train2017', 'val2017'):
        (tmp_path / 'coco' / 'annotations' / f'instances_{split}.json').touch()
    (tmp_path / 'coco' / 'val2017' / '1.jpg').touch()
    (missing,) = problems(file_checks.check_data(DoctorOptions(tmp_path)))
    assert 'has 1 of 123287 images' in missing.text
    assert not missing.main_job


def test_weights(tmp_path: Path, weights_file: Path) -> None:
    assert only(file_checks.check_weights(DoctorOptions(weights=tmp_path))).state == 'absent'
    data = weights_file.read_bytes()
    (tmp_path / 'good.safetensors').write_bytes(data)
    (tmp_path / 'short.safetensors').write_bytes(data[:-9])
    good, short = file_checks.check_weights(DoctorOptions(weights=tmp_path))
    assert good.text.endswith('good.safetensors: menet_108_8x1_g3, noise')
    assert (short.state, 'short.safetensors' in short.text) == ('problem', True)
    assert 'convert it again' in short.cure


def test_checkpoints(tmp_path: Path) -> None:
    run = tmp_path / 'run'
    run.mkdir()
    torch.save({'state_dict': {'x': torch.ones(2)}}, run / 'epoch_1.pth')
    (run / 'last_checkpoint').write_text('/moved/since/run/epoch_1.pth')
    assert (
        '1 of 1 checkpoints readable'
        in only(file_checks.check_checkpoints(DoctorOptions(work_dirs=tmp_path))).text
    )
    (run / 'epoch_1.pth').write_bytes((run / 'epoch_1.pth').read_bytes()[:100])
    options = DoctorOptions(work_dirs=tmp_path, checkpoints=(tmp_path / 'absent.pth',))
    found = [*file_checks.check_checkpoints(options)]
    assert [f.state for f in found] == ['problem', 'problem', 'ok']
    assert '0 of 2' in found[-1].text
    assert not any(f.main_job for f in found)


# All checks and the tool


def test_a_failing_check_does_not_affect_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(options: DoctorOptions) -> Iterator[Finding]:
        yield Finding('disk', 'ok', 'first')
        raise ValueError('a\nb')

    def works(options: DoctorOptions) -> Iterator[Finding]:
        yield Finding('memory', 'ok', 'second')

    monkeypatch.setattr(checks, 'CHECKS', {'disk': fails, 'memory': works})
    assert [found.line() for found in checks.run_checks(DEFAULTS)] == [
        'ok      disk: first',
        'PROBLEM disk: the check failed (ValueError: a b); report this as a defect of the suite',
        'ok      memory: second',
    ]


def test_checks_run_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    both = threading.Barrier(2, timeout=20)

    def meets(options: DoctorOptions) -> Iterator[Finding]:
        both.wait()
        yield Finding('disk', 'ok', 'met')

    monkeypatch.setattr(checks, 'CHECKS', {'disk': meets, 'memory': meets})
    assert [found.text for found in checks.run_checks(DEFAULTS)] == ['met', 'met']


def test_file_checks_of_a_process_that_crashes(mock_result: Callable[..., None]) -> None:
    mock_result(None, "ModuleNotFoundError: No module named 'torch'")
    found = only(framework_checks.check_files(DEFAULTS))
    assert found.state == 'problem'
    assert "were not checked: ModuleNotFoundError: No module named 'torch'; solve" in found.line()


def test_files_after_the_quick_start_in_a_fresh_process(tmp_path: Path) -> None:
    """The data check once needed a class that only a config's imports register, and stopped all checks."""
    shapes.ensure(tmp_path / 'shapes', shapes.Spec(images={'train': 2, 'val': 1, 'test': 1}))
    options = DoctorOptions(tmp_path, tmp_path / 'work_dirs', tmp_path / 'weights')
    *data, weights, checkpoints = framework_checks.check_files(options)
    assert 'shapes in' in data[-1].text  # incomplete: the published set has 3,700 images
    assert 'the split has 1 images' in data[-1].text
    assert (weights.check, checkpoints.check) == ('weights', 'checkpoints')


@pytest.mark.parametrize('main_job', [True, False])
def test_the_tool(monkeypatch: pytest.MonkeyPatch, run_tool: Any, main_job: bool) -> None:
    found = Finding('disk', 'problem', 'full', 'make room', main_job)
    monkeypatch.setattr(checks, 'run_checks', lambda options: iter([found]))
    status, out, err = run_tool('doctor')
    assert (status, err) == (int(main_job), '')
    assert out.startswith('PROBLEM disk: full; make room\n')
    assert f'the main job can{"not" if main_job else ""} run' in out
    status, out, _ = run_tool('doctor', '--json')
    assert status == int(main_job)
    assert json.loads(out) == {'main_job_runs': not main_job, 'findings': [vars(found)]}


def test_the_checks_import_without_pytorch(tmp_path: Path) -> None:
    """Users run the doctor when PyTorch is broken."""
    (tmp_path / 'torch.py').write_text('raise ImportError("libtorch.so: no such file")')
    imports = 'from compactdet.doctor import checks; print(checks.MAIN_JOB)'
    code = f'import sys; sys.path[:0] = [{str(tmp_path)!r}]; {imports}'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == checks.MAIN_JOB, done.stderr
