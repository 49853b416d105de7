"""What a run or a test found, on the console."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compactdet.records import record_file
from compactdet.records.protocol_diff import Difference
from compactdet.records.protocol_summary import card


def show(path: Path) -> None:
    """Prints the figures of a record and where the results lie."""
    record = record_file.read(path)
    title = f'{record["arch"]} · {record["detector"]} · {record["dataset"]["name"]} test'
    show_figures(title, record['dataset']['classes'], record['metrics']['test'])
    training = record['training']
    console = Console()
    start = record['init']['file'] or 'random weights'
    speed = training['images_per_s']  # None where too few steps were timed
    console.print(
        f'{training["epochs"]} epochs in {training["wall_s"] / 60:.1f} min'
        f'{"" if speed is None else f" ({speed:.1f} images/s)"}, started from {start}'
    )
    console.print(f'record and checkpoints: {path.parent}', soft_wrap=True)


def show_figures(title: str, classes: Sequence[str], metrics: Mapping[str, float | None]) -> None:
    """Prints the main figures of an evaluation, in per cent.

    Args:
        title: Stands above the table.
        classes: Names, in the data set's order.
        metrics: Figures in [0, 1], by the names that ``compactdet.evaluation.metric`` gives them.
    """
    table = Table()
    table.add_column('class')
    table.add_column('VOC 11-point AP50', justify='right')
    for name in classes:
        table.add_row(name, _percent(metrics.get(f'voc/ap50_11point/{name}')))
    table.add_section()
    table.add_row('mean', _percent(metrics.get('voc/ap50_11point')))
    table.add_row('COCO AP', _percent(metrics.get('coco/ap')))
    console = Console()
    console.print(title, soft_wrap=True, highlight=False)
    console.print(table)


def show_protocol(protocol: Mapping[str, Any], *, whole: bool = True) -> None:
    """Prints a protocol's card, and its key if the ``whole`` of it is known: data and weights were read.

    Without them it stands beside the config (``--print-config``), which alone is the standard output.
    """
    key = record_file.content_key(protocol) if whole else '(its key needs data and weights)'
    table = Table(title=f'protocol {key}', box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow='fold')
    for label, words in card(protocol).rows():
        table.add_row(label, escape(words))
    Console(stderr=not whole).print(table)


def show_differences(one: tuple[str, str], other: tuple[str, str], found: Sequence[Difference]) -> None:
    """Prints where two runs' protocols differ.

    Args:
        one: A run's name and its protocol's key.
        other: The other's.
        found: Where they differ.
    """
    console = Console()
    if not found:
        console.print(f'the same protocol ({one[1]}): the two may be ranked together', soft_wrap=True)
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column('what differs', overflow='fold')
    for name, key in (one, other):
        table.add_column(f'{escape(name)}\n{key}', overflow='fold')
    for row in found:
        table.add_row(*map(escape, (row.words, row.one, row.other)))
    console.print(table)
    console.print('two protocols: rows of one may not be ranked with rows of the other', soft_wrap=True)


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.1f}'
