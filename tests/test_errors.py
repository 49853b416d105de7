"""A user error is printed as one line; another error keeps its traceback."""

import argparse
import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from backbones import get_arch
from backbones.spec import UnknownArchError
from backbones.weights import WeightsError
from compactdet.errors import UserError, run_main, user_line


def raising(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(('result', 'status'), [(None, 0), (0, 0), (3, 3)])
def test_the_exit_status_is_the_value_that_main_returns(
    capsys: pytest.CaptureFixture, result: int | None, status: int
) -> None:
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: result)
    assert caught.value.code == status
    assert capsys.readouterr() == ('', '')


@pytest.mark.parametrize(
    ('error', 'line'),
    [
        (UserError("a.txt: no 'b'; write it"), "error: a.txt: no 'b'; write it"),
        (UserError('two\n  lines'), 'error: two lines'),
        (WeightsError('x is truncated'), 'error: x is truncated'),
        (UnknownArchError("unknown arch 'x'"), "error: unknown arch 'x'"),
    ],
)
def test_a_user_error_is_one_line(capsys: pytest.CaptureFixture, error: BaseException, line: str) -> None:
    with pytest.raises(SystemExit) as caught:
        run_main(raising(error))
    assert caught.value.code == 1
    assert capsys.readouterr() == ('', f'{line}\n')


def test_ctrl_c_has_the_exit_status_of_its_signal(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        run_main(raising(KeyboardInterrupt()))
    assert caught.value.code == 130
    assert capsys.readouterr() == ('', 'error: interrupted\n')


@pytest.mark.parametrize(
    'error',
    [OSError(errno.EMFILE, 'Too many open files'), RuntimeError('received 0 items of ancdata')],
)
def test_a_limit_of_open_files_is_one_line(error: Exception) -> None:
    assert 'ulimit -n' in (user_line(error) or '')


def test_the_home_folder_in_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv('HOME', '/home/me')
    monkeypatch.setattr(sys, 'argv', ['tool', '~/a', '--data-root=~/b', 'x.y=~/c', 'k=~d', 'a~/e'])
    with pytest.raises(SystemExit):
        run_main(lambda: 0)
    assert sys.argv[1:] == ['/home/me/a', '--data-root=/home/me/b', 'x.y=/home/me/c', 'k=~d', 'a~/e']


@pytest.mark.parametrize('error', [ValueError('x'), KeyError('x'), OSError(2, 'x'), AssertionError('x')])
def test_a_defect_keeps_its_traceback(capsys: pytest.CaptureFixture, error: Exception) -> None:
    assert user_line(error) is None
    with pytest.raises(type(error)) as caught:
        run_main(raising(error))
    assert caught.value is error
    assert capsys.readouterr() == ('', '')


def test_bad_usage_keeps_the_exit_status_of_argparse(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: argparse.ArgumentParser(prog='tool').parse_args(['--odd']))
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith('usage: tool')


def test_the_message_without_the_environment() -> None:
    train = Path(__file__).parents[1] / 'tools/train.py'
    command = [sys.executable, '-S', str(train), 'any.py']  # -S: no installed packages
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.count('\n') == 1
    assert done.stderr.startswith(f'error: {sys.executable} has no torch: activate')


@given(st.text())
def test_any_message_becomes_one_line_with_all_words(text: str) -> None:
    line = user_line(UserError(text))
    assert line is not None
    assert line.isprintable()
    words = text.split()
    assert len(line.split()) == len(words)
    for shown, word in zip(line.split(), words, strict=True):
        if word.isprintable():
            assert shown == word


def test_control_characters_are_escaped() -> None:
    error = UserError('a\x1b[2J.tar: b\x07\x85c \u202egnp.x is \udcff: Größe 3×4')
    assert user_line(error) == r'a\x1b[2J.tar: b\x07 c \u202egnp.x is \udcff: Größe 3×4'


class BrokenDataset(Dataset):
    def __init__(self, read: Callable[[], Any]):
        self.read = read

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Any:
        return self.read()


def truncated() -> None:
    try:
        raise OSError('broken data stream')
    except OSError as error:
        raise UserError('a.jpg: truncated\n(broken data stream); get it again') from error


def unknown() -> None:
    get_arch('menet_108_8x1_g4')


def absent() -> None:
    raise WeightsError('x.pth is not there')


@pytest.mark.parametrize(
    ('read', 'line'),
    [
        (truncated, 'a.jpg: truncated (broken data stream); get it again'),
        (unknown, "unknown arch 'menet_108_8x1_g4'; near: menet_128_8x1_g4, menet_108_8x1_g3"),
        (absent, 'x.pth is not there'),
    ],
)
def test_an_error_in_a_worker_process_is_reduced_to_its_message(
    capsys: pytest.CaptureFixture, read: Callable, line: str
) -> None:
    loader = DataLoader(BrokenDataset(read), num_workers=1, multiprocessing_context='fork')
    with pytest.raises(SystemExit) as caught:
        run_main(lambda: next(iter(loader)))
    assert caught.value.code == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f'error: {line}')
    assert shown.count('\n') == 1
    assert 'Traceback' not in shown


def test_a_closed_pipe_gives_no_traceback():
    code = "from compactdet.errors import run_main; run_main(lambda: print('x\\n' * 1_000_000))"
    tool = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert tool.stdout is not None
    assert tool.stderr is not None
    tool.stdout.readline()
    tool.stdout.close()
    assert tool.stderr.read() == b''
    assert tool.wait() == 1


def test_a_missing_library_of_opencvs_windows_has_its_cure() -> None:
    error = ImportError('libGL.so.1: cannot open shared object file: No such file or directory')
    assert user_line(error) == (
        'OpenCV needs libGL.so.1, which is missing; install it without windows: python -m pip uninstall -y '
        'opencv-python opencv-python-headless, then python -m pip install opencv-python-headless'
    )
    assert user_line(ImportError('libcudart.so.12: cannot open shared object file')) is None
