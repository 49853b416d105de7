"""Console output of a run: its metrics, its protocol, the differences to another protocol."""

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
from compactdet.records.protocol_summary import summarize


def show(path: Path) -> None:
    """Print the metrics of a record and where the results are."""
    record = record_file.read(path)
    title = f'{record["arch"]} · {record["detector"]} · {record["dataset"]["name"]} test'
    show_figures(title, record['dataset']['classes'], record['metrics']['test'])
    training = record['training']
    console = Console()
    start = record['init']['file'] or 'random weights'
    speed = training['images_per_s']  # None if too few steps were timed
    console.print(
        f'{training["epochs"]} epochs in {training["wall_s"] / 60:.1f} min'
        f'{"" if speed is None else f" ({speed:.1f} images/s)"}, started from {start}'
    )
    console.print(f'record and checkpoints: {path.parent}', soft_wrap=True)


def show_figures(title: str, classes: Sequence[str], metrics: Mapping[str, float | None]) -> None:
    """Print the main metrics of an evaluation, in percent.

    Args:
        title: Title of the table.
        classes: Class names in the order of the data set.
        metrics: Values in [0, 1] by the names of ``compactdet.evaluation.metric``.
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
    """Print the summary of a protocol, and its key if the data and weights were read (``whole``).

    Without the key the summary goes to standard error, since with ``--print-config`` standard output holds
    only the config.
    """
    key = record_file.content_key(protocol) if whole else '(the key depends on data and weights)'
    table = Table(title=f'protocol {key}', box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow='fold')
    for label, words in summarize(protocol).rows():
        table.add_row(label, escape(words))
    Console(stderr=not whole).print(table)


def show_differences(one: tuple[str, str], other: tuple[str, str], found: Sequence[Difference]) -> None:
    """Print where the protocols of two runs differ.

    Args:
        one: Name of a run and the key of its protocol.
        other: The same of the other run.
        found: The differences.
    """
    console = Console()
    if not found:
        console.print(f'the same protocol ({one[1]}): results may be ranked together', soft_wrap=True)
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column('what differs', overflow='fold')
    for name, key in (one, other):
        table.add_column(f'{escape(name)}\n{key}', overflow='fold')
    for row in found:
        table.add_row(*map(escape, (row.words, row.one, row.other)))
    console.print(table)
    console.print('two protocols: results may not be ranked together', soft_wrap=True)


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.1f}'
