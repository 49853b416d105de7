"""A sweep on a Ray cluster: one task a run, started again on another node when its own is removed.

The nodes share the sweep's folder and the installation at the same paths. A task does what a local worker
does, so locks, retries, resumption and logs are the same; a lock of a node that is gone is taken over (see
``sweep_lock``).
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
from compactdet.sweep.job_runner import How, run_job
from compactdet.sweep.local import stopping
from compactdet.sweep.view import View

LOOK_S = 1.0
LOOK_AGAIN_S = 5.0  # at a job whose lock somebody has
NODES_LOST = 5  # a run is moved to another node so often


def connect(address: str) -> Any:
    """Joins a cluster.

    Args:
        address: Its head's ``HOST:PORT``; ``auto``: the one that this machine is part of; ``local``: a new
            one of this machine alone.

    Raises:
        UserError: Ray is not installed, or there is no such cluster.
    """
    try:
        import ray
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


def work(folder: Folder, job: Job, how: How, here: str) -> str:
    """A task: runs a job on the node that it is on, from the same place, waiting while another has it."""
    os.chdir(here)
    stop = threading.Event()
    try:
        while (state := run_job(folder, job, how, stop)) == RUNNING:
            time.sleep(LOOK_AGAIN_S)
    finally:  # Ray cancels a task by an exception in it
        stop.set()
    return state


def run(
    folder: Folder, jobs: Sequence[Job], how: How, address: str, cpus: int, gpus: float
) -> dict[str, str]:
    """Runs jobs on a cluster until none is left or a signal says stop.

    Args:
        folder: The sweep, whose path is the same on each node.
        jobs: Those of it to run.
        how: How.
        address: As ``connect`` takes it.
        cpus: Cores that each needs.
        gpus: GPUs that each needs.

    Returns:
        The state of each job by its name.

    Raises:
        UserError: As ``connect``.
    """
    ray = connect(address)
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=NODES_LOST)(work)
    states = {job.name: WAITING for job in jobs}
    running: dict[Any, Job] = {}
    try:
        with stopping() as stop, View(folder, jobs, max(1, _slots(ray, cpus, gpus))) as view:
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
    """How a task ended; one that Ray itself gave up is a failed one."""
    try:
        state: str = ray.get(reference)
    except Exception as error:  # whatever the cluster died of
        folder.note(
            job, state=FAILED, message=f'Ray: {type(error).__name__}: {str(error).strip().splitlines()[0]}'
        )
        return FAILED
    return state


def _shown(folder: Folder, jobs: Sequence[Job], states: dict[str, str]) -> dict[str, str]:
    """A task that no node has room for yet is waiting, whatever Ray was told."""
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
