"""Findings of the doctor, and the places that it checks."""

from dataclasses import dataclass
from pathlib import Path

REINSTALL = 'python -m pip install -e .'


@dataclass(frozen=True)
class Finding:
    """A line of the report.

    Attributes:
        check: What was checked.
        state: 'ok', 'absent' (something optional is missing) or 'problem'.
        text: The finding.
        cure: What to do.
        main_job: Whether the problem prevents the main job.
    """

    check: str
    state: str
    text: str
    cure: str = ''
    main_job: bool = False

    def line(self) -> str:
        """Return the finding on one line."""
        mark = {'ok': 'ok', 'absent': 'absent', 'problem': 'PROBLEM'}[self.state]
        return f'{mark:8}{self.check}: {self.text}' + (f'; {self.cure}' if self.cure else '')


@dataclass(frozen=True)
class Places:
    """Places to check: the folder of data sets, the folder of runs, and checkpoints."""

    data: Path = Path('data')
    work_dirs: Path = Path('work_dirs')
    weights: Path = Path('weights')
    checkpoints: tuple[Path, ...] = ()
    full: bool = False
