"""Findings and options of the doctor."""

from dataclasses import dataclass
from pathlib import Path

REINSTALL = 'python -m pip install -e .'


@dataclass(frozen=True)
class Finding:
    """Result of a check: one line of the output.

    The fields are keys of the JSON output.

    Attributes:
        check: What was checked.
        state: 'ok', 'absent' (something optional is missing) or 'problem'.
        text: The finding.
        cure: What to do, or ''.
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
class DoctorOptions:
    """Options of the doctor.

    Attributes:
        data: Folder of the data sets.
        work_dirs: Folder of the run folders.
        weights: Folder of the weights files.
        checkpoints: Detector checkpoints to check.
        full: Whether to decode every image of the data sets.
    """

    data: Path = Path('data')
    work_dirs: Path = Path('work_dirs')
    weights: Path = Path('weights')
    checkpoints: tuple[Path, ...] = ()
    full: bool = False
