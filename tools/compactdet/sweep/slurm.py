"""A sweep as Slurm job arrays: one for jobs that need no other, one for the runs of each pretraining.

A task of an array is ``tools/sweep.py --out OUT --only RUN``, so locks, retries, resuming and logs are as
elsewhere. A run that reaches the time limit or is preempted gets SIGTERM a minute before, stops, and is
queued again, where it resumes from its last training state. Tested with a replacement for ``sbatch`` and
``srun`` that runs the tasks one after another, not on a cluster.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compactdet.errors import UserError
from compactdet.files import write_whole
from compactdet.sweep.folder import Folder
from compactdet.sweep.grid import Job

ARRAY_SIZE = 1000  # MaxArraySize is 1001 by default
REQUEUES = 50

TEMPLATE = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --output="{log}"
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=TERM@60
runs=(
{runs}
)
run=${{runs[$SLURM_ARRAY_TASK_ID]}}
cd {folder} || exit 1
srun --ntasks=1 {command} --only "$run"
status=$?
# Stopped by the time limit or a preemption: back in the queue, to resume from the last checkpoint.
if [ $status -ne 0 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt {requeues} ] \\
        && grep -q '"state": "stopped"' {states}/"$run".json; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}" && exit 0
fi
exit $status
"""


@dataclass(frozen=True)
class Array:
    """A job array.

    Attributes:
        name: Name of its script.
        jobs: One per task, in the order of their indices.
        after: Array, and index in it, of the job that it waits for.
    """

    name: str
    jobs: tuple[Job, ...]
    after: tuple[str, int] | None = None


def arrays(jobs: Sequence[Job]) -> list[Array]:
    """Return the arrays of a sweep, each after the one that it waits for."""
    made = [*_cut('first', [job for job in jobs if job.needs is None], None)]
    place = {job.name: (array.name, index) for array in made for index, job in enumerate(array.jobs)}
    waiting: dict[str, list[Job]] = {}
    for job in jobs:
        if job.needs is not None:
            waiting.setdefault(job.needs, []).append(job)
    for number, (need, group) in enumerate(waiting.items()):
        made += _cut(f'after_{number}', group, place.get(need))
    return made


def _cut(name: str, jobs: Sequence[Job], after: tuple[str, int] | None) -> Iterator[Array]:
    for part, start in enumerate(range(0, len(jobs), ARRAY_SIZE)):
        yield Array(f'{name}_{part}' if part else name, tuple(jobs[start : start + ARRAY_SIZE]), after)


def script(folder: Folder, array: Array, args: argparse.Namespace) -> str:
    """Return the batch script of an array."""
    out = folder.out.resolve()
    command = [*folder.suite.sweep_command(), '--out', str(folder.out)]
    command += ['--retries', str(args.retries)]
    return TEMPLATE.format(
        name=shlex.quote(out.name),
        last=len(array.jobs) - 1,
        log=out / 'logs' / f'slurm_{array.name}_%A_%a.log',
        runs='\n'.join(f'  {shlex.quote(job.name)}' for job in array.jobs),
        folder=shlex.quote(str(Path.cwd())),
        command=shlex.join(command),
        states=shlex.quote(str(out / '.sweep')),
        requeues=REQUEUES,
    )


def command(array: Array, path: Path, args: argparse.Namespace, ids: dict[str, str]) -> list[str]:
    """Return the sbatch command of an array.

    Args:
        array: The array.
        path: Its script.
        args: The command line.
        ids: Slurm's ids of the arrays that were submitted before.
    """
    made = ['sbatch', '--parsable', *shlex.split(args.slurm_options)]
    if array.after is not None:
        name, index = array.after
        made += [f'--dependency=afterok:{ids[name]}_{index}', '--kill-on-invalid-dep=yes']
    return [*made, str(path)]


def text(folder: Folder, jobs: Sequence[Job], args: argparse.Namespace) -> str:
    """Return all scripts with the commands that would submit them."""
    parts = []
    for array in arrays(jobs):
        path = folder.out / 'slurm' / f'{array.name}.sh'
        shown = shlex.join(command(array, path, args, {name: f'ID_OF_{name}' for name in _names(jobs)}))
        parts.append(f'# {path}\n# {shown}\n{script(folder, array, args)}')
    return '\n'.join(parts)


def _names(jobs: Sequence[Job]) -> list[str]:
    return [array.name for array in arrays(jobs)]


def submit(folder: Folder, jobs: Sequence[Job], args: argparse.Namespace) -> int:
    """Write the scripts of unfinished jobs and submit them.

    Raises:
        UserError: There is no sbatch, or it failed.
    """
    if shutil.which('sbatch') is None:
        raise UserError(
            'no sbatch on this machine; --slurm-print shows the scripts, leave --slurm out to run here'
        )
    left = [job for job in jobs if not folder.finished(job)]
    if not left:
        print(f'all {len(jobs)} runs are finished')
        return 0
    ids: dict[str, str] = {}
    (folder.out / 'slurm').mkdir(exist_ok=True)
    for array in arrays(left):
        path = folder.out / 'slurm' / f'{array.name}.sh'
        write_whole(path, script(folder, array, args))
        try:
            done = subprocess.run(
                command(array, path, args, ids), capture_output=True, text=True, check=False
            )
        except OSError as error:
            raise UserError(f'sbatch cannot be run ({error.strerror})') from error
        if done.returncode:
            before = f'; submitted before: {", ".join(ids.values())}' if ids else ''
            raise UserError(f'sbatch refused {path}: {done.stderr.strip()}{before}')
        ids[array.name] = done.stdout.strip().partition(';')[0]
        print(f'{ids[array.name]}: {len(array.jobs)} runs, {path}')
    print(f'python tools/sweep.py --out {shlex.quote(str(folder.out))} --status shows how far they are')
    return 0
