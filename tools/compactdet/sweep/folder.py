"""A sweep's folder: where its runs, logs and locks lie, what state they are in, and the files that say so.

``OUT/grid.yaml``: the grid as it was run; ``OUT/status.json``: every job's state, written whole;
``OUT/NAME/``: a run's own folder; ``OUT/logs/NAME.log``: all that its attempts printed;
``OUT/.sweep/``: a lock and a small state file for each job, written by whoever holds the lock.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from compactdet.errors import UserError
from compactdet.files import write_whole
from compactdet.records import record_file
from compactdet.sweep.grid import Job, describe, dump, jobs, read
from compactdet.sweep.jobs import NOT_THERE, Suite, difference, essence
from compactdet.sweep.lock import Lock

WAITING, RUNNING, FINISHED, FAILED, STOPPED = 'waiting', 'running', 'finished', 'failed', 'stopped'
BLOCKED = 'blocked'  # its pretraining failed


class Folder:
    """A sweep's folder.

    Attributes:
        out: Where it is.
        suite: What its jobs are.
        jobs: Those of the grid, in their order.
    """

    def __init__(self, out: Path, jobs: Sequence[Job], suite: Suite) -> None:
        self.out = out
        self.jobs = list(jobs)
        self.suite = suite
        self._known_finished: set[str] = set()
        self._identities: dict[str, dict[str, Any]] = {}

    @classmethod
    def open(cls, out: Path, content: dict[str, Any] | None, suite: Suite) -> Folder:
        """The folder of a grid, or of the grid that lies in it; makes nothing.

        Raises:
            UserError: There is no grid, or it is not one.
        """
        if content is None:
            if not (out / 'grid.yaml').is_file():
                raise UserError(
                    f'{out}: no sweep there yet; name its grid: a file, or --archs, --detectors ...'
                )
            content = read(out / 'grid.yaml')
        return cls(out, jobs(content, 'grid', _archs), suite)

    def make(self, content: dict[str, Any]) -> None:
        """Makes the folder and keeps the grid; an older grid of it keeps its text under another name.

        Raises:
            UserError: It cannot be made.
        """
        self.make_folders()
        path = self.out / 'grid.yaml'
        text = dump(content)
        if path.is_file() and (older := path.read_text(encoding='utf-8')) != text:
            number = 1 + len(list(self.out.glob('grid_*.yaml')))
            write_whole(self.out / f'grid_{number}.yaml', older)
        write_whole(path, text)

    def make_folders(self) -> None:
        """Makes the folders for logs and locks.

        Raises:
            UserError: They cannot be made.
        """
        try:
            for path in (self.out / '.sweep', self.out / 'logs'):
                path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f'{self.out}: cannot make the folder ({error.strerror}); name another --out'
            ) from error

    def log(self, job: Job) -> Path:
        """Where all that a job printed is kept."""
        return self.out / 'logs' / f'{job.name}.log'

    def lock(self, job: Job) -> Lock:
        """What keeps two sweeps from running a job at once."""
        return Lock(self.out / '.sweep' / f'{job.name}.lock')

    def finished(self, job: Job) -> bool:
        """Whether a job's record is there.

        Raises:
            UserError: It is not valid, or is that of another run, which is never overwritten.
        """
        if job.name in self._known_finished:
            return True
        record = self.suite.read(job)
        if record is None:
            return False
        differs = difference(self.identity(job), self.suite.stated(job, record))
        if differs is not None:
            raise UserError(
                f'{self.out / job.name} holds the record of another run: {differs}; '
                'it is never overwritten: move it away, or give the block a name or the sweep another --out'
            )
        self._known_finished.add(job.name)
        return True

    def check_unfinished(self, job: Job) -> None:
        """Sees that what lies unfinished in a job's folder was begun for this job, and marks it as begun.

        Raises:
            UserError: It was begun for another; going on would mix two runs.
        """
        key = record_file.content_key(essence(self.identity(job)))
        begun = self.state(job).get('identity', key)
        if begun != key and any((self.out / job.name).glob('*')):
            raise UserError(
                f'{self.out / job.name} holds an unfinished run of another grid, config or weights file '
                f'({begun}, now {key}); move it away, or give the block a name'
            )
        self.note(job, identity=key)

    def identity(self, job: Job) -> dict[str, Any]:
        """What a job's record must say; known for good once the weights that it starts from are there."""
        if job.name not in self._identities:
            identity = self.suite.identity(job)
            if identity.get('init') == NOT_THERE:
                return identity
            self._identities[job.name] = identity
        return self._identities[job.name]

    def state(self, job: Job) -> dict[str, Any]:
        """What was last noted of a job."""
        try:
            state = json.loads((self.out / '.sweep' / f'{job.name}.json').read_text(encoding='utf-8'))
        except (OSError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def note(self, job: Job, **changed: Any) -> None:
        """Notes something of a job; who notes, holds its lock."""
        state = {**self.state(job), **changed, 'host': socket.gethostname(), 'updated_utc': now()}
        write_whole(self.out / '.sweep' / f'{job.name}.json', json.dumps(state, indent=1) + '\n')

    def write_status(self, states: dict[str, dict[str, Any]]) -> None:
        """Writes ``status.json``: every job and its state."""
        rows = [
            {'name': job.name, 'needs': job.needs, **describe(job), **states.get(job.name, {})}
            for job in self.jobs
        ]
        counts: dict[str, int] = {}
        for row in rows:
            counts[row['state']] = counts.get(row['state'], 0) + 1
        content = {'updated_utc': now(), 'counts': counts, 'jobs': rows}
        with contextlib.suppress(UserError):  # a full disk stops runs, not the view of them
            write_whole(self.out / 'status.json', json.dumps(content, indent=1, ensure_ascii=False) + '\n')


def now() -> str:
    """The time in UTC."""
    return datetime.now(timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ')


def _archs(pattern: str) -> list[str]:
    from backbones import list_archs  # late: it loads PyTorch

    return list_archs(pattern)
