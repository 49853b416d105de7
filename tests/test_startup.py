"""`--help` and bad usage of every command load few modules: that is what makes them fast."""

import json
import subprocess
import sys

import pytest

from compactdet import __version__

from tiny import REPO

TOOLS = sorted(path.stem for path in (REPO / 'tools').glob('*.py'))
SLOW_TO_LOAD = {'torch', 'torchvision', 'mmcv', 'mmdet', 'mmengine', 'scipy', 'matplotlib', 'cv2', 'pandas'}
MOST_MODULES = 500  # Python with argparse, json, rich and pathlib loads about 300; PyTorch alone over 1,000
REPORT = """
import json, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name='__main__')
except SystemExit as end:
    status = end.code
sys.__stderr__.write('\\n' + json.dumps([status, sorted(sys.modules)]))
"""


def run(tool: str, *arguments: str) -> tuple[int, list[str], str]:
    """Run a tool; return its exit status, the names of the modules that it loaded, and its output."""
    command = [sys.executable, '-c', REPORT, str(REPO / 'tools' / f'{tool}.py'), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    status, modules = json.loads(done.stderr.rpartition('\n')[2])
    return status or 0, modules, done.stdout


def test_the_version_is_that_of_the_package() -> None:
    status, modules, out = run('train', '--version')
    assert (status, out) == (0, f'compactdet {__version__}\n')
    assert SLOW_TO_LOAD & {*modules} == set()


@pytest.mark.parametrize('tool', TOOLS)
@pytest.mark.parametrize(('arguments', 'status'), [(['--help'], 0), (['--no-such-option'], 2)])
def test_help_and_bad_usage_load_little(tool: str, arguments: list[str], status: int) -> None:
    found, modules, out = run(tool, *arguments)
    assert found == status
    assert SLOW_TO_LOAD & {*modules} == set()
    assert len(modules) < MOST_MODULES
    assert status or 'python tools/' in out, 'the help has no example'
    assert status or '--version' in out
