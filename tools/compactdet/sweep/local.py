"""The queue of a sweep on this machine: a number of jobs at once, each after the job that it needs."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from compactdet.errors import UserError
from compactdet.sweep.folder import BLOCKED, FAILED, FINISHED, RUNNING, STOPPED, WAITING, Folder
from compactdet.sweep.grid import Job
from compactdet.sweep.job_runner import RunOptions, run_job
from compactdet.sweep.view import View

LOOK_AGAIN_S = 2.0  # seconds between looks at a job of another sweep


class Queue:
    """Jobs, and which of them may start."""

    def __init__(self, folder: Folder, jobs: Sequence[Job]) -> None:
        self.states = {job.name: _state_before(folder, job) for job in jobs}
        self._folder = folder
        self._jobs = list(jobs)
        self._not_before: dict[str, float] = {}
        self._changed = threading.Condition()

    def take(self, stop: threading.Event) -> Job | None:
        """Return the next job that may start; wait for one. None if nothing is left to do."""
        with self._changed:
            while not stop.is_set():
                for job in self._jobs:
                    if self._ready(job):
                        self.states[job.name] = RUNNING
                        return job
                if all(state not in (WAITING, RUNNING) for state in self.states.values()):
                    return None
                self._changed.wait(timeout=1.0)
        return None

    def _ready(self, job: Job) -> bool:
        if self.states[job.name] != WAITING or self._not_before.get(job.name, 0) > time.monotonic():
            return False
        needed = self.states.get(job.needs or '', FINISHED)  # a job outside the queue is checked by run_job
        if needed in (FAILED, BLOCKED):
            self.states[job.name] = BLOCKED
            self._changed.notify_all()
        return needed == FINISHED

    def put(self, job: Job, state: str) -> None:
        """Store how a job ended; one that another sweep runs, or whose need is missing, is queued again."""
        with self._changed:
            if state in (RUNNING, WAITING):
                self._not_before[job.name] = time.monotonic() + LOOK_AGAIN_S
                state = WAITING
            self.states[job.name] = state
            self._changed.notify_all()


def _state_before(folder: Folder, job: Job) -> str:
    with contextlib.suppress(UserError):  # stored by run_job
        if folder.finished(job):
            return FINISHED
    return WAITING


class Stop(threading.Event):
    """An event that ends a sweep.

    Attributes:
        number: Number of the signal that set it; 0 if none did.
    """

    number = 0


def run(
    folder: Folder,
    jobs: Sequence[Job],
    how: RunOptions,
    stop: threading.Event,
    *,
    workers: int = 1,
    gpus: Sequence[str] = (),
) -> dict[str, str]:
    """Run jobs, ``workers`` at once, until none is left or ``stop`` is set.

    Args:
        folder: The sweep.
        jobs: Those of it to run.
        how: Options.
        stop: Event that ends the sweep.
        workers: Number of jobs that run at once.
        gpus: Values of ``CUDA_VISIBLE_DEVICES``, dealt out to the workers in turn; empty: left as it is.

    Returns:
        The state of each job by its name.
    """
    queue = Queue(folder, jobs)
    with View(folder, jobs, workers) as view:
        threads = [
            threading.Thread(
                target=_work,
                args=(folder, queue, replace(how, gpu=gpus[number % len(gpus)] if gpus else how.gpu), stop),
            )
            for number in range(min(workers, len(jobs)))
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            view.update(queue.states)
            for thread in threads:
                thread.join(timeout=1.0 / len(threads))
        view.update(queue.states)
    return {
        name: STOPPED if stop.is_set() and state in (WAITING, RUNNING) else state
        for name, state in queue.states.items()
    }


def _work(folder: Folder, queue: Queue, how: RunOptions, stop: threading.Event) -> None:
    while (job := queue.take(stop)) is not None:
        state = FAILED
        try:
            state = run_job(folder, job, how, stop)
        finally:
            queue.put(job, state)


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Return an event that SIGINT and SIGTERM set."""
    stop = Stop()

    def set_it(number: int, frame: object) -> None:
        stop.number = number
        stop.set()

    before = {number: signal.signal(number, set_it) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
