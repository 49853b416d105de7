"""Run one job of a sweep: lock it, start it, watch it, resume it if it fails."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from compactdet.errors import UserError
from compactdet.sweep.folder import (
    BLOCKED,
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    WAITING,
    Folder,
    JobStatus,
    now,
)
from compactdet.sweep.grid import Job
from compactdet.sweep.lock import Busy, Lock
from compactdet.training.signals import WORKER_DIED

CHILD = Path(__file__).with_name('child.py')
GRACE_S = 20.0  # seconds between SIGTERM and SIGKILL
TAIL = 20  # lines of the log of a failed job in the report


@dataclass(frozen=True)
class RunOptions:
    """Options of running jobs.

    Attributes:
        retries: Number of times that a failed job is started again.
        threads: ``OMP_NUM_THREADS`` of each; a resumed job keeps its number, since another would change
            the last bits of sums.
        gpu: ``CUDA_VISIBLE_DEVICES``; None to leave it unchanged.
    """

    retries: int = 2
    threads: int = 1
    gpu: str | None = None


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_job(folder: Folder, job: Job, how: RunOptions, stop: threading.Event) -> str:
    """Run a job to its end and store its state.

    Args:
        folder: Folder of the sweep.
        job: A job of it.
        how: Options.
        stop: Event that ends it: the child gets SIGTERM, then SIGKILL.

    Returns:
        Its state: finished, failed or stopped; ``running`` if another sweep runs it now; ``waiting`` or
        ``blocked`` if the job that it needs is not finished.
    """
    try:
        if folder.finished(job):
            return FINISHED
        with folder.lock(job) as lock:
            return _run_locked(folder, job, how, stop, lock)
    except Busy:
        return RUNNING
    except (UserError, OSError) as error:  # such as a full disk
        with contextlib.suppress(UserError):
            folder.note(job, state=FAILED, message=str(error), exit_status=None, ended_utc=now())
        return FAILED


def _run_locked(folder: Folder, job: Job, how: RunOptions, stop: threading.Event, lock: Lock) -> str:
    if folder.finished(job):  # by the previous holder of the lock
        return FINISHED
    needed = next((other for other in folder.jobs if other.name == job.needs), None)
    if needed is not None and not folder.finished(needed):
        return BLOCKED if folder.state(needed).get('state') == FAILED else WAITING
    folder.check_unfinished(job)
    begun = folder.state(job)
    threads = begun.get('threads') or how.threads
    folder.note(
        job, state=RUNNING, threads=threads, message=None, exit_status=None, ended_utc=None,
        started_utc=now(), began_utc=begun.get('began_utc') or now(),
    )  # fmt: skip
    clock, before, state = time.monotonic(), begun.get('wall_s') or 0.0, STOPPED
    message: str | None = None
    for attempt in range(1, how.retries + 2):
        folder.note(job, attempt=attempt, attempts=(folder.state(job).get('attempts') or 0) + 1)
        status, text = _attempt(folder, job, threads, how.gpu, stop, lock)
        if folder.finished(job):
            state, message = FINISHED, None
            break
        if stop.is_set():
            state, message = STOPPED, 'stopped; the same command resumes it'
            break
        state, message = FAILED, why(status, text)
        folder.note(job, exit_status=status, message=message)
        if not may_retry(status, text):
            break
    wall_s = before + time.monotonic() - clock
    folder.note(job, state=state, message=message, ended_utc=now(), wall_s=round(wall_s, 1))
    return state


def may_retry(status: int, text: str) -> bool:
    """Return True if a job with this exit status and output is started again.

    Exit statuses 1 and 2 are user errors, which would recur, unless status 1 came with a traceback, or
    because a data loader worker was killed.
    """
    may_pass = 'Traceback (most recent call last)' in text or f'error: {WORKER_DIED}' in text
    return status not in (0, 1, 2) or (status == 1 and may_pass)


def why(status: int, text: str) -> str:
    """Return the reason of a failure in one line."""
    last = next((line for line in reversed(text.splitlines()) if line.strip()), '')
    if status < 0:
        return f'killed by {signal_name(-status)}'
    if status == 0:
        return f'ended well but left no record: {last}'
    return f'exit status {status}: {last.strip()}'


def signal_name(number: int) -> str:
    """Return the name of a signal, such as ``SIGKILL`` for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f'signal {number}'


def _attempt(
    folder: Folder, job: Job, threads: int, gpu: str | None, stop: threading.Event, lock: Lock
) -> tuple[int, str]:
    """Run the command of a job once; return exit status (-N for signal N) and end of its output."""
    command = folder.suite.command(job, resume=(folder.out / job.name).is_dir())
    environment = {**os.environ, 'OMP_NUM_THREADS': str(threads), 'PYTHONUNBUFFERED': '1'}
    if gpu is not None:
        environment['CUDA_VISIBLE_DEVICES'] = gpu
    guard = [sys.executable, '-I', str(CHILD), str(os.getpid())]
    path = folder.log(job)
    with path.open('ab') as log:
        log.write(f'--- {now()} OMP_NUM_THREADS={threads} {shlex.join(command)}\n'.encode())
        log.flush()
        start = log.tell()
        process = subprocess.Popen(
            [*guard, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            env=environment, pass_fds=lock.fds, start_new_session=True,
        )  # fmt: skip
    folder.note(job, pid=process.pid)
    try:
        status = _watch(process, stop, lock)
    finally:
        end(process)
    with path.open('rb') as printed:
        printed.seek(max(start, path.stat().st_size - 20_000))
        return status, printed.read().decode(errors='replace')


def _watch(process: subprocess.Popen, stop: threading.Event, lock: Lock) -> int:
    while True:
        try:
            return process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            lock.beat()
        if stop.is_set():
            end(process)
            return process.wait()


def end(process: subprocess.Popen) -> None:
    """End a child process and all that it started: SIGTERM, then SIGKILL after ``GRACE_S``."""
    if process.poll() is None:
        _signal(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=GRACE_S)
    _signal(process, signal.SIGKILL)
    process.wait()


def _signal(process: subprocess.Popen, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)  # the child leads its own session


def summary(status: JobStatus, command: list[str], log: Path) -> list[str]:
    """Return the report of a job: the reason of a failure, its log, and how to repeat it."""
    if status.exit_status is None:  # the log is of an earlier run
        return [status.message or status.state]
    try:
        lines = log.read_text(encoding='utf-8', errors='replace').splitlines()[-TAIL:]
    except OSError:
        lines = []
    return [
        status.message or status.state,
        *(f'    {line}' for line in lines),
        f'log:    {log}',
        f'repeat: {shlex.join(command)}',
    ]
