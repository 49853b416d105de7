"""Compute VOC and COCO metrics of a predictions.json, with intervals.

Example:
    python tools/evaluate.py --gt VOCdevkit/VOC2007 --dt predictions.json
    python tools/evaluate.py --gt instances_val2017.json --dt predictions.json --json --bootstrap 1000
    python tools/evaluate.py --gt VOCdevkit/VOC2007 --dt a.json --compare b.json --bootstrap 1000

Predictions are a list of {"image_id", "category_id", "bbox": [x, y, width, height], "score"}. For a data
set in VOC format, image ids are file names without extension, and categories are numbered from 1 in the
order of the classes. If an entry has "category", the class name, it replaces "category_id". --bootstrap
resamples the test images N times: the interval shows how much the metrics depend on these images, not on
the training seed.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from compactdet.arguments import add_format, make_parser
from compactdet.errors import run_main
from compactdet.evaluation.average_precision import list_metrics
from compactdet.evaluation.bootstrap import (
    Comparison,
    Interval,
    bootstrap,
    compare,
    format_bootstrap,
    interval,
)
from compactdet.evaluation.evaluate import evaluate, format_table, match

DRAWS_TO_COMPARE = 1000  # without --bootstrap


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        '--gt', required=True, type=Path, help='COCO annotation file or folder in VOC format'
    )
    parser.add_argument('--dt', required=True, type=Path, help='predictions.json')
    parser.add_argument('--split', default='test', help='split of a VOC folder (default: test)')
    parser.add_argument(
        '--classes',
        nargs='+',
        help="classes of a VOC folder, in the order of category_id (default: VOC's 20, otherwise sorted)",
    )
    parser.add_argument(
        '--iou', type=float, nargs='+', default=[0.5], help='IoU of the VOC metrics (default: 0.5)'
    )
    add_format(parser)
    parser.add_argument('--bootstrap', type=int, metavar='N', help='intervals from N resamples')
    parser.add_argument(
        '--compare', type=Path, metavar='OTHER', help='second predictions.json: a paired comparison'
    )
    args = parser.parse_args()
    if not all(0 < iou <= 1 for iou in args.iou) or (args.bootstrap or 2) < 2:
        parser.error('--iou must be above 0 and at most 1, --bootstrap 2 or more')
    return args


def main() -> None:
    """Evaluate and print the metrics."""
    args = parse_args()
    # here: --help starts without loading OpenCV
    from compactdet.data.readers import note_on_predictions, read_ground_truth, read_predictions

    gt = read_ground_truth(args.gt, args.split, args.classes)
    for note in gt.notes:
        print(f'note: {note}', file=sys.stderr)
    dt = read_predictions(args.dt, gt)
    if doubt := note_on_predictions(args.dt, gt, dt):
        print(f'note: {doubt}', file=sys.stderr)
    result = evaluate(gt, dt, args.iou)
    intervals: dict[str, Interval] = {}
    comparisons: dict[str, Comparison] = {}
    if args.bootstrap or args.compare:
        num, metrics = args.bootstrap or DRAWS_TO_COMPARE, list_metrics(args.iou)
        samples = bootstrap(match(gt, dt, args.iou), metrics, num)
        intervals = {name: interval(sample) for name, sample in samples.items()}
        if args.compare:
            other = read_predictions(args.compare, gt)
            others = bootstrap(match(gt, other, args.iou), metrics, num)
            comparisons = {name: compare(samples[name], others[name]) for name in samples}
    if args.format == 'json':
        result['intervals'] = {name: dataclasses.asdict(x) for name, x in intervals.items()}
        result['comparisons'] = {name: dataclasses.asdict(x) for name, x in comparisons.items()}
        print(json.dumps(result, indent=1, allow_nan=False))
        return
    print(format_table(result))
    if intervals:
        print(format_bootstrap(intervals, comparisons))


if __name__ == '__main__':
    run_main(main)
