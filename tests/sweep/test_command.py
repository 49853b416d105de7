from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from compactdet.errors import UserError, run_main
from compactdet.sweep import view
from compactdet.sweep.folder import JobStatus
from compactdet.sweep.grid import Run
from compactdet.sweep.job_runner import may_retry, why
from compactdet.sweep.local import Queue

import sweep_fake

FAKE = [sys.executable, sweep_fake.__file__, 'sweep']
ONE = 'a_frcnn_c4_shapes_random_seed0'


def grid(**given: str) -> list[str]:
    axes = {'archs': 'a', 'detectors': 'frcnn_c4', 'datasets': 'shapes', 'init': 'none', **given}
    return [word for key, value in axes.items() if value for word in (f'--{key}', *value.split())]


def start(out: Path, *arguments: str, **popen: object) -> subprocess.Popen:
    return subprocess.Popen(
        [*FAKE, '--out', str(out), *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        **popen,
    )  # fmt: skip


@pytest.fixture
def run(tmp_path, capsys) -> Callable[..., tuple[int, str, str]]:
    """Runs a sweep of stand-ins in ``tmp_path/out``: (exit status, standard output, standard error)."""
    out = tmp_path / 'out'

    def make(*arguments: str, script: dict | None = None) -> tuple[int, str, str]:
        out.mkdir(exist_ok=True)
        if script is not None:
            (out / 'script.json').write_text(json.dumps(script))
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            run_main(lambda: sweep_fake.sweep(['--out', str(out), *arguments]))
        return (ended.value.code, *capsys.readouterr())

    return make


def journal(out: Path) -> list[list[str]]:
    path = out / 'journal.txt'
    return [line.split() for line in path.read_text().splitlines()] if path.is_file() else []


def wait_for(path: Path, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f'{path} did not come'
        time.sleep(0.05)


def gone(pid: int, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] == 'Z':
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def test_a_grid_runs_to_the_end_and_a_second_time_runs_nothing(run, tmp_path):
    status, out, err = run(*grid(archs='a b', datasets='shapes bccd', seeds='0 1'), '--jobs', '3')
    assert (status, err) == (0, '')
    assert '8 of 8 finished' in out
    lines = journal(tmp_path / 'out')
    assert Counter(line[0] for line in lines) == {'begin': 8, 'end': 8}
    assert len({line[1] for line in lines}) == 8
    threads = {line[3] for line in lines if line[0] == 'begin'}
    assert threads == {str(max(1, len(os.sched_getaffinity(0)) // 3))}
    status = json.loads((tmp_path / 'out' / 'status.json').read_text())
    assert status['counts'] == {'finished': 8}
    assert {row['state'] for row in status['jobs']} == {'finished'}
    assert not list((tmp_path / 'out' / '.sweep').glob('*.lock'))

    status, out, err = run()  # the grid lies in the folder
    assert (status, err) == (0, '')
    assert '8 runs, 8 of them finished before' in out
    assert journal(tmp_path / 'out') == lines


def test_a_larger_grid_goes_on_in_the_same_folder(run, tmp_path):
    run(*grid())
    assert run(*grid(seeds='0 1'))[0] == 0
    assert [line[1] for line in journal(tmp_path / 'out') if line[0] == 'begin'] == [ONE, f'{ONE[:-1]}1']
    assert 'seeds' not in (tmp_path / 'out' / 'grid_1.yaml').read_text()
    assert 'seeds' in (tmp_path / 'out' / 'grid.yaml').read_text()


@pytest.mark.parametrize('death', ['kill', 'three', 'crash'])
def test_a_run_that_dies_is_resumed(run, tmp_path, death):
    status, out, _ = run(*grid(), script={ONE: [death, death, 'finish']})
    assert status == 0, out
    begun = [line[2] for line in journal(tmp_path / 'out') if line[0] == 'begin']
    assert begun == ['new', 'resumed', 'resumed']
    state = json.loads((tmp_path / 'out' / '.sweep' / f'{ONE}.json').read_text())
    assert (state['state'], state['attempts'], state['message']) == ('finished', 3, None)


@pytest.mark.parametrize(
    ('way', 'attempts', 'why'),
    [
        ('user', 1, 'exit status 1: error: the data set is absent'),
        ('usage', 1, 'exit status 2'),
        ('nothing', 1, 'ended well but left no record'),
        ('kill', 3, 'killed by SIGKILL'),
        ('three', 3, 'exit status 3'),
    ],
)
def test_what_fails_is_reported_and_the_rest_goes_on(run, tmp_path, way, attempts, why):
    status, out, err = run(*grid(archs='a b'), script={ONE: [way]})
    assert (status, err) == (1, '')
    assert len([line for line in journal(tmp_path / 'out') if line[:2] == ['begin', ONE]]) == attempts
    report = out[out.index(f'{ONE}: failed\n') :]
    assert why in report
    assert 'step 5/10' in report  # the end of its log
    assert f'log:    {tmp_path / "out" / "logs" / ONE}.log' in report
    assert f'repeat: {sys.executable} {sweep_fake.__file__} train --resume --arch a ' in report
    assert '1 of 2 finished · 1 failed' in report
    (tmp_path / 'out' / 'script.json').unlink()
    status, out, _ = run()  # what failed is tried again, what is finished is not
    assert status == 0
    assert len([line for line in journal(tmp_path / 'out') if line[0] == 'end']) == 2


def test_statuses():
    assert [may_retry(status, '') for status in (0, 1, 2, 3, -9, -15, 137)] == [False] * 3 + [True] * 4
    assert may_retry(1, 'Traceback (most recent call last):\n...\nRuntimeError: a fault')
    assert may_retry(1, 'step 7/9\nerror: a data loader worker process died (killed: Killed): give the run')
    assert not may_retry(1, 'step 7/9\nerror: the loss is nan at iteration 7')
    assert not may_retry(2, 'Traceback (most recent call last):')
    assert why(-200, '') == 'killed by signal 200'


def test_what_is_finished_counts_from_the_start():
    before = {'a': [True], 'b': [False], 'c': UserError('the record of another run')}
    jobs = [mock.Mock(finished=mock.Mock(side_effect=found)) for found in before.values()]
    for job, name in zip(jobs, before, strict=True):
        job.name = name
    folder = mock.Mock(finished=lambda job: job.finished())
    assert Queue(folder, jobs).states == {'a': 'finished', 'b': 'waiting', 'c': 'waiting'}


def test_detectors_wait_for_their_own_pretraining(run, tmp_path):
    slow = 'a_pretraining_cifar10_seed0'
    status, out, err = run(
        *grid(archs='a b', init='', pretrain='cifar10', seeds='0 1'), '--jobs', '2',
        script={slow: ['sleep1.5']},
    )  # fmt: skip
    assert (status, err) == (0, ''), out
    lines = [tuple(line[:2]) for line in journal(tmp_path / 'out')]
    assert len(lines) == 12
    names = {name for _, name in lines}
    for name in (name for name in names if 'frcnn' in name):
        needed = f'{name[0]}_pretraining_cifar10_seed0'
        assert lines.index(('end', needed)) < lines.index(('begin', name))
    b = next(name for name in names if name.startswith('b_frcnn'))
    assert lines.index(('end', b)) < lines.index(('end', slow))  # b's did not wait for a's


def test_runs_of_a_failed_pretraining_are_not_run(run, tmp_path):
    bad = 'a_pretraining_cifar10_seed0'
    status, out, _ = run(*grid(archs='a b', init='', pretrain='cifar10'), script={bad: ['user']})
    assert status == 1
    assert f'a_frcnn_c4_shapes_from_cifar10_seed0_seed0: not run, since {bad} failed' in out
    assert '2 of 4 finished · 1 failed · 1 blocked' in out
    (tmp_path / 'out' / 'script.json').unlink()
    assert run()[0] == 0
    assert len([line for line in journal(tmp_path / 'out') if line[0] == 'end']) == 4


def test_only_some_runs_with_what_they_need(run, tmp_path):
    name = 'b_frcnn_c4_shapes_from_cifar10_seed0_seed0'
    status, _, _ = run(*grid(archs='a b', init='', pretrain='cifar10'), '--only', name)
    assert status == 0
    assert [line[1] for line in journal(tmp_path / 'out') if line[0] == 'end'] == [
        'b_pretraining_cifar10_seed0',
        name,
    ]
    status, _, err = run('--only', name.replace('b_', 'c_'))
    assert status == 1
    assert 'the grid has no such run; did you mean' in err


def test_the_record_of_another_run_is_never_overwritten(run, tmp_path):
    run(*grid())
    path = tmp_path / 'out' / ONE / 'record.json'
    before = path.read_bytes()
    status, out, _ = run(*grid(), '--lr', '0.5')
    assert status == 1
    assert 'holds the record of another run: its lr is null, not 0.5' in out
    assert 'repeat:' not in out  # nor the log, which is that of the run that went well
    assert 'step 5/10' not in out
    assert path.read_bytes() == before
    record = json.loads(before)
    path.write_text(json.dumps({**record, 'seed': 7}))
    status, out, _ = run(*grid())
    assert status == 1
    assert 'the file was edited after the run' in out
    path.write_text('{')
    status, out, _ = run(*grid())
    assert (status, 'not a JSON file' in out) == (1, True)
    assert len(journal(tmp_path / 'out')) == 2  # nothing was run again


def test_a_log_that_cannot_be_written_fails_its_run_alone(run, tmp_path):
    (tmp_path / 'out' / 'logs' / f'{ONE}.log').mkdir(parents=True)  # as a full disk would
    status, out, err = run(*grid(archs='a b'))
    assert (status, err) == (1, '')
    assert '1 of 2 finished · 1 failed' in out
    assert 'Is a directory' in out


def test_an_unfinished_run_of_another_grid_is_not_gone_on_with(run, tmp_path):
    run(*grid(), script={ONE: ['user']})
    status, out, _ = run(*grid(), '--lr', '0.5')
    assert status == 1
    assert 'holds an unfinished run of another grid, config or weights file' in out
    assert len(journal(tmp_path / 'out')) == 1


def test_other_weights_are_another_run(run, tmp_path):
    weights = tmp_path / 'w.safetensors'
    weights.write_bytes(b'1')
    assert run(*grid(init=str(weights)))[0] == 0
    weights.write_bytes(b'2')
    status, out, _ = run()
    assert status == 1
    assert 'holds the record of another run: its init is' in out


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_sweep_stops_its_runs_and_goes_on(tmp_path, run, number):
    run('--status', *grid())  # makes nothing
    assert not (tmp_path / 'out' / 'grid.yaml').exists()
    (tmp_path / 'out' / 'script.json').write_text(json.dumps({ONE: ['wait', 'finish']}))
    process = start(tmp_path / 'out', *grid(seeds='0 1'))
    wait_for(tmp_path / 'out' / ONE / 'pid')
    pid = int((tmp_path / 'out' / ONE / 'pid').read_text())
    assert '1 running' in run('--status')[1]
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 128 + number
    assert err == 'error: stopped by a signal; the same command resumes it\n'
    assert f'{ONE}: stopped' in out
    assert gone(pid, 0.1)
    assert run()[0] == 0
    assert [line[:2] for line in journal(tmp_path / 'out')] == [
        ['begin', ONE], ['begin', ONE], ['end', ONE], ['begin', f'{ONE[:-1]}1'], ['end', f'{ONE[:-1]}1'],
    ]  # fmt: skip


@pytest.mark.skipif(sys.platform != 'linux', reason='the kernel ends children on Linux alone')
def test_a_killed_sweep_leaves_no_child_and_no_lock(tmp_path, run):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'script.json').write_text(json.dumps({ONE: ['wait', 'finish']}))
    process = start(tmp_path / 'out', *grid(seeds='0 1'))
    wait_for(tmp_path / 'out' / ONE / 'pid')
    pid = int((tmp_path / 'out' / ONE / 'pid').read_text())
    process.kill()
    process.communicate()
    assert gone(pid)
    assert (tmp_path / 'out' / '.sweep' / f'{ONE}.lock').exists()
    assert '1 stopped' in run('--status')[1]
    assert (tmp_path / 'out' / '.sweep' / f'{ONE}.lock').exists()  # looking changes nothing
    assert run()[0] == 0
    assert [line[2] for line in journal(tmp_path / 'out') if line[:2] == ['begin', ONE]] == [
        'new',
        'resumed',
    ]


def test_a_child_that_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    from compactdet.sweep import job_runner

    monkeypatch.setattr(job_runner, 'GRACE_S', 0.5)
    code = 'import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)'
    child = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, start_new_session=True)
    assert child.stdout.readline() == b'1\n'
    job_runner.end(child)
    assert child.returncode == -signal.SIGKILL
    child.stdout.close()


def test_two_sweeps_on_one_folder_share_the_work(tmp_path, run):
    out = tmp_path / 'out'
    out.mkdir()
    arguments = grid(archs='a b c', seeds='0 1')
    script = {
        f'{arch}_frcnn_c4_shapes_random_seed{seed}': ['sleep0.4'] for arch in 'abc' for seed in (0, 1)
    }
    (out / 'script.json').write_text(json.dumps(script))
    sweeps = [start(out, *arguments) for _ in range(2)]
    ends = [process.communicate(timeout=60) for process in sweeps]
    assert [process.returncode for process in sweeps] == [0, 0], ends
    lines = journal(out)
    assert Counter(tuple(line[:2]) for line in lines) == {
        (what, name): 1 for what in ('begin', 'end') for name in script
    }
    assert all('6 of 6 finished' in text for text, _ in ends)


def test_progress_and_time_left(tmp_path):
    log = tmp_path / 'x.log'
    log.write_text('--- a\nepoch 1/2 · step 12/156 · loss 0.5 · 1:20 min left to train\nWARNING: x\n')
    assert view.progress(log) == ('epoch 1/2 · step 12/156 · loss 0.5 · 1:20 min left to train', 80)
    with log.open('a') as file:
        file.write('step 150/156 · loss 0.5 · 2 h 05 min left to train\n')
    assert view.progress(log)[1] == 7500
    with log.open('a') as file:
        file.write('--- again\n')
    assert view.progress(log) == (None, None)
    assert view.progress(tmp_path / 'none') == (None, None)

    jobs = [Run('a', 'frcnn_c4', 'shapes', seed) for seed in range(4)] + [Run('b', 'frcnn_c4', 'shapes', 0)]
    rows = {job.name: JobStatus('waiting') for job in jobs}
    assert view.time_left(jobs, rows, 1) is None
    rows[jobs[0].name] = JobStatus('finished', wall_s=100.0)
    rows[jobs[1].name] = JobStatus('finished', wall_s=200.0)
    rows[jobs[2].name] = JobStatus('running', left_s=40.0)
    assert view.time_left(jobs, rows, 1) == 40 + 150 + 150
    assert view.time_left(jobs, rows, 2) == 170
    assert view.time_left(jobs, rows, 8) == 150  # the longest alone
    assert view.counted(rows) == '2 of 5 finished · 1 running · 2 waiting'


def test_the_live_table_names_what_runs_and_what_failed():
    from compactdet.console import PlainConsole

    rows = {
        'one[x]': JobStatus('running', progress='step 1/2', attempts=2),
        'two': JobStatus('failed', message='exit status 1: no data'),
        'three': JobStatus('waiting'),
        **{f'end{n}': JobStatus('finished', wall_s=61.0, ended_utc=f'{n}') for n in range(5)},
    }
    console = PlainConsole(width=100, record=True, file=open(os.devnull, 'w'))  # noqa: SIM115, PTH123
    console.print(view.table(rows))
    text = console.export_text()
    for words in ('one[x]', 'running (attempt 2)', 'step 1/2', 'no data', 'end4', '1:01 min'):
        assert words in text
    assert 'three' not in text
    assert 'end0' not in text


@pytest.mark.slow
def test_real_trainings_survive_the_kill_of_one(tmp_path, tiny_set):
    from compactdet.records import record_file

    out = tmp_path / 'out'
    command = [
        sys.executable, str(sweep_fake.REPO / 'tools' / 'sweep.py'), '--out', str(out), '--jobs', '2',
        '--archs', 'menet_108_8x1_g3', '--detectors', 'frcnn_c4', '--datasets', 'custom', '--init', 'none',
        '--data-root', f'custom={tiny_set}', '--schedule', 'shapes', '--seeds', '0', '1',
        '--cfg-options', 'train_cfg.max_epochs=1',
    ]  # fmt: skip
    name = 'menet_108_8x1_g3_frcnn_c4_tiny_random_seed0'
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        wait_for(out / 'logs' / f'{name}.log', 120)
        while 'training on 4 images' not in (out / 'logs' / f'{name}.log').read_text():
            assert process.poll() is None
            time.sleep(0.1)
        os.kill(json.loads((out / '.sweep' / f'{name}.json').read_text())['pid'], signal.SIGKILL)
        text = process.stdout.read()
    assert process.returncode == 0, text
    assert '2 of 2 finished' in text
    assert json.loads((out / '.sweep' / f'{name}.json').read_text())['attempts'] == 2
    paths = sorted(out.glob('*/record.json'))
    assert [record_file.read(path)['seed'] for path in paths] == [0, 1]
    before = [path.read_bytes() for path in paths]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert '2 runs, 2 of them finished before' in done.stdout
    assert [path.read_bytes() for path in paths] == before
