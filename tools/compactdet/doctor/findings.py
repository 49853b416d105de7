"""Findings and options of the doctor."""

from collections.abc import Callable, Iterator
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


Check = Callable[[DoctorOptions], Iterator[Finding]]


def run_check(name: str, check: Check, options: DoctorOptions) -> list[Finding]:
    """Return the findings of a check; an exception in it becomes the last finding, a problem."""
    findings = []
    try:
        for finding in check(options):
            findings.append(finding)
    except Exception as error:
        text = ' '.join(f'the check failed ({type(error).__name__}: {error})'.split())
        findings.append(Finding(name, 'problem', text, 'report this as a defect of the suite'))
    return findings
