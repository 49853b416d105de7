"""A record that cannot be written is kept and written later."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from compactdet.errors import UserError
from compactdet.records import record_file, unfinished

from record_examples import example_record as example


def test_results_are_kept_and_a_command_writes_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_tool: Any
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(record_file, 'write', lambda *_: 1 / 0)
        message = (
            rf'ZeroDivisionError: .*; kept in {re.escape(str(tmp_path))}: unfinished_record.json, '
            rf'predictions.json; `python tools/record.py {re.escape(str(tmp_path))}` writes the record$'
        )
        with pytest.raises(UserError, match=message):
            unfinished.write_record(tmp_path, example(), lambda path: path.write_text('[]'))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        'predictions.json',
        'unfinished_record.json',
    ]

    status, out, err = run_tool('record', tmp_path)
    assert (status, out, err) == (0, f'written: {tmp_path}/record.json\n', '')
    assert record_file.read(tmp_path / 'record.json') == record_file.finish(example())
    assert not (tmp_path / 'unfinished_record.json').exists()
    assert run_tool('record', tmp_path)[2].endswith('the run has its record already\n')


def test_nothing_is_kept_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, content: Any) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(record_file, 'write', fail)
    monkeypatch.setattr(unfinished, 'write_whole', fail)
    with pytest.raises(
        UserError, match=r'No space left on device; kept in .*: the checkpoints; the training comm'
    ):
        unfinished.write_record(tmp_path, example())
    assert list(tmp_path.iterdir()) == []


def test_a_written_record_leaves_nothing_else(tmp_path: Path) -> None:
    (tmp_path / 'unfinished_record.json').write_text(json.dumps({'of': 'an earlier try'}))
    assert unfinished.write_record(tmp_path, example()) == tmp_path / 'record.json'
    assert [path.name for path in tmp_path.iterdir()] == ['record.json']


def test_a_folder_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r'no unfinished_record.json in it; the training command with --resume'
    ):
        unfinished.finish_record(tmp_path)
