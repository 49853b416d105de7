from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from compactdet.sweep import lock as sweep_lock
from compactdet.sweep.lock import Busy, Lock


def written(path: Path, age_s: float = 0, **changed: object) -> Path:
    """A lock file that somebody left."""
    owner = {'host': socket.gethostname(), 'pid': os.getpid(), 'started': None, **changed}
    path.write_text(json.dumps(owner))
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, '-c', ''])
    child.wait()
    return child.pid


def test_one_holds_it_until_it_is_released(tmp_path):
    path = tmp_path / 'x.lock'
    with Lock(path):
        owner = json.loads(path.read_text())
        assert (owner['host'], owner['pid']) == (socket.gethostname(), os.getpid())
        with pytest.raises(Busy, match=f'process {os.getpid()} on {socket.gethostname()} has it'):
            Lock(path).acquire()
    assert list(tmp_path.iterdir()) == []
    with Lock(path):
        pass


@pytest.mark.parametrize('flock', [True, False])
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, monkeypatch, flock):
    if not flock:  # a file system without it
        monkeypatch.setattr(sweep_lock, 'fcntl', None)
    path = written(tmp_path / 'x.lock', pid=dead_pid())
    with Lock(path):
        assert json.loads(path.read_text())['pid'] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_number_that_another_process_got_is_no_sign_of_life(tmp_path):
    me = sweep_lock._me()
    if me['started'] is None:
        pytest.skip('starts are known on Linux alone')
    path = written(tmp_path / 'x.lock', pid=me['pid'], started=me['started'] - 1)
    with Lock(path):
        pass
    path = written(tmp_path / 'y.lock', pid=me['pid'], started=me['started'])
    with pytest.raises(Busy, match='has it'):
        Lock(path).acquire()


@pytest.mark.parametrize(('age_s', 'free'), [(10, False), (sweep_lock.STALE_S + 10, True)])
def test_a_holder_on_another_machine_must_show_signs_of_life(tmp_path, age_s, free):
    path = written(tmp_path / 'x.lock', age_s, host='elsewhere', pid=1)
    if free:
        with Lock(path):
            pass
    else:
        with pytest.raises(Busy, match='process 1 on elsewhere has it'):
            Lock(path).acquire()


@pytest.mark.parametrize('text', ['', '{', '[1]', '{"pid": "x", "host": 3}'])
def test_a_file_that_says_nothing_is_taken_over_when_it_is_old(tmp_path, text):
    path = tmp_path / 'x.lock'
    path.write_text(text)
    with pytest.raises(Busy):
        Lock(path).acquire()
    os.utime(path, (time.time() - sweep_lock.STALE_S - 10,) * 2)
    with Lock(path):
        pass


def test_signs_of_life_are_shown(tmp_path, monkeypatch):
    path = tmp_path / 'x.lock'
    with Lock(path) as lock:
        os.utime(path, (1, 1))
        lock.beat()
        assert path.stat().st_mtime == 1  # not yet
        monkeypatch.setattr(sweep_lock, 'BEAT_S', 0)
        lock.beat()
        assert time.time() - path.stat().st_mtime < 60


def test_a_child_that_outlives_the_holder_keeps_the_lock(tmp_path):
    """As on a system whose kernel does not end children with their parent."""
    path = tmp_path / 'x.lock'
    code = (
        'import subprocess, sys; from pathlib import Path; from compactdet.sweep.lock import Lock\n'
        f'lock = Lock(Path({str(path)!r})); lock.acquire()\n'
        "child = subprocess.Popen(['sleep', '30'], pass_fds=lock.fds, stdout=subprocess.DEVNULL)\n"
        'print(child.pid, flush=True); import os; os._exit(9)\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], stdout=subprocess.PIPE, text=True,
        env={**os.environ, 'PYTHONPATH': str(Path(__file__).parents[2] / 'tools')},
    )  # fmt: skip
    assert done.returncode == 9
    with pytest.raises(Busy, match='has it'):
        Lock(path).acquire()
    os.kill(int(done.stdout), 9)
    end = time.monotonic() + 10
    while True:
        try:
            with Lock(path):
                break
        except Busy:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_of_many_that_take_a_stale_lock_over_one_gets_it(tmp_path):
    path = tmp_path / 'x.lock'
    for _ in range(20):
        written(path, pid=2**22 + 1, started=1)
        inside: list[int] = []
        most: list[int] = []
        start = threading.Barrier(8)

        def take(inside=inside, most=most, start=start) -> None:
            start.wait()
            try:
                with Lock(path):
                    inside.append(1)
                    most.append(len(inside))
                    time.sleep(0.01)
                    inside.pop()
            except Busy:
                pass

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most
        assert max(most) == 1
        path.unlink(missing_ok=True)
