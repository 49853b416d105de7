"""What a pretraining is and what came of it, on the console."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compactdet.records import record_file


def show_protocol(protocol: Mapping[str, Any]) -> None:
    """Prints a protocol's card, and its key if the data is known."""
    key = record_file.content_key(protocol) if protocol['data'] else '(its key needs the data)'
    table = Table(title=f'protocol {key}', box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow='fold')
    optimiser = dict(protocol['optimiser']['optimizer'])
    what = optimiser.pop('type')
    rows = {
        'recipe': protocol['recipe'] or 'of its own',
        'starts from': 'random weights' if protocol['init'] == 'none' else f'{protocol["init"]} weights',
        'images': f'{protocol["size"]}x{protocol["size"]}, {_names(protocol["train_pipeline"])}',
        'optimiser': f'{what}, {", ".join(f"{k} {v}" for k, v in optimiser.items())}',
        'schedule': f'{protocol["loop"].get("max_epochs", "?")} epochs, {_names(protocol["schedule"])}',
        'batch': f'{protocol["batch_size"]} images a step',
        'held out': f'{protocol["hold_out"]} training images' if protocol['hold_out'] else 'nothing',
        'tested': 'the last epoch',
    }
    for label, words in rows.items():
        table.add_row(label, escape(words))
    Console().print(table)


def _names(steps: list[dict[str, Any]]) -> str:
    names = [step['type'].rpartition('.')[2] for step in steps]
    return ', '.join(name for name in names if name != 'PackInputs') or 'as they are'


def show(path: Path) -> None:
    """Prints the figures of a record and where the results lie."""
    record = record_file.read(path, record_file.PRETRAINING)
    table = Table()
    for name in ('split', 'images', 'top-1', 'top-5'):
        table.add_column(name, justify='left' if name == 'split' else 'right')
    for split, figures in record['metrics'].items():
        if figures is not None:
            images = record['dataset']['splits'][split]['images']
            table.add_row(split, str(images), _percent(figures['top1']), _percent(figures['top5']))
    console = Console()
    console.print(f'{record["arch"]} · {record["dataset"]["name"]}', soft_wrap=True, highlight=False)
    console.print(table)
    training, speed = record['training'], record['training']['images_per_s']
    console.print(
        f'{training["epochs"]} epochs in {training["wall_s"] / 60:.1f} min'
        f'{"" if speed is None else f" ({speed:.1f} images/s)"}, '
        f'started from {record["init"]["file"] or "random weights"}'
    )
    console.print(f'weights, record and checkpoints: {path.parent}', soft_wrap=True)
    weights = path.parent / record['weights']['file']
    console.print(f'a detector starts from them by --init {weights}', soft_wrap=True)


def _percent(share: float | None) -> str:
    return '-' if share is None else f'{100 * share:.2f}'
