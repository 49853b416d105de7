"""Output of ``tools/weights.py``: the catalog of published weights, the content of a weights file."""

import sys
from dataclasses import asdict
from typing import Any

from rich import box
from rich.table import Table

from backbones.weights import file_sha256, num_classes_of, read_weights
from compactdet.console import PlainConsole
from compactdet.errors import UserError

# Ends of the names of entries that are not parameters.
NOT_PARAMETERS = ('.running_mean', '.running_var', '.num_batches_tracked', '_mask', '.drops', '.index')


def inspect_file(file: str) -> dict[str, Any]:
    """Return the metadata and the content of a weights file.

    Raises:
        WeightsError: The file cannot be read.
        UserError: Its network is unknown.
    """
    state_dict, info = read_weights(file)
    try:
        num_classes = num_classes_of(state_dict, info.arch)
    except KeyError as error:
        raise UserError(f'{file}: {error}') from error
    return asdict(info) | {
        'num_classes': num_classes,
        'num_entries': len(state_dict),
        'params': sum(v.numel() for k, v in state_dict.items() if not k.endswith(NOT_PARAMETERS)),
        'sha256': file_sha256(file),
    }


def print_catalog(rows: list[dict[str, Any]]) -> None:
    """Print published weights as a table; ``rows`` come from ``compactdet.weights.catalog.to_json``."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column('arch@publisher', overflow='fold')
    for heading in ('top-1', 'top-5', 'MB'):
        table.add_column(heading, justify='right', no_wrap=True, min_width=5)
    for heading, width in (('license', 12), ('sha256', 8), ('how', 8), ('here', 4)):
        table.add_column(heading, no_wrap=True, min_width=width)
    for row in rows:
        table.add_row(
            row['name'],
            *('' if row[key] is None else f'{row[key]:.2f}' for key in ('top1', 'top5')),
            '' if row['size'] is None else f'{row["size"] / 1e6:.1f}',
            row['licence'],
            row['sha256'][:8] if row['sha256'] else '',
            row['how'].partition(':')[0],
            'yes' if row['here'] else '',
        )
    console = PlainConsole(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    console.print(
        f'{len(rows)} files. Accuracies (percent) and sizes (MB) are as published; blank: not stated. If '
        'no SHA-256 is published, `get` records that of the download in the weights file. --format json '
        'also prints addresses, pages, complete hashes and sources.',
        highlight=False,
    )
