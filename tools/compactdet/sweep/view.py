"""Console output of a sweep: a live table on a terminal, otherwise plain lines; the report of failures."""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

from rich import box
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from compactdet.console import PlainConsole, duration
from compactdet.sweep.folder import (
    BLOCKED,
    FAILED,
    FINISHED,
    RUNNING,
    STOPPED,
    WAITING,
    Folder,
    JobStatus,
    StoredState,
)
from compactdet.sweep.grid import Job, Run
from compactdet.sweep.job_runner import summary

PLAIN_EVERY_S = 60.0
STATUS_EVERY_S = 5.0
PROGRESS = re.compile(r'step (\d+)/(\d+)(?:.* · (.+) left)?')
STYLES = {
    FINISHED: 'green',
    RUNNING: 'cyan',
    FAILED: 'red',
    BLOCKED: 'red',
    STOPPED: 'yellow',
    WAITING: 'dim',
}


class View:
    """Display of a running sweep, which also writes ``status.json``."""

    def __init__(
        self, folder: Folder, jobs: Sequence[Job], workers: int, console: PlainConsole | None = None
    ) -> None:
        self._folder, self._jobs, self._workers = folder, list(jobs), workers
        self._console = console or PlainConsole()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        rows = status(folder, jobs, {})
        self._said = {name: row.state for name, row in rows.items()}
        self._said_at = self._written_at = time.monotonic()

    def __enter__(self) -> View:
        if self._live:
            self._live.start()
        else:
            finished = sum(state == FINISHED for state in self._said.values())
            self._print(f'{len(self._jobs)} runs, {finished} of them finished before; {self._folder.out}')
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def update(self, states: Mapping[str, str]) -> None:
        """Show the state of the jobs.

        Args:
            states: States by name.
        """
        rows = status(self._folder, self._jobs, states)
        changed = {name: row.state for name, row in rows.items()} != self._said
        if changed or time.monotonic() - self._written_at >= STATUS_EVERY_S:
            self._written_at = time.monotonic()
            self._folder.write_status(status(self._folder, self._folder.jobs, states))
        if self._live:
            self._live.update(Group(table(rows), self._line(rows)), refresh=True)
        else:
            self._say(rows)
        self._said = {name: row.state for name, row in rows.items()}

    def _say(self, rows: Mapping[str, JobStatus]) -> None:
        for name, row in rows.items():
            if row.state != self._said[name]:
                words = row.state + (f': {row.message}' if row.message else '')
                self._print(f'{name}: {words}')
        if time.monotonic() - self._said_at >= PLAIN_EVERY_S:
            self._said_at = time.monotonic()
            for name, row in rows.items():
                if row.state == RUNNING and row.progress:
                    self._print(f'{name}: {row.progress}')
            self._print(self._line(rows))

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False)
        self._console.file.flush()

    def _line(self, rows: Mapping[str, JobStatus]) -> str:
        left = time_left(self._jobs, rows, self._workers)
        return counted(rows) + ('' if left is None else f' · about {duration(left)} left')


def status(folder: Folder, jobs: Sequence[Job], states: Mapping[str, str]) -> dict[str, JobStatus]:
    """Return the status of each job by its name.

    Args:
        folder: Folder of the sweep.
        jobs: Jobs to show.
        states: States that are more recent than the state files.
    """
    rows = {}
    for job in jobs:
        noted = folder.state(job)
        state = states.get(job.name) or _noted(folder, job, noted)
        if state == WAITING and _noted(folder, job, noted) == RUNNING:
            state = RUNNING  # another sweep runs it
        line, left_s = progress(folder.log(job)) if state == RUNNING else (None, None)
        rows[job.name] = JobStatus(
            state=state,
            attempts=noted.get('attempts'),
            wall_s=noted.get('wall_s'),
            began_utc=noted.get('began_utc'),
            started_utc=noted.get('started_utc'),
            ended_utc=noted.get('ended_utc'),
            host=noted.get('host'),
            exit_status=noted.get('exit_status'),
            message=None if state in (RUNNING, WAITING, FINISHED) else noted.get('message'),
            progress=line,
            left_s=left_s,
        )
    return rows


def _noted(folder: Folder, job: Job, noted: StoredState) -> str:
    """Return a job's state from its files only."""
    state = noted.get('state', WAITING)
    if state == RUNNING:
        return RUNNING if folder.lock(job).held() else STOPPED
    has_record = (folder.out / job.name / 'record.json').is_file()
    if state == FAILED and (not has_record or noted.get('message')):
        return FAILED
    return FINISHED if has_record else (WAITING if state == FINISHED else state)


def progress(log: Path) -> tuple[str | None, float | None]:
    """Return the last line of progress in a log, and the seconds left that it states."""
    try:
        with log.open('rb') as file:
            file.seek(max(0, log.stat().st_size - 8192))
            lines = file.read().decode(errors='replace').splitlines()
    except OSError:
        return None, None
    for line in reversed(lines):
        if line.startswith('--- '):  # no output of this attempt yet
            break
        if found := PROGRESS.search(line):
            return line.strip(), seconds(found[3]) if found[3] else None
    return None, None


def seconds(text: str) -> float | None:
    """Convert ``1:20 min`` or ``2 h 05 min`` to seconds."""
    if found := re.fullmatch(r'(\d+):(\d\d) min', text):
        return 60.0 * int(found[1]) + int(found[2])
    if found := re.fullmatch(r'(\d+) h (\d\d) min', text):
        return 3600.0 * int(found[1]) + 60 * int(found[2])
    return None


def time_left(jobs: Sequence[Job], rows: Mapping[str, JobStatus], workers: int) -> float | None:
    """Return the seconds until all jobs are finished, by the times of the most similar finished ones.

    None if no finished job is similar to one of the jobs.
    """
    times: dict[tuple, list[float]] = {}
    for job in jobs:
        row = rows[job.name]
        if row.state == FINISHED and row.wall_s:
            for likeness in _likenesses(job):
                times.setdefault(likeness, []).append(row.wall_s)
    total, longest = 0.0, 0.0
    for job in jobs:
        row = rows[job.name]
        if row.state not in (WAITING, RUNNING):
            continue
        whole = next((statistics.fmean(times[key]) for key in _likenesses(job) if key in times), None)
        left = whole
        if row.state == RUNNING:
            left = row.left_s
            if whole is not None and (elapsed := _elapsed(row)) is not None:
                left = max(whole - elapsed, left or 0.0)
        if left is None:
            return None
        total, longest = total + left, max(longest, left)
    return max(total / workers, longest)


def _likenesses(job: Job) -> list[tuple]:
    """Return keys of jobs that take about as long, most similar first."""
    if isinstance(job, Run):
        kind = (job.detector, job.dataset, job.schedule)
        return [(job.arch, *kind), kind]
    pretraining = ('pretraining', job.dataset, job.recipe, job.epochs)
    return [(job.arch, *pretraining), pretraining]


def _elapsed(row: JobStatus) -> float | None:
    with contextlib.suppress(TypeError, ValueError):
        started = datetime.strptime(row.started_utc or '', '%Y-%m-%dT%H:%M:%S%z')
        return (datetime.now(timezone.utc) - started).total_seconds()
    return None


def table(rows: Mapping[str, JobStatus]) -> Table:
    """Return a table of running, failed and recently finished jobs; the others are counted."""
    view = Table(box=box.SIMPLE_HEAD)
    view.add_column('run', overflow='fold')
    view.add_column('state', no_wrap=True)
    view.add_column('progress', overflow='fold')
    ended = [name for name, row in rows.items() if row.state == FINISHED]
    ended.sort(key=lambda name: str(rows[name].ended_utc))
    shown = {name for name, row in rows.items() if row.state in (RUNNING, FAILED, STOPPED)} | {*ended[-3:]}
    for name, row in rows.items():
        if name in shown:
            words = row.progress or row.message or ''
            if row.state == FINISHED and row.wall_s:
                words = duration(row.wall_s)
            state = row.state
            if (row.attempts or 1) > 1:
                state += f' (attempt {row.attempts})'
            view.add_row(name, Text(state, STYLES[row.state]), words)
    return view


def counted(rows: Mapping[str, JobStatus]) -> str:
    """Return ``3 of 12 finished · 2 running · 7 waiting``."""
    counts = {state: sum(row.state == state for row in rows.values()) for state in STYLES}
    others = [f'{count} {state}' for state, count in counts.items() if count and state != FINISHED]
    return ' · '.join([f'{counts[FINISHED]} of {len(rows)} finished', *others])


def report(folder: Folder, jobs: Sequence[Job], states: Mapping[str, str]) -> str:
    """Return the result of the jobs; for failed ones the reason, the end of the log and the command to
    repeat.
    """
    rows = status(folder, jobs, states)
    folder.write_status(status(folder, folder.jobs, states))
    parts = []
    for job in jobs:
        row = rows[job.name]
        if row.state == FAILED:
            command = folder.suite.command(job, resume=(folder.out / job.name).is_dir())
            parts += ['', f'{job.name}: failed', *summary(row, command, folder.log(job))]
        elif row.state == BLOCKED:
            parts += ['', f'{job.name}: not run, since {job.needs} failed']
    return '\n'.join([*parts, '', f'{counted(rows)}; {folder.out}'])
