"""Formatting of texts for the console."""

import io
import shlex
from collections.abc import Sequence
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


def print_next(*commands: Sequence[object]) -> None:
    """Print the commands that a user is likely to run next.

    Args:
        commands: The tool's name and its arguments, such as ``('predict', run_dir, 'IMAGE')``.
    """
    for index, (tool, *arguments) in enumerate(commands):
        command = shlex.join(['python', f'tools/{tool}.py', *map(str, arguments)])
        print(f'{"      " if index else "next: "}{command}')


def print_fitting(tables: Sequence[Table], console: Console | None = None) -> None:
    """Print the first of several forms of a table that the terminal has room for, else the last.

    Args:
        tables: From the widest to the narrowest. Nothing is cut: a table that is wider than the terminal is
            printed as wide as it needs, and a file or a pipe gets the first one.
        console: Default: standard output. It is widened to the table.
    """
    console = console or PlainConsole()
    widths = [
        table.__rich_measure__(console, console.options.update(width=10_000)).maximum for table in tables
    ]
    fitting = (index for index, width in enumerate(widths) if width <= console.width)
    index = next(fitting, len(tables) - 1) if console.is_terminal else 0
    console.width = max(console.width, widths[index])
    console.print(tables[index])


def render(table: Table) -> str:
    """Return a table as plain text."""
    text = io.StringIO()
    PlainConsole(file=text, width=120).print(table)
    return text.getvalue().rstrip()
