"""The folder of a sweep: its runs, logs, locks and state files.

``OUT/grid.yaml``: the grid; ``OUT/status.json``: the state of every job, written atomically; ``OUT/NAME/``:
the folder of a run; ``OUT/logs/NAME.log``: the output of all its attempts; ``OUT/.sweep/``: a lock and a
state file for each job, written only by the holder of the lock.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypedDict, cast

from compactdet.errors import UserError
from compactdet.files import write_whole
from compactdet.records import record_file
from compactdet.records.run_identity import NOT_THERE, RunIdentity
from compactdet.sweep.grid import Job, describe, dump, jobs, read
from compactdet.sweep.jobs import Suite
from compactdet.sweep.lock import Lock

WAITING, RUNNING, FINISHED, FAILED, STOPPED = 'waiting', 'running', 'finished', 'failed', 'stopped'
BLOCKED = 'blocked'  # the pretraining of the job failed


class StoredState(TypedDict, total=False):
    """The state file of a job; times are in UTC, such as ``2026-01-31T12:00:00Z``.

    Attributes:
        state: One of the states above.
        identity: Content key of the settings for which the run folder was begun.
        threads: ``OMP_NUM_THREADS`` of all attempts.
        attempt: Number of the attempt since the last start of the sweep, from 1.
        attempts: Number of all attempts.
        pid: Process id of the last attempt.
        wall_s: Seconds of all attempts that have ended.
        began_utc: Start of the first attempt.
        started_utc: Last start of the job.
        ended_utc: Last end of the job.
        updated_utc: Time of the last change of the file.
        host: Name of the machine.
        exit_status: Exit status of the last attempt, -N for signal N.
        message: Reason of a failure or stop.
    """

    state: str
    identity: str
    threads: int
    attempt: int
    attempts: int
    pid: int
    wall_s: float | None
    began_utc: str | None
    started_utc: str | None
    ended_utc: str | None
    updated_utc: str
    host: str
    exit_status: int | None
    message: str | None


@dataclass(frozen=True)
class JobStatus:
    """State, stored facts and progress of a job; the fields that are not described here are those of
    `StoredState`, None if unknown.

    Attributes:
        state: State by all that is known now, which may be more recent than the state file.
        progress: Last line of progress in the log of a running job.
        left_s: Seconds left according to this line.
    """

    state: str
    attempts: int | None = None
    wall_s: float | None = None
    began_utc: str | None = None
    started_utc: str | None = None
    ended_utc: str | None = None
    host: str | None = None
    exit_status: int | None = None
    message: str | None = None
    progress: str | None = None
    left_s: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the status as ``status.json`` contains it: progress of running jobs only."""
        content = asdict(self)
        if self.state != RUNNING:
            del content['progress'], content['left_s']
        return content


class Folder:
    """The folder of a sweep.

    Attributes:
        out: Its path.
        suite: Commands and identities of its jobs.
        jobs: Jobs of the grid, in order.
    """

    def __init__(self, out: Path, jobs: Sequence[Job], suite: Suite) -> None:
        self.out = out
        self.jobs = list(jobs)
        self.suite = suite
        self._known_finished: set[str] = set()
        self._identities: dict[str, RunIdentity] = {}

    @classmethod
    def open(cls, out: Path, content: dict[str, Any] | None, suite: Suite) -> Folder:
        """Open the folder of a grid, or the folder that contains one, without creating anything.

        Raises:
            UserError: There is no grid, or it is not valid.
        """
        if content is None:
            if not (out / 'grid.yaml').is_file():
                raise UserError(
                    f'{out}: no sweep there yet; name its grid: a file, or --archs, --detectors ...'
                )
            content = read(out / 'grid.yaml')
        return cls(out, jobs(content, 'grid', _archs), suite)

    def make(self, content: dict[str, Any]) -> None:
        """Create the folder and store the grid; an older grid is kept under another name.

        Raises:
            UserError: It cannot be created.
        """
        self.make_folders()
        path = self.out / 'grid.yaml'
        text = dump(content)
        if path.is_file() and (older := path.read_text(encoding='utf-8')) != text:
            number = 1 + len(list(self.out.glob('grid_*.yaml')))
            write_whole(self.out / f'grid_{number}.yaml', older)
        write_whole(path, text)

    def make_folders(self) -> None:
        """Create the folders for logs and locks.

        Raises:
            UserError: They cannot be created.
        """
        try:
            for path in (self.out / '.sweep', self.out / 'logs'):
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f'{self.out}: cannot make the folder ({error.strerror}); name another --out'
            ) from error

    def log(self, job: Job) -> Path:
        """Return the log file of a job."""
        return self.out / 'logs' / f'{job.name}.log'

    def lock(self, job: Job) -> Lock:
        """Return the lock of a job, which prevents two sweeps from running it at once."""
        return Lock(self.out / '.sweep' / f'{job.name}.lock')

    def finished(self, job: Job) -> bool:
        """Return True if a job has its record.

        Raises:
            UserError: The record is not valid, or is of another run; it is never overwritten.
        """
        if job.name in self._known_finished:
            return True
        record = self.suite.read(job)
        if record is None:
            return False
        differs = self.suite.other_run(job, self.identity(job), record)
        if differs is not None:
            raise UserError(
                f'{self.out / job.name} holds the record of another run: {differs}; '
                'it is never overwritten: move it away, or give the block a name or the sweep another --out'
            )
        self._known_finished.add(job.name)
        return True

    def check_unfinished(self, job: Job) -> None:
        """Check that an unfinished run in the folder of a job was begun for this job, and mark it as begun.

        Raises:
            UserError: It was begun for another job; resuming would mix two runs.
        """
        key = record_file.content_key(self.identity(job).settings())
        begun = self.state(job).get('identity', key)
        if begun != key and any((self.out / job.name).glob('*')):
            raise UserError(
                f'{self.out / job.name} holds an unfinished run of another grid, config or weights file '
                f'({begun}, now {key}); move it away, or give the block a name'
            )
        self.note(job, identity=key)

    def identity(self, job: Job) -> RunIdentity:
        """Return the identity of a job, stored once its initial weights exist."""
        if job.name not in self._identities:
            identity = self.suite.identity(job)
            if identity.init == NOT_THERE:
                return identity
            self._identities[job.name] = identity
        return self._identities[job.name]

    def state(self, job: Job) -> StoredState:
        """Return the stored state of a job; empty if there is none."""
        try:
            state = json.loads((self.out / '.sweep' / f'{job.name}.json').read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return {}
        return cast(StoredState, state) if isinstance(state, dict) else {}

    def note(self, job: Job, **changed: Any) -> None:
        """Change fields of the `StoredState` of a job; only the holder of its lock does so."""
        state = {**self.state(job), **changed, 'host': socket.gethostname(), 'updated_utc': now()}
        write_whole(self.out / '.sweep' / f'{job.name}.json', json.dumps(state, indent=1) + '\n')

    def write_status(self, statuses: Mapping[str, JobStatus]) -> None:
        """Write ``status.json`` with the status of every job, given by name."""
        rows = [
            {'name': job.name, 'needs': job.needs, **describe(job), **statuses[job.name].as_json()}
            for job in self.jobs
        ]
        counts: dict[str, int] = {}
        for row in rows:
            counts[row['state']] = counts.get(row['state'], 0) + 1
        content = {'updated_utc': now(), 'counts': counts, 'jobs': rows}
        with contextlib.suppress(UserError):  # a full disk stops runs, not their display
            write_whole(self.out / 'status.json', json.dumps(content, indent=1, ensure_ascii=False) + '\n')


def now() -> str:
    """Return the time in UTC."""
    return datetime.now(timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ')


def _archs(pattern: str) -> list[str]:
    from backbones import list_archs  # here: loads PyTorch

    return list_archs(pattern)
