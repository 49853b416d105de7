"""What can be wrong with a data set: the error that names it, and the list that a whole check makes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from compactdet.errors import UserError


class DataError(UserError):
    """One thing that is wrong with a data set's files.

    (``problem`` alone must do: a data loader's worker makes the exception again from its message.)

    Args:
        problem: What is wrong, with the value.
        cure: What to do.
        file: Where it is.
        kind: A word for it, such as 'box-outside'.
    """

    def __init__(self, problem: str, cure: str = '', *, file: str | Path = '', kind: str = '') -> None:
        if 'Original Traceback' not in problem:  # from a worker: `errors.user_line` wants its end
            problem = brief(problem)
        self.problem, self.cure, self.file, self.kind = problem, cure, str(file), kind
        text = f'{self.problem}; {cure}' if cure else self.problem
        super().__init__(f'{file}: {text}' if file else text)


def brief(text: str, most: int = 300) -> str:
    """A text that may quote a value of any length: both ends of it."""
    return text if len(text) <= most else f'{text[: most - 100]} ... {text[-100:]}'


Report = Callable[[DataError], None]


def stop(error: DataError) -> None:
    """The report of a run: the first problem ends it."""
    raise error


# Kinds that are worth a word but do not keep a set from being used.
WARNINGS = frozenset(
    {'no-boxes', 'same-pixels', 'duplicate-box', 'box-rounded', 'known-defect', 'class-alike'}
)


@dataclass(frozen=True)
class Problem:
    """A row of a check's table."""

    severity: str
    kind: str
    split: str
    image: str
    file: str
    problem: str
    cure: str

    @classmethod
    def of(cls, error: DataError, split: str, image: Any = '-') -> 'Problem':
        """The row of an error."""
        severity = 'warning' if error.kind in WARNINGS else 'error'
        return cls(severity, error.kind, split, str(image), error.file, error.problem, error.cure)


def unknown_class(name: str, classes: Sequence[str]) -> tuple[str, str]:
    """Problem and cure of a class that is not known."""
    by_lower = {known.lower(): known for known in classes}
    near = [by_lower[low] for low in get_close_matches(name.lower(), by_lower, n=3)]
    hint = f'did you mean {" or ".join(near)}?' if near else f'known: {", ".join(classes)}'
    return f'unknown class {name!r} ({hint})', 'fix the file, or name the class in metainfo.classes'
