"""What a run's record says, on the console."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import records


def show(path: Path) -> None:
    """Prints the figures of a record and where the results lie."""
    record = records.read(path)
    metrics = record['metrics']['test']
    console = Console()
    table = Table(
        title=f'{record["arch"]} · {record["detector"]} · {record["dataset"]["name"]} test',
        title_justify='left',
    )
    table.add_column('class')
    table.add_column('VOC 11-point AP50', justify='right')
    for name in record['dataset']['classes']:
        table.add_row(name, _percent(metrics.get(f'voc/ap50_11point/{name}')))
    table.add_section()
    table.add_row('mean', _percent(metrics['voc/ap50_11point']))
    table.add_row('COCO AP', _percent(metrics['coco/ap']))
    console.print(table)
    training = record['training']
    console.print(
        f'{training["epochs"]} epochs in {training["wall_s"] / 60:.1f} min '
        f'({training["images_per_s"]:.1f} images/s), started from {record["init"]["file"] or "random weights"}'
    )
    console.print(f'record and checkpoints: {path.parent}', soft_wrap=True)


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.1f}'
