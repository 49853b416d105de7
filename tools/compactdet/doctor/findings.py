"""What the doctor looks at, and what it finds."""

from dataclasses import dataclass
from pathlib import Path

REINSTALL = 'python -m pip install -e .'


@dataclass(frozen=True)
class Finding:
    """A line of the report.

    Attributes:
        check: What was looked at.
        state: 'ok', 'absent' (something optional is not there) or 'problem'.
        text: What was found.
        cure: What to do.
        main_job: The problem keeps the main job from running.
    """

    check: str
    state: str
    text: str
    cure: str = ''
    main_job: bool = False

    def line(self) -> str:
        """The finding on one line."""
        mark = {'ok': 'ok', 'absent': 'absent', 'problem': 'PROBLEM'}[self.state]
        return f'{mark:8}{self.check}: {self.text}' + (f'; {self.cure}' if self.cure else '')


@dataclass(frozen=True)
class Places:
    """Where to look: the folder of data sets, the folder of runs, and checkpoints to try."""

    data: Path = Path('data')
    work_dirs: Path = Path('work_dirs')
    weights: Path = Path('weights')
    checkpoints: tuple[Path, ...] = ()
    full: bool = False
