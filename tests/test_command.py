"""The command ``compactdet``."""

import sys
from pathlib import Path

import pytest

from compactdet import __main__ as command
from compactdet.errors import UserError

SCRIPTS = {path.stem for path in (Path(__file__).parents[1] / 'tools').glob('*.py')}


def test_all_tools_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, 'argv', ['compactdet'])
    command.main()
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if line.startswith('  ')} == SCRIPTS


def test_a_tool_runs_with_its_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', ['compactdet', 'train', '--help'])
    with pytest.raises(SystemExit) as end:
        command.main()
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith('usage: train.py')


def test_a_mistyped_name_gets_the_near_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, 'argv', ['compactdet', 'trian'])
    with pytest.raises(UserError, match=r'no tool trian; did you mean train\?'):
        command.main()


def test_without_the_scripts_it_says_how_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(command, 'TOOLS', tmp_path)
    with pytest.raises(UserError, match='pip install -e'):
        command.tools()
