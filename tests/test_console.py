"""Output of rich: names with its markup are printed unchanged."""

import io

from rich.table import Table

from compactdet.console import PlainConsole, render

NAME = 'lamp [/off] [red]:dog:'


def test_names_with_markup_are_printed_unchanged() -> None:
    table = Table(NAME, title=NAME)
    table.add_row(NAME)
    assert render(table).count(NAME) == 3
    text = io.StringIO()
    PlainConsole(file=text, width=80).print(NAME)
    assert text.getvalue() == f'{NAME}\n'
