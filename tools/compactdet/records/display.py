"""Console output of a run: its metrics, its protocol, the differences from another protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from compactdet.console import PlainConsole, print_next
from compactdet.records import record_file
from compactdet.records.pretraining_types import PretrainingRecord
from compactdet.records.protocol_diff import Difference
from compactdet.records.protocol_summary import summarize
from compactdet.records.record_types import Metrics, Protocol, Record


def training_line(record: Record | PretrainingRecord) -> str:
    """Return duration, speed and initial weights of a training."""
    training, epochs = record['training'], record['training']['epochs']
    speed = training['images_per_s']  # None if too few steps were timed
    return (
        f'{epochs} epoch{"" if epochs == 1 else "s"} in {training["wall_s"] / 60:.1f} min'
        f'{"" if speed is None else f" ({speed:.1f} images/s)"}, '
        f'started from {record["init"]["file"] or "random weights"}'
    )


def show_results(path: Path) -> None:
    """Print the metrics in a record and the location of the results."""
    record = record_file.read(path)
    title = f'{record["arch"]} · {record["detector"]} · {record["dataset"]["name"]} test'
    show_metrics(title, record['dataset']['classes'], record['metrics']['test'])
    console = PlainConsole()
    console.print(training_line(record))
    run = path.parent
    console.print(f'record and checkpoints: {run}', soft_wrap=True)
    print_next(('predict', run, 'IMAGE'), ('test', run, '--out', run / 'predictions.json'))


def show_metrics(title: str, classes: Sequence[str], metrics: Metrics) -> None:
    """Print the main metrics of an evaluation in percent.

    Args:
        title: Title of the table.
        classes: Class names in the order of the data set.
        metrics: Values from 0 to 1 by the names of ``compactdet.evaluation.metric``.
    """
    table = Table()
    table.add_column('class')
    table.add_column('VOC 11-point AP50', justify='right')
    for name in classes:
        table.add_row(name, _percent(metrics.get(f'voc/ap50_11point/{name}')))
    table.add_section()
    table.add_row('mean', _percent(metrics.get('voc/ap50_11point')))
    table.add_row('COCO AP', _percent(metrics.get('coco/ap')))
    console = PlainConsole()
    console.print(title, soft_wrap=True, highlight=False)
    console.print(table)


def show_protocol(protocol: Protocol, *, with_key: bool = True) -> None:
    """Print the summary of a protocol.

    Args:
        protocol: The protocol.
        with_key: Whether to print the protocol key. False for ``--print-config``, which does not read the
            data and weights on which the key depends; then the summary goes to standard error, because
            standard output contains the config only.
    """
    key = record_file.content_key(protocol) if with_key else '(the key depends on data and weights)'
    table = Table(title=f'protocol {key}', box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow='fold')
    for label, text in summarize(protocol).rows():
        table.add_row(label, text)
    PlainConsole(stderr=not with_key).print(table)


def show_differences(
    first_run: str, second_run: str, keys: tuple[str, str], differences: Sequence[Difference]
) -> None:
    """Print the differences between the protocols of two runs.

    Args:
        first_run: Name of the first run.
        second_run: Name of the second run.
        keys: Protocol keys of the two runs.
        differences: The differences.
    """
    console = PlainConsole()
    if not differences:
        console.print(f'the same protocol ({keys[0]}): results may be ranked together', soft_wrap=True)
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column('difference', overflow='fold')
    for run, key in zip((first_run, second_run), keys, strict=True):
        table.add_column(f'{run}\n{key}', overflow='fold')
    for row in differences:
        table.add_row(row.words, row.one, row.other)
    console.print(table)
    console.print('two protocols: results may not be ranked together', soft_wrap=True)


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.1f}'
