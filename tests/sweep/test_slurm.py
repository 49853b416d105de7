"""Slurm's part, with a stand-in for its commands that runs the tasks of an array in turn."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from compactdet.errors import run_main
from compactdet.sweep import options
from compactdet.sweep import slurm as sweep_slurm
from compactdet.sweep.grid import jobs

import sweep_fake

ONE = 'a_frcnn_c4_shapes_random_seed0'
AXES = ['--detectors', 'frcnn_c4', '--datasets', 'shapes', '--archs']

SBATCH = r"""#!/bin/bash
# Runs the tasks in turn; notes how each ended, and skips those whose dependency did not end well.
cd "$(dirname "$0")"; state=$PWD; cd "$OLDPWD"
echo "$@" >> "$state/calls"
id=$((100 + $(wc -l < "$state/calls")))
for word in "$@"; do case $word in --dependency=afterok:*) needs=${word#*:};; esac; done
script=${@: -1}
[ "$(head -c 2 "$script")" = '#!' ] || { echo 'no script' >&2; exit 1; }
last=$(sed -n 's/^#SBATCH --array=0-//p' "$script")
for task in $(seq 0 "$last"); do
    if [ -n "$needs" ] && [ "$(cat "$state/end_$needs")" != 0 ]; then continue; fi
    export SLURM_ARRAY_JOB_ID=$id SLURM_ARRAY_TASK_ID=$task SLURM_RESTART_COUNT=0
    while true; do
        bash "$script" >> "$state/log" 2>&1
        echo $? > "$state/end_${id}_$task"
        [ -e "$state/requeued" ] || break
        rm "$state/requeued"
        SLURM_RESTART_COUNT=$((SLURM_RESTART_COUNT + 1))
    done
done
echo "$id;cluster"
"""
SRUN = r"""#!/bin/bash
# Starts a step; sends it SIGTERM, once, when a test's run says that it waits.
[ "$1" = --ntasks=1 ] || exit 9
shift
[ -e "$TERM_WHEN" ] || [ -z "$TERM_WHEN" ] && exec "$@"
"$@" &
while [ ! -e "$TERM_WHEN" ]; do sleep 0.1; done
kill -TERM $!
wait $!
"""
SCONTROL = r"""#!/bin/bash
[ "$1" = requeue ] && echo "$2" > "$(dirname "$0")/requeued"
"""


@pytest.fixture
def slurm(tmp_path) -> Path:
    """A folder with the stand-ins, which keep what they did there."""
    folder = tmp_path / 'slurm'
    folder.mkdir()
    for name, text in {'sbatch': SBATCH, 'srun': SRUN, 'scontrol': SCONTROL}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def submit(slurm, monkeypatch, capsys) -> Callable[..., Done]:
    """Runs a sweep that finds the stand-ins before any Slurm of this machine."""
    out = slurm.parent / 'out put'  # with a space
    out.mkdir()
    monkeypatch.chdir(slurm.parent)

    def run(*arguments: str, script: dict | None = None, when: str = '', path: str | None = None) -> Done:
        (out / 'script.json').write_text(json.dumps(script or {}))
        monkeypatch.setenv('PATH', f'{slurm}:{os.environ["PATH"]}' if path is None else path)
        monkeypatch.setenv('TERM_WHEN', when)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_main(lambda: sweep_fake.sweep(['--out', 'out put', *arguments]))
        return Done(ended.value.code, *capsys.readouterr())

    return run


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.add_arguments(parser)
    return options.parse(parser, arguments)


def ended(slurm: Path) -> list[str]:
    lines = (slurm.parent / 'out put' / 'journal.txt').read_text().splitlines()
    return [line.split()[1] for line in lines if line.startswith('end')]


def test_arrays_run_to_the_end(slurm, submit):
    arguments = [*AXES, 'a', 'b', '--pretrain', 'cifar10', '--seeds', '0', '1']
    done = submit(*arguments, '--slurm', '--slurm-options', '--partition=gpu --time=1:00')
    assert (done.returncode, done.stderr) == (0, '')
    calls = (slurm / 'calls').read_text().splitlines()
    assert calls == [
        '--parsable --partition=gpu --time=1:00 out put/slurm/first.sh',
        '--parsable --partition=gpu --time=1:00 --dependency=afterok:101_0 --kill-on-invalid-dep=yes '
        'out put/slurm/after_0.sh',
        '--parsable --partition=gpu --time=1:00 --dependency=afterok:101_1 --kill-on-invalid-dep=yes '
        'out put/slurm/after_1.sh',
    ]
    assert ended(slurm) == [
        'a_pretraining_cifar10_seed0', 'b_pretraining_cifar10_seed0',
        *(f'{arch}_frcnn_c4_shapes_from_cifar10_seed0_seed{seed}' for arch in 'ab' for seed in (0, 1)),
    ]  # fmt: skip
    assert '101: 2 runs, out put/slurm/first.sh' in done.stdout

    done = submit('--slurm')
    assert (done.returncode, done.stdout) == (0, 'all 6 runs are finished\n')
    assert len((slurm / 'calls').read_text().splitlines()) == 3


@pytest.mark.parametrize('given', ['--partition=gpu', '-pgpu', '--exclusive'])
def test_options_of_sbatch_may_begin_with_dashes(given):
    args = parse('--out', 'x', '--slurm', '--slurm-options', given, '--only', ONE)
    assert args.slurm_options == given
    assert args.only == [ONE]


def test_a_missing_value_of_slurm_options_is_bad_usage(capsys):
    with pytest.raises(SystemExit, match='2'):
        parse('--out', 'x', '--slurm-options', '--slurm')
    assert '--slurm-options: expected one argument' in capsys.readouterr().err


def test_a_run_stopped_by_the_time_limit_is_put_back_and_goes_on(slurm, submit):
    pid = slurm.parent / 'out put' / ONE / 'pid'
    arguments = [*AXES, 'a', '--init', 'none', '--slurm']
    done = submit(*arguments, script={ONE: ['wait', 'finish']}, when=str(pid))
    assert done.returncode == 0
    assert (slurm / 'end_101_0').read_text() == '0\n'
    lines = (slurm.parent / 'out put' / 'journal.txt').read_text().splitlines()
    assert [line.split()[::2][:2] for line in lines] == [['begin', 'new'], ['begin', 'resumed'], ['end']]


def test_a_failed_run_keeps_its_status_and_holds_back_what_needs_it(slurm, submit):
    bad = 'a_pretraining_cifar10_seed0'
    done = submit(*AXES, 'a', 'b', '--pretrain', 'cifar10', '--slurm', script={bad: ['user']})
    assert done.returncode == 0  # submitted
    assert (slurm / 'end_101_0').read_text() == '1\n'
    assert ended(slurm) == ['b_pretraining_cifar10_seed0', 'b_frcnn_c4_shapes_from_cifar10_seed0_seed0']
    assert f'{bad}: failed' in (slurm / 'log').read_text()


def test_printing_submits_and_writes_nothing(slurm, submit):
    done = submit(*AXES, 'a', '--pretrain', 'cifar10', '--slurm-print', '--retries', '5')
    assert done.returncode == 0
    assert not (slurm / 'calls').exists()
    assert sorted(path.name for path in (slurm.parent / 'out put').iterdir()) == ['script.json']
    for words in (
        '# sbatch --parsable \'out put/slurm/first.sh\'', '#SBATCH --array=0-0', '#SBATCH --requeue',
        '#SBATCH --signal=TERM@60', '--dependency=afterok:ID_OF_first_0',
        "--out 'out put' --retries 5 --only",
        f'#SBATCH --output="{slurm.parent}/out put/logs/slurm_first_%A_%a.log"',
        f'cd {slurm.parent} || exit 1', '  a_frcnn_c4_shapes_from_cifar10_seed0_seed0\n',
    ):  # fmt: skip
        assert words in done.stdout


def test_a_refusal_is_one_line(slurm, submit, tmp_path):
    (slurm / 'sbatch').write_text('#!/bin/bash\necho "sbatch: error: invalid partition" >&2\nexit 1\n')
    done = submit(*AXES, 'a', '--init', 'none', '--slurm')
    assert done.returncode == 1
    assert done.stderr == (
        'error: sbatch refused out put/slurm/first.sh: sbatch: error: invalid partition\n'
    )
    done = submit('--slurm', path=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith('error: no sbatch on this machine')
    assert done.stderr.count('\n') == 1


def test_large_grids_are_cut_to_what_an_array_holds():
    content = {'archs': ['a'], 'detectors': ['frcnn_c4'], 'datasets': ['bccd'], 'seeds': list(range(1500))}
    first, second = sweep_slurm.arrays(jobs(content, 'grid'))
    assert (first.name, len(first.jobs), second.name, len(second.jobs)) == ('first', 1000, 'first_1', 500)
    made = sweep_slurm.arrays(jobs({**content, 'pretrain': {'dataset': 'c', 'seed': 'each'}}, 'grid'))
    assert len(made) == 2 + 1500
    assert [made[2].after, made[-1].after] == [('first', 0), ('first_1', 499)]
