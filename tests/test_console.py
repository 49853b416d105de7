"""Output of rich: names with its markup are printed unchanged."""

import io
from pathlib import Path

import pytest
from rich.table import Table

from compactdet.console import PlainConsole, print_fitting, print_next, render

NAME = 'lamp [/off] [red]:dog:'


def test_names_with_markup_are_printed_unchanged() -> None:
    table = Table(NAME, title=NAME)
    table.add_row(NAME)
    assert render(table).count(NAME) == 3
    text = io.StringIO()
    PlainConsole(file=text, width=80).print(NAME)
    assert text.getvalue() == f'{NAME}\n'


@pytest.mark.parametrize(
    ('terminal', 'width', 'shown'),
    [(False, 10, 3), (True, 80, 3), (True, 40, 1), (True, 10, 1)],
)
def test_no_name_is_cut_in_a_table(terminal: bool, width: int, shown: int) -> None:
    name = 'menet_228_12x1_g3'
    tables = [Table(), Table()]
    for table, number in zip(tables, (3, 1), strict=True):
        for _ in range(number):
            table.add_column('network', no_wrap=True)
        table.add_row(*[name] * number)
    text = io.StringIO()
    print_fitting(tables, PlainConsole(file=text, width=width, force_terminal=terminal, no_color=True))
    assert text.getvalue().count(name) == shown


def test_next_commands_are_quoted_and_never_wrapped(capsys: pytest.CaptureFixture) -> None:
    long = 'a b/' * 50
    print_next(('predict', Path('my run'), 'IMAGE'), ('table', long))
    assert capsys.readouterr().out.splitlines() == [
        "next: python tools/predict.py 'my run' IMAGE",
        f"      python tools/table.py '{long}'",
    ]
