"""A sweep on a Ray cluster: one task per run, started again on another node if its node is removed.

The nodes share the folder of the sweep and the installation at the same paths. A task does the same as a
local worker, so locks, retries, resuming and logs are equal; the lock of a removed node is taken over (see
`compactdet.sweep.lock`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compactdet.errors import UserError
from compactdet.sweep.folder import BLOCKED, FAILED, FINISHED, RUNNING, STOPPED, WAITING, Folder
from compactdet.sweep.grid import Job
from compactdet.sweep.job_runner import RunOptions, run_job
from compactdet.sweep.view import View

LOOK_S = 1.0
LOOK_AGAIN_S = 5.0  # seconds between looks at a locked job
NODES_LOST = 5  # number of moves of a run to another node


def connect(address: str) -> Any:
    """Join a cluster.

    Args:
        address: ``HOST:PORT`` of its head; ``auto`` for the cluster of this machine; ``local`` for a new
            one on this machine.

    Raises:
        UserError: Ray is not installed, or there is no such cluster.
    """
    try:
        import ray  # here: an optional package
    except ImportError as error:
        raise UserError('--ray needs Ray: python -m pip install -e ".[cluster]"') from error
    try:
        ray.init(
            address=address, log_to_driver=False, include_dashboard=False if address == 'local' else None,
            runtime_env={'env_vars': {'PYTHONPATH': str(Path(__file__).parents[2])}},
        )  # fmt: skip
    except (ConnectionError, ValueError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(
            f'--ray {address}: no cluster answers ({line}); start one: ray start --head'
        ) from error
    return ray


def work(folder: Folder, job: Job, how: RunOptions, here: str) -> str:
    """Run a job as a task on its node, in the same folder; wait while another process has it."""
    os.chdir(here)
    stop = threading.Event()
    try:
        while (state := run_job(folder, job, how, stop)) == RUNNING:
            time.sleep(LOOK_AGAIN_S)
    finally:  # Ray cancels a task by raising an exception in it
        stop.set()
    return state


def run(
    folder: Folder,
    jobs: Sequence[Job],
    how: RunOptions,
    stop: threading.Event,
    address: str,
    cpus: int,
    gpus: float,
) -> dict[str, str]:
    """Run jobs on a cluster until none is left or ``stop`` is set.

    Args:
        folder: The sweep, whose path is the same on each node.
        jobs: Those of it to run.
        how: Options.
        stop: Event that ends the sweep.
        address: As ``connect`` takes it.
        cpus: Cores that each needs.
        gpus: GPUs that each needs.

    Returns:
        The state of each job by its name.

    Raises:
        UserError: See ``connect``.
    """
    ray = connect(address)
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=NODES_LOST)(work)
    states = {job.name: WAITING for job in jobs}
    running: dict[Any, Job] = {}
    try:
        with View(folder, jobs, max(1, _slots(ray, cpus, gpus))) as view:
            while not stop.is_set():
                for job in jobs:
                    needed = states.get(job.needs or '', FINISHED)
                    if states[job.name] == WAITING and needed in (FAILED, BLOCKED):
                        states[job.name] = BLOCKED
                    elif states[job.name] == WAITING and needed == FINISHED:
                        states[job.name] = RUNNING
                        running[task.remote(folder, job, how, str(Path.cwd()))] = job
                view.update(_shown(folder, jobs, states))
                if not running:
                    break
                done, _ = ray.wait(list(running), timeout=LOOK_S)
                for reference in done:
                    job = running.pop(reference)
                    states[job.name] = _result(ray, reference, folder, job)
            view.update(_shown(folder, jobs, states))
            for reference, job in running.items():
                ray.cancel(reference)
                states[job.name] = STOPPED
            if running:
                ray.wait(list(running), num_returns=len(running), timeout=30)
    finally:
        ray.shutdown()
    return {
        name: STOPPED if stop.is_set() and state == WAITING else state for name, state in states.items()
    }


def _result(ray: Any, reference: Any, folder: Folder, job: Job) -> str:
    """Return how a task ended; a task that Ray itself gave up has failed."""
    try:
        state: str = ray.get(reference)
    except Exception as error:  # any failure of the cluster
        folder.note(
            job, state=FAILED, message=f'Ray: {type(error).__name__}: {str(error).strip().splitlines()[0]}'
        )
        return FAILED
    return state


def _shown(folder: Folder, jobs: Sequence[Job], states: dict[str, str]) -> dict[str, str]:
    """Return the states for display: a task without room on any node is waiting."""
    return {
        job.name: WAITING
        if states[job.name] == RUNNING and not folder.lock(job).path.exists()
        else states[job.name]
        for job in jobs
    }


def _slots(ray: Any, cpus: int, gpus: float) -> int:
    there = ray.cluster_resources()
    by_cpu = there.get('CPU', 1) // cpus
    return int(min(by_cpu, there.get('GPU', 0) // gpus) if gpus else by_cpu)
