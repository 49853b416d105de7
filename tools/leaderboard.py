"""Make the leaderboard of runs and published results: a page, Markdown, CSV and JSON.

Example:
    python tools/leaderboard.py work_dirs --out leaderboard
    python tools/leaderboard.py work_dirs_template --out leaderboard --add friend/record.json
    python tools/leaderboard.py work_dirs --out leaderboard --latency latency.json

The page, index.html, is one file without external resources.
"""

import argparse
from pathlib import Path

from compactdet.arguments import make_parser
from compactdet.errors import run_main


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        'runs', nargs='+', help='run folders, folders that contain them, or record.json files'
    )
    parser.add_argument('--out', type=Path, required=True, help='output folder')
    parser.add_argument(
        '--add', nargs='+', default=[], metavar='FILE', help='records made elsewhere; marked as added'
    )
    parser.add_argument(
        '--latency', type=Path, metavar='FILE', help='latency of the networks, from tools/latency.py --json'
    )
    return parser.parse_args()


def main() -> None:
    """Write the leaderboard and print where it is."""
    args = parse_args()
    from compactdet.leaderboard import board as leaderboard  # here: loads SciPy
    from compactdet.leaderboard import latencies, writers  # here: they load SciPy

    latency = latencies.read(args.latency) if args.latency else latencies.NONE
    board = leaderboard.make(args.runs, args.add, args.out, latency)
    for path in writers.write(board, args.out):
        print(path)
    print(board.summary)


if __name__ == '__main__':
    run_main(main)
