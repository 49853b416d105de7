"""Show the costs of networks: parameters, multiply-adds by stage, memory traffic, and the published values.

Example:
    python tools/complexity.py 'menet_*' mobilenet_1x
    python tools/complexity.py --format json > tests/golden/complexity.json

Multiply-adds (MACs) are those of convolutions and fully connected layers for one image; "memory" is the
number of elements that these layers read and write (inputs, outputs, weights). "measured" is counted at the
input size and in the convention of the paper.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from compactdet.arguments import add_format, make_parser
from compactdet.console import print_fitting
from compactdet.errors import run_main

if TYPE_CHECKING:
    from compactdet.costs import ArchCosts

MILLION = 1e6
MAPS = 'stride: channels, MACs'
HEADS = (
    'arch', 'params', 'backbone params', 'MACs', 'backbone MACs', 'memory', 'paper', 'measured', 'diff',
    MAPS,
)  # fmt: skip
NARROW_HEADS = ('arch', 'params', 'MACs', 'memory', 'paper', 'diff')  # for a terminal of 80 columns


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        'patterns', nargs='*', metavar='PATTERN', help="names or shell patterns; default: '*'"
    )
    parser.add_argument(
        '--size',
        type=int,
        help='height and width of the image; default: 224, or the published size if smaller',
    )
    add_format(parser, ['csv'])
    return parser.parse_args()


def print_table(rows: Sequence[ArchCosts]) -> None:
    """Print the costs in millions, and below the table the reasons of differences to published values."""
    sizes = sorted({row['size'] for row in rows}, reverse=True)
    title = f'Costs at {" and ".join(f"{size}x{size}" for size in sizes)}, in millions'
    print_fitting([_table(rows, title, HEADS), _table(rows, title, NARROW_HEADS)])
    # here: --help starts without loading PyTorch
    from backbones.spec import COUNTING_CONVENTIONS
    from compactdet.costs import CONV_FC

    published = [row for row in rows if row['paper_mflops'] is not None]
    lines = []
    for row in published:
        notes = []
        if row['paper_convention'] != CONV_FC:
            notes.append(COUNTING_CONVENTIONS[row['paper_convention']])
        if row['paper_size'] != row['size']:
            notes.append(f'at {row["paper_size"]}x{row["paper_size"]}')
        if abs(row['difference_percent'] or 0) > 1:
            notes.append(row['cost_note'])
        if notes:
            lines.append(f'{row["arch"]}: {"; ".join(notes)}')
    if published:
        end = ':' if lines else '.'
        print(
            f'measured: counted at the input size and in the convention of the paper{end}', *lines, sep='\n'
        )


def _table(rows: Sequence[ArchCosts], title: str, heads: Sequence[str]) -> Table:
    """Return the costs as a table of some of the columns ``HEADS``."""
    table = Table(title=title)
    for head in heads:
        lines = head if head == MAPS else head.replace(' ', '\n')
        table.add_column(lines, justify='left' if head in ('arch', MAPS) else 'right', no_wrap=True)
    for row in rows:
        memory = row['activations_read'] + row['activations_written'] + row['weights_read']
        costs = (row['params'], row['backbone_params'], row['macs'], row['backbone_macs'], memory)
        published = row['paper_mflops']
        cells = (
            row['arch'],
            *(f'{cost / MILLION:.2f}' for cost in costs),
            '' if published is None else f'{published:g}',
            '' if published is None else f'{row["paper_size_macs"] / MILLION:.2f}',
            '' if published is None else f'{row["difference_percent"]:+.1f}%',
            '; '.join(_feature_maps(row)),
        )
        table.add_row(*(cell for head, cell in zip(HEADS, cells, strict=True) if head in heads))
    return table


def _feature_maps(row: ArchCosts) -> Iterator[str]:
    """Yield stride, channels and multiply-adds of each feature map; the first includes the stem."""
    macs = row['stage_macs']
    before = macs['stem']
    for stride, channels in row['strides'].items():
        yield f'{stride}: {channels}, {(before + macs.get(f"stage{stride}", 0)) / MILLION:.1f}'
        before = 0


def print_csv(rows: Sequence[ArchCosts]) -> None:
    """Print one line per network; mappings are written as ``key:value`` pairs."""
    writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator='\n')
    writer.writeheader()
    for row in rows:
        flat = {
            column: ' '.join(f'{key}:{item}' for key, item in value.items())
            if isinstance(value, dict)
            else value
            for column, value in row.items()
        }
        writer.writerow(flat)


def main() -> None:
    """Compute and print the costs."""
    args = parse_args()
    from compactdet.costs import arch_costs, select_archs  # here: --help starts without loading PyTorch

    rows = [arch_costs(name, args.size) for name in select_archs(args.patterns)]
    if args.format == 'json':
        print(json.dumps(rows, indent=1))
    elif args.format == 'csv':
        print_csv(rows)
    else:
        print_table(rows)


if __name__ == '__main__':
    run_main(main)
