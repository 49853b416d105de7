"""Analyze the errors of a detector: curves, error types and the AP that each costs, and the worst images.

Example:
    python tools/analyze.py work_dirs/menet_frcnn_shapes
    python tools/analyze.py work_dirs/menet_frcnn_bccd --gt BCCD --out report
    python tools/analyze.py --gt instances_val2017.json --dt predictions.json

Needs predictions.json of the run's test (tools/test.py --out). Writes analysis.md with its pictures, and
analysis.json with all numbers. Error types are those of TIDE (arXiv:2008.08115); --gt and --dt are as in
tools/evaluate.py.
"""

import argparse
import sys
from pathlib import Path

from compactdet.arguments import make_parser
from compactdet.errors import run_main


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('run_dir', nargs='?', type=Path, help='folder of a finished run of tools/train.py')
    parser.add_argument(
        '--gt',
        type=Path,
        help='COCO annotation file, or folder in VOC format (default: the data of the run)',
    )
    parser.add_argument('--dt', type=Path, help='default: predictions.json in the folder of the run')
    parser.add_argument('--split', help='of a VOC folder (default: that of the run, else test)')
    parser.add_argument(
        '--classes', nargs='+', help='of a VOC folder without a run, in the order of the numbers'
    )
    parser.add_argument('--out', type=Path, help='default: analysis, beside predictions.json')
    args = parser.parse_args()
    if args.run_dir is None and not (args.gt and args.dt):
        parser.error('give the folder of a run, or both --gt and --dt')
    if args.run_dir is not None and args.classes:
        parser.error('--classes is for files without a run; the run knows its classes')
    return args


def main() -> None:
    """Analyze and print where the report is."""
    args = parse_args()
    # here: --help starts without loading NumPy and Matplotlib
    from compactdet.analysis.inputs import from_files, from_run
    from compactdet.analysis.report import summary, write_report

    if args.run_dir is None:
        material = from_files(args.gt, args.dt, args.split or 'test', args.classes)
        out = args.out or args.dt.parent / 'analysis'
    else:
        material = from_run(args.run_dir, args.gt, args.dt, args.split)
        out = args.out or args.run_dir / 'analysis'
    analysis = write_report(material, out)
    for note in material.notes:
        print(f'note: {note}', file=sys.stderr)
    print(summary(analysis))
    print(f'report: {out / "analysis.md"}')


if __name__ == '__main__':
    run_main(main)
