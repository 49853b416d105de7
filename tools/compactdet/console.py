"""Formatting of texts for the console."""

import io
from typing import Any

from rich.console import Console
from rich.table import Table


class PlainConsole(Console):
    """A console that prints every text unchanged.

    Rich reads ``[words]`` as markup and ``:words:`` as emoji, and both occur in the names of classes, files
    and runs. All output of rich goes through this class; ruff refuses the others.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)


def duration(seconds: float) -> str:
    """Return a duration in seconds as text: ``1 h 05 min``, or below an hour ``4:07 min``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes:02} min' if hours else f'{minutes}:{rest:02} min'


def render(table: Table) -> str:
    """Return a table as plain text."""
    text = io.StringIO()
    PlainConsole(file=text, width=120).print(table)
    return text.getvalue().rstrip()
