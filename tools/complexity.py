"""What every network costs: parameters, multiply-adds by stage, memory traffic, and the paper's figure.

    python tools/complexity.py 'menet_*' mobilenet_1x
    python tools/complexity.py --format json > tests/golden/complexity.json

Multiply-adds (MACs) of convolutions and fully connected layers for one image; "memory" is the elements
that those layers read and write (inputs, outputs, weights). "measured" stands beside the paper's figure:
at the paper's input size and in its convention of counting.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from backbones.spec import COUNTING_CONVENTIONS
from compactdet.costs import CONV_FC, arch_costs, select
from compactdet.errors import run_main

MILLION = 1e6


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'patterns', nargs='*', metavar='PATTERN', help="names or shell patterns; default '*'"
    )
    parser.add_argument(
        '--size',
        type=int,
        help="height and width of the image; default 224, or the paper's where it is less",
    )
    parser.add_argument('--format', choices=('table', 'json', 'csv'), default='table')
    return parser.parse_args()


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints millions, and beneath the table why a figure differs from the paper's."""
    sizes = sorted({row['size'] for row in rows}, reverse=True)
    table = Table(title=f'Costs at {" and ".join(f"{size}x{size}" for size in sizes)}, in millions')
    table.add_column('arch', no_wrap=True)
    for heading in ('params', 'backbone', 'MACs', 'backbone', 'memory', 'paper', 'measured', 'diff'):
        table.add_column(heading, justify='right', no_wrap=True)
    table.add_column('stride: channels, MACs')
    for row in rows:
        memory = row['activations_read'] + row['activations_written'] + row['weights_read']
        keys = ('params', 'backbone_params', 'macs', 'backbone_macs')
        printed = row['paper_mflops']
        table.add_row(
            row['arch'],
            *(f'{row[key] / MILLION:.2f}' for key in keys),
            f'{memory / MILLION:.2f}',
            '' if printed is None else f'{printed:g}',
            '' if printed is None else f'{row["paper_size_macs"] / MILLION:.2f}',
            '' if printed is None else f'{row["difference_percent"]:+.1f}%',
            '; '.join(_taps(row)),
        )
    console = Console(width=None if sys.stdout.isatty() else 172)
    console.print(table)
    console.print('measured: what the paper printed, counted as the paper did:')
    for row in rows:
        how = []
        if row['paper_convention'] != CONV_FC:
            how.append(COUNTING_CONVENTIONS[row['paper_convention']])
        if row['paper_size'] != row['size']:
            how.append(f'at {row["paper_size"]}x{row["paper_size"]}')
        if row['difference_percent'] is not None and abs(row['difference_percent']) > 1:
            how.append(row['cost_note'])
        if how:
            console.print(f'{row["arch"]}: {"; ".join(how)}', highlight=False)


def _taps(row: dict[str, Any]) -> Iterator[str]:
    """Stride, channels and multiply-adds of each tap; the first includes the stem."""
    macs = row['stage_macs']
    before = macs['stem']
    for stride, channels in row['strides'].items():
        yield f'{stride}: {channels}, {(before + macs.get(f"stage{stride}", 0)) / MILLION:.1f}'
        before = 0


def print_csv(rows: list[dict[str, Any]]) -> None:
    """Prints a line a network; what is a mapping in JSON is ``key:value`` pairs here."""
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator='\n')
    writer.writeheader()
    for row in rows:
        flat = {
            k: ' '.join(f'{a}:{b}' for a, b in v.items()) if isinstance(v, dict) else v
            for k, v in row.items()
        }
        writer.writerow(flat)


def main() -> None:
    """Costs the networks that are asked for."""
    args = parse_args()
    rows = [arch_costs(name, args.size) for name in select(args.patterns)]
    if args.format == 'json':
        print(json.dumps(rows, indent=1))
    elif args.format == 'csv':
        print_csv(rows)
    else:
        print_table(rows)


if __name__ == '__main__':
    run_main(main)
