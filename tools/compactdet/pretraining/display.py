"""Console output of a pretraining: its protocol and its results."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from backbones import get_arch
from compactdet.console import PlainConsole, print_next
from compactdet.records import record_file
from compactdet.records.display import training_line


def show_protocol(protocol: Mapping[str, Any]) -> None:
    """Print a summary of a protocol, and its key if it includes the data set."""
    key = record_file.content_key(protocol) if protocol['data'] else '(its key needs the data)'
    table = Table(title=f'protocol {key}', box=box.SIMPLE_HEAD, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow='fold')
    optimizer = dict(protocol['optimiser']['optimizer'])
    kind = optimizer.pop('type')
    epochs = protocol['loop'].get('max_epochs', '?')
    rows = {
        'recipe': protocol['recipe'] or 'none',
        'starts from': 'random weights' if protocol['init'] == 'none' else f'{protocol["init"]} weights',
        'images': f'{protocol["size"]}x{protocol["size"]}, {_type_names(protocol["train_pipeline"])}',
        'optimizer': f'{kind}, {", ".join(f"{k} {v}" for k, v in optimizer.items())}',
        'schedule': f'{epochs} epochs, {_type_names(protocol["schedule"])}',
        'batch': f'{protocol["batch_size"]} images per step',
        'held out': f'{protocol["hold_out"]} training images' if protocol['hold_out'] else 'none',
        'tested': 'the last epoch',
    }
    for label, text in rows.items():
        table.add_row(label, text)
    PlainConsole().print(table)


def _type_names(steps: list[dict[str, Any]]) -> str:
    """Return the types of pipeline steps or schedulers, without the final packing of a pipeline."""
    names = [step['type'].rpartition('.')[2] for step in steps]
    return ', '.join(name for name in names if name != 'PackInputs') or 'unchanged'


def show_results(path: Path) -> None:
    """Print the metrics of a record and the location of the results."""
    record = record_file.read_pretraining(path)
    table = Table()
    for name in ('split', 'images', 'top-1', 'top-5'):
        table.add_column(name, justify='left' if name == 'split' else 'right')
    val, test = record['metrics']['val'], record['metrics']['test']
    for split, metrics in (('val', val), ('test', test)):
        if metrics is not None:
            images = record['dataset']['splits'][split]['images']
            table.add_row(split, str(images), _percent(metrics['top1']), _percent(metrics['top5']))
    console = PlainConsole()
    console.print(f'{record["arch"]} · {record["dataset"]["name"]}', soft_wrap=True, highlight=False)
    console.print(table)
    console.print(training_line(record))
    console.print(f'weights, record and checkpoints: {path.parent}', soft_wrap=True)
    weights = path.parent / record['weights']['file']
    if {16, 32} <= get_arch(record['arch']).strides.keys():  # what a detector with C4 features needs
        choice = ('--arch', record['arch'], '--detector', 'frcnn_c4', '--dataset', 'voc07')
        print_next(('train', *choice, '--init', weights))


def _percent(share: float | None) -> str:
    return '-' if share is None else f'{100 * share:.2f}'
