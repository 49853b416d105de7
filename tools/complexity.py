"""Show the costs of networks: parameters, multiply-adds by stage, memory traffic, beside the published
values.

Example:
    python tools/complexity.py 'menet_*' mobilenet_1x
    python tools/complexity.py --format json > tests/golden/complexity.json

Multiply-adds (MACs) are those of convolutions and fully connected layers for one image; "memory" is the
number of elements that these layers read and write (inputs, outputs, weights). "measured" is counted at the
input size and in the convention of the paper.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from compactdet.errors import run_main

MILLION = 1e6


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'patterns', nargs='*', metavar='PATTERN', help="names or shell patterns; default: '*'"
    )
    parser.add_argument(
        '--size',
        type=int,
        help='height and width of the image; default: 224, or the published size if smaller',
    )
    parser.add_argument('--format', choices=('table', 'json', 'csv'), default='table')
    return parser.parse_args()


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print millions, and below the table why values differ from the published ones."""
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
    from backbones.spec import COUNTING_CONVENTIONS  # here: --help starts without loading PyTorch
    from compactdet.costs import CONV_FC

    console = Console(width=None if sys.stdout.isatty() else 172)
    console.print(table)
    console.print('measured: counted at the input size and in the convention of the paper:')
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
    """Yield stride, channels and multiply-adds of each feature map; the first includes the stem."""
    macs = row['stage_macs']
    before = macs['stem']
    for stride, channels in row['strides'].items():
        yield f'{stride}: {channels}, {(before + macs.get(f"stage{stride}", 0)) / MILLION:.1f}'
        before = 0


def print_csv(rows: list[dict[str, Any]]) -> None:
    """Print a line per network; mappings are written as ``key:value`` pairs."""
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator='\n')
    writer.writeheader()
    for row in rows:
        flat = {
            k: ' '.join(f'{a}:{b}' for a, b in v.items()) if isinstance(v, dict) else v
            for k, v in row.items()
        }
        writer.writerow(flat)


def main() -> None:
    """Compute and print the costs."""
    args = parse_args()
    from compactdet.costs import arch_costs, select  # here: --help starts without loading PyTorch

    rows = [arch_costs(name, args.size) for name in select(args.patterns)]
    if args.format == 'json':
        print(json.dumps(rows, indent=1))
    elif args.format == 'csv':
        print_csv(rows)
    else:
        print_table(rows)


if __name__ == '__main__':
    run_main(main)
