"""The bridge that serves mmcv's ops: when it stands in and aside, and `python -m backbones`."""

import ast
import importlib.machinery
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from backbones import mmcv_ops  # puts the ops in place, so it comes before mmcv.ops

# isort: split
import mmcv
from mmcv import ops

pytestmark = pytest.mark.skipif(
    sys.modules['mmcv._ext'].__spec__.origin != mmcv_ops.__name__,
    reason='mmcv has its own compiled ops',
)


def callers(name: str) -> Iterator[ast.Call]:
    """Every call of ``ext_module.<name>`` in the installed mmcv, without argument unpacking."""
    for path in sorted(Path(ops.__file__).parent.glob('*.py')):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == name
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == 'ext_module'
                and not any(isinstance(arg, ast.Starred) for arg in node.args)
            ):
                yield node


@pytest.mark.parametrize('op', mmcv_ops.SERVED, ids=lambda op: op.__name__)
def test_signature_fits_every_caller_in_mmcv(op):
    calls = list(callers(op.__name__))
    assert calls
    for call in calls:
        keywords = {keyword.arg: 0 for keyword in call.keywords}
        bound = inspect.signature(op).bind(*range(len(call.args)), **keywords)
        if 'deform_conv' in op.__name__:  # reads its geometry by name
            names = mmcv_ops.GEOMETRY_V2 if 'modulated' in op.__name__ else mmcv_ops.GEOMETRY_V1
            assert set(names) <= set(bound.arguments['geometry'])
        # The names that mmcv gives its tensors agree with ours, position by position.
        for parameter, arg in zip(bound.signature.parameters, call.args, strict=False):
            if isinstance(arg, ast.Name):
                assert arg.id in (parameter, 'bboxes')


def test_every_op_that_mmcv_names_is_there_at_import():
    extension = sys.modules['mmcv._ext']
    names = {
        name.value
        for path in Path(ops.__file__).parent.glob('*.py')
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        if isinstance(node, ast.Call) and getattr(node.func, 'attr', '') == 'load_ext'
        for name in getattr(node.args[1], 'elts', [])
    }
    assert len(names) > 100
    assert all(callable(getattr(extension, name)) for name in names)


def test_unserved_op_names_itself_and_the_remedy_when_called():
    boxes = torch.tensor([[5.0, 5.0, 2.0, 2.0, 0.1]])
    with pytest.raises(NotImplementedError, match=r"'nms_rotated'.*MMCV_WITH_OPS=1"):
        ops.nms_rotated(boxes, torch.ones(1), 0.5)


def test_missing_dunder_attributes_stay_missing():
    extension = sys.modules['mmcv._ext']
    assert not hasattr(extension, '__path__')
    with pytest.raises(AttributeError, match=r"'mmcv._ext' has no attribute '__wrapped__'"):
        extension.__wrapped__  # noqa: B018


def test_install_again_changes_nothing():
    before = sys.modules['mmcv._ext']
    mmcv_ops.install()
    assert sys.modules['mmcv._ext'] is before


def test_stands_aside_for_an_imported_extension(monkeypatch):
    real = ModuleType('mmcv._ext')
    monkeypatch.setitem(sys.modules, 'mmcv._ext', real)
    mmcv_ops.install()
    assert sys.modules['mmcv._ext'] is real


def test_stands_aside_for_an_extension_not_yet_imported(monkeypatch, tmp_path):
    (tmp_path / '_ext.py').write_text('real = True')
    monkeypatch.delitem(sys.modules, 'mmcv._ext')
    monkeypatch.setattr(mmcv, '__path__', [*mmcv.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    mmcv_ops.install()
    assert 'mmcv._ext' not in sys.modules
    assert importlib.import_module('mmcv._ext').real
    del sys.modules['mmcv._ext']  # monkeypatch puts the served ops back


def test_mmengine_sees_ops_and_the_environment_report_says_whose():
    from mmengine.utils.dl_utils import mmcv_full_available

    assert mmcv_full_available()
    assert ops.get_compiler_version() == ops.get_compiling_cuda_version()
    assert 'torchvision' in ops.get_compiler_version()


# --- python -m backbones ---------------------------------------------------------------------


def run(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, capture_output=True, text=True
    )


def test_mmdet_imports_after_backbones(tmp_path):
    done = run('-c', 'import backbones, mmdet.models; print("fine")', folder=tmp_path)
    assert done.stdout == 'fine\n', done.stderr


PROGRAM = """
import sys
import {imported}
from neighbor import word
print(word, __name__, sys.argv[1:])
sys.exit(5)
"""


@pytest.mark.parametrize(('as_module', 'imported'), [(False, 'mmdet.models'), (True, 'mmcv.ops')])
def test_runs_a_program_that_imports_mmdet_first(tmp_path, as_module, imported):
    (tmp_path / 'neighbor.py').write_text('word = "beside"')
    (tmp_path / 'program.py').write_text(PROGRAM.format(imported=imported))
    start = ['-m', 'program'] if as_module else [tmp_path / 'program.py']
    folder = tmp_path if as_module else tmp_path.parent
    done = run('-m', 'backbones', *start, 'config.py', '--help', '-m', folder=folder)
    assert done.stdout == "beside __main__ ['config.py', '--help', '-m']\n", done.stderr
    assert done.returncode == 5


@pytest.mark.parametrize(
    ('arguments', 'status', 'message'),
    [
        (['--help'], 0, ''),
        ([], 2, 'usage: python -m backbones'),
        (['-m'], 2, 'usage: python -m backbones'),
        (['--quick', 'program.py'], 2, 'usage: python -m backbones'),
        (['absent.py'], 1, "error: there is no file 'absent.py' to run\n"),
        (['-m', 'absent.module'], 1, "error: there is no module 'absent.module' to run\n"),
    ],
)
def test_usage_of_main(capsys, arguments, status, message):
    from backbones.__main__ import main

    assert main(arguments) == status
    shown = capsys.readouterr()
    assert shown.err.startswith(message)
    assert ('python -m backbones MMDET/.mim/tools/test.py' in shown.out) == (status == 0)
    assert status != 1 or shown.err == message
