"""Show results of runs as a table: mean and standard deviation over seeds, from their records.

Example:
    python tools/table.py work_dirs
    python tools/table.py work_dirs_template --format markdown
"""

import argparse
import json
from pathlib import Path

from compactdet.arguments import add_format, make_parser
from compactdet.errors import run_main
from compactdet.records import results_table


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        'runs', nargs='+', help='run folders, folders that contain them, or record.json files'
    )
    add_format(parser, ['markdown'])
    parser.add_argument(
        '--sort',
        choices=results_table.SORTS,
        default='result',
        help='order of the rows of a protocol: best first, or by cost of the network or of the detector',
    )
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    args = parse_args()
    rows = results_table.rows(results_table.find_records(args.runs), args.sort)
    if args.format == 'json':
        print(json.dumps(results_table.as_json(rows), indent=2))
    elif args.format == 'markdown':
        print(results_table.markdown(rows, Path.cwd()), end='')
    else:
        results_table.show(rows)


if __name__ == '__main__':
    run_main(main)
