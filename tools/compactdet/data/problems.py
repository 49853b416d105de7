"""Problems of data sets: the error that names one, and the rows of a complete check."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from compactdet.errors import UserError


class DataError(UserError):
    """A problem of a file of a data set.

    ``problem`` alone must suffice: PyTorch rebuilds the exception of a data loader worker from its message.

    Args:
        problem: What is wrong, with the value.
        cure: What to do.
        file: The file.
        kind: Identifier of the kind of problem, such as 'box-outside'.
    """

    def __init__(self, problem: str, cure: str = '', *, file: str | Path = '', kind: str = '') -> None:
        if 'Original Traceback' not in problem:  # from a worker: `errors.user_line` uses its end
            problem = brief(problem)
        self.problem, self.cure, self.file, self.kind = problem, cure, str(file), kind
        text = f'{self.problem}; {cure}' if cure else self.problem
        super().__init__(f'{file}: {text}' if file else text)


def brief(text: str, most: int = 300) -> str:
    """Return a text of limited length: its start and its end."""
    return text if len(text) <= most else f'{text[: most - 100]} ... {text[-100:]}'


Report = Callable[[DataError], None]


def stop(error: DataError) -> None:
    """Raise the first problem; the `report` of a run."""
    raise error


# Kinds of problems that are warnings: the data set can be used.
WARNINGS = frozenset(
    {
        'no-boxes',
        'same-pixels',
        'duplicate-box',
        'box-rounded',
        'known-defect',
        'class-alike',
        'exif-orientation',
        'filename-of-another',
    }
)


@dataclass(frozen=True)
class Problem:
    """A row in the table of a check."""

    severity: str
    kind: str
    split: str
    image: str
    file: str
    problem: str
    cure: str

    @classmethod
    def of(cls, error: DataError, split: str, image: Any = '-') -> 'Problem':
        """Return the row of an error."""
        severity = 'warning' if error.kind in WARNINGS else 'error'
        return cls(severity, error.kind, split, str(image), error.file, error.problem, error.cure)


def unknown_class(name: str, classes: Sequence[str]) -> tuple[str, str]:
    """Return problem and remedy of an unknown class."""
    by_lower = {known.lower(): known for known in classes}
    near = [by_lower[low] for low in get_close_matches(name.lower(), by_lower, n=3)]
    hint = f'did you mean {" or ".join(near)}?' if near else f'known: {", ".join(classes)}'
    return f'unknown class {name!r} ({hint})', 'fix the file, or name the class in metainfo.classes'
