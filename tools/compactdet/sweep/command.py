"""The command tools/sweep.py: run a grid here, or submit it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from compactdet.console import PlainConsole, print_next
from compactdet.sweep import local, ray, slurm, view
from compactdet.sweep.folder import FINISHED, STOPPED, Folder
from compactdet.sweep.grid import Job, chosen, read
from compactdet.sweep.job_runner import RunOptions
from compactdet.sweep.jobs import Suite


def main(args: argparse.Namespace, suite_of: Callable[[Path], Suite] = Suite) -> int:
    """Run the command.

    Args:
        args: Options from ``compactdet.sweep.options``.
        suite_of: Function from a sweep folder to the commands and identities of its jobs.

    Returns:
        The exit status: 1 if a job failed, 128 + N if signal N stopped the sweep.

    Raises:
        UserError: The grid cannot be used.
    """
    content = read(args.grid) if args.grid is not None else args.content or None
    out = args.out or Path('work_dirs/sweep')
    folder = Folder.open(out, content, suite_of(out))
    jobs = selected(folder, args.only)
    if args.plan:
        from compactdet.sweep import plan_view  # here: loads PyTorch

        return plan_view.main(args, folder, jobs)
    if args.status:
        return show_status(folder, jobs, args.jobs)
    folder.suite.check(jobs)
    if args.slurm_print:
        print(slurm.text(folder, jobs, args))
        return 0
    if content is not None:
        folder.make(content)
    else:
        folder.make_folders()
    if args.slurm:
        return slurm.submit(folder, jobs, args)
    return run(folder, jobs, args)


def run(folder: Folder, jobs: Sequence[Job], args: argparse.Namespace) -> int:
    """Run jobs here or on Ray and print the report; return the exit status."""
    how = RunOptions(retries=args.retries, threads=args.threads)
    with local.stopping() as stop:
        if args.ray:
            states = ray.run(folder, jobs, how, stop, args.ray, args.cpus_per_run, args.gpus_per_run)
        else:
            states = local.run(folder, jobs, how, stop, workers=args.jobs, gpus=args.gpus)
    print(view.report(folder, jobs, states))
    if STOPPED in states.values():
        # Printed here: a UserError would load PyTorch, which takes too long after a signal to stop.
        print('error: stopped by a signal; the same command resumes it', file=sys.stderr)
        return 128 + stop.number
    if not set(states.values()) <= {FINISHED}:
        return 1
    out = folder.out
    print_next(('table', out), ('leaderboard', out, '--out', out / 'leaderboard'))
    return 0


def selected(folder: Folder, names: Sequence[str] | None) -> list[Job]:
    """Return all jobs, or those of some names with the jobs that they need.

    Raises:
        UserError: There is no such job.
    """
    if not names:
        return folder.jobs
    wanted = {job.name for job in chosen(folder.jobs, names)}
    wanted |= {job.needs for job in folder.jobs if job.name in wanted and job.needs}
    return [job for job in folder.jobs if job.name in wanted]


def show_status(folder: Folder, jobs: Sequence[Job], workers: int) -> int:
    """Print the status of a sweep from its files."""
    rows = view.status(folder, jobs, {})
    console = PlainConsole()
    console.print(view.table(rows))
    console.print(view.counted(rows), highlight=False)
    return 0
