"""A plan on the console and as JSON: its rows, the source of each value, and the sums."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from compactdet.console import PlainConsole, duration
from compactdet.sweep import speed
from compactdet.sweep import speed as sweep_speed
from compactdet.sweep.folder import Folder
from compactdet.sweep.grid import Job, Pretraining, Run
from compactdet.sweep.plan import Row, plan


def totals(rows: Sequence[Row], jobs: int) -> dict[str, Any]:
    """Return sums over runs, all and left, in hours; unknown ones are counted."""
    known = [(row, row.seconds) for row in rows if row.seconds is not None]
    hours = sum(seconds * len(row.jobs) for row, seconds in known) / 3600
    left = [(row, seconds * (len(row.jobs) - row.finished)) for row, seconds in known]
    resources: dict[str, float] = {}
    for row, seconds in left:
        assert row.estimate is not None
        unit = 'GPU hours' if row.estimate.on_gpu else 'CPU core hours'
        cores = 1 if row.estimate.on_gpu else row.estimate.threads
        resources[unit] = resources.get(unit, 0) + seconds * cores / 3600
    return {
        'runs': sum(len(row.jobs) for row in rows),
        'finished': sum(row.finished for row in rows),
        'runs_without_estimate': sum(len(row.jobs) for row in rows if row.seconds is None),
        'hours': hours,
        'hours_left': sum(seconds for _, seconds in left) / 3600,
        'left': resources,
        'wall_hours_left': max(
            [
                sum(seconds for _, seconds in left) / jobs,
                *(row.seconds or 0 for row, seconds in left if seconds),
            ]
        )
        / 3600,
    }


def show(rows: Sequence[Row], jobs: int) -> None:
    """Print the plan."""
    view = Table(box=box.SIMPLE_HEAD)
    for name in ('network', 'detector', 'data', 'starts from'):
        view.add_column(name, overflow='fold')
    for name in ('runs', 'done', 'a run', 'all', 'note'):
        view.add_column(name, justify='right', no_wrap=True)
    notes: dict[str, int] = {}
    for row in rows:
        job, seconds = row.jobs[0], row.seconds
        times = ('?', '?') if seconds is None else (duration(seconds), duration(seconds * len(row.jobs)))
        note = str(row.why) if row.estimate is None else f'{row.estimate.words}: {row.estimate.hardware}'
        view.add_row(
            job.arch,
            job.detector if isinstance(job, Run) else 'pretraining',
            job.dataset + ('' if row.work.counted else '*'),
            _start(job),
            *(str(len(row.jobs)), str(row.finished), *times),
            str(notes.setdefault(note, len(notes) + 1)),
        )
    console = PlainConsole()
    console.width = max(console.width, 110)
    console.print(view)
    for note, number in notes.items():
        console.print(f'{number}  {note}', highlight=False, soft_wrap=True)
    if not all(row.work.counted for row in rows):
        console.print('*  by the published number of images', highlight=False)
    for line in _sums(totals(rows, jobs), jobs):
        console.print(line, highlight=False, soft_wrap=True)


def _start(job: Job) -> str:
    if isinstance(job, Pretraining):
        return 'random weights'
    frozen = '' if job.frozen_stages is None else f', {job.frozen_stages} stages frozen'
    if job.pretraining is not None:
        return job.pretraining.dataset + frozen
    return {None: "the config's weights", 'none': 'random weights'}.get(job.init, str(job.init)) + frozen


def _sums(total: Mapping[str, Any], jobs: int) -> list[str]:
    hours = ', '.join(f'{number:.1f} {unit}' for unit, number in total['left'].items()) or 'nothing known'
    lines = [f'{total["runs"]} runs, {total["finished"]} finished; left: {hours}']
    if total['left']:
        lines[0] += f'; about {duration(3600 * total["wall_hours_left"])} with {jobs} at once'
    if total['runs_without_estimate']:
        lines.append(
            f'{total["runs_without_estimate"]} runs are not in these sums: their speed is not known'
        )
    return lines


def as_json(rows: Sequence[Row], jobs: int) -> dict[str, Any]:
    """Return the plan as JSON."""
    return {
        **totals(rows, jobs),
        'rows': [
            {
                'arch': row.jobs[0].arch,
                'detector': row.jobs[0].detector if isinstance(row.jobs[0], Run) else None,
                'dataset': row.jobs[0].dataset,
                'runs': [job.name for job in row.jobs],
                'finished': row.finished,
                'train_images': row.work.train,
                'evaluated_images': row.work.evaluated,
                'images_counted': row.work.counted,
                'seconds_a_run': row.seconds,
                'estimate': speed.as_json(row.estimate),
                'why_not': row.why,
            }
            for row in rows
        ],
    }


def main(args: argparse.Namespace, folder: Folder, jobs: Sequence[Job]) -> int:
    """Print the plan of some jobs of a sweep.

    Raises:
        UserError: A job is not possible, or its data cannot be counted.
    """
    repo = Path(__file__).parents[3]
    places = args.measured or ['work_dirs', repo / 'work_dirs_template', folder.out]
    speeds = sweep_speed.read(places)
    rows = plan(folder, jobs, speeds, args.hardware, args.threads, args.measure)
    if args.format == 'json':
        print(json.dumps(as_json(rows, args.jobs), indent=1))
    else:
        show(rows, args.jobs)
        if speeds.unreadable:
            print(f'{len(speeds.unreadable)} records were left out; the first: {speeds.unreadable[0]}')
    return 0
