"""Draws the embedded data set, or checks one in VOC format.

Examples:
    python tools/data.py shapes --out data/shapes --show 24
    python tools/data.py check data/VOCdevkit/VOC2007 --split trainval
"""

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from bench.errors import UserError, run_main
from bench.shapes import contact_sheet, ensure
from bench.voc import find_problems, find_set, read_split


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest='verb', required=True)
    shapes = verbs.add_parser('shapes', help="draw the data set 'shapes'")
    shapes.add_argument('--out', type=Path, default=Path('data/shapes'), metavar='DIR')
    shapes.add_argument('--show', type=int, metavar='N', help='picture of the first N test images')
    check = verbs.add_parser('check', help='read all of a data set; exit 1 if it has problems')
    check.add_argument('dir', type=Path, help='holds Annotations, JPEGImages and ImageSets')
    check.add_argument('--split', help='default: every split')
    check.add_argument('--classes', metavar='A,B,...', help='default: any class will do')
    check.add_argument('--json', action='store_true')
    args = parser.parse_args()
    if args.verb == 'shapes' and args.show is not None and args.show < 1:
        parser.error('--show must be at least 1')
    return args


def check_set(args: argparse.Namespace) -> int:
    """Prints each problem; returns the exit status."""
    classes = args.classes.split(',') if args.classes else None
    folder, pattern = find_set(args.dir, f'ImageSets/Main/{args.split or "*"}.txt')
    # VOC's own kit holds one more file a class (`cat_train.txt`), with a flag behind each id.
    files = [path for path in sorted(pattern.parent.glob('*.txt')) if '_' not in path.stem]
    files = [pattern] if args.split else files
    if not files:
        raise UserError(f"no split file in '{pattern.parent}'; write one image id a line")
    rows = []
    for path in files:
        try:
            ids, problems = read_split(path), find_problems(folder, path, classes)
            listed = track(problems, path.stem, len(ids), transient=True, disable=args.json)
            pairs = [(i, problem) for i, problem in zip(ids, listed, strict=True) if problem]
        except UserError as error:
            pairs = [('-', str(error))]
        rows += [{'split': path.stem, 'image': i, 'problem': text} for i, text in pairs]
    if args.json:
        print(json.dumps({'problems': rows}, indent=2))
    elif not rows:
        print(f"no problems in '{folder}' ({', '.join(path.stem for path in files)})")
    else:
        table = Table('split', 'image', 'problem and cure', title=f'{len(rows)} problems')
        for row in rows:
            table.add_row(*map(escape, row.values()))
        Console().print(table)
    return 1 if rows else 0


def main() -> int:
    """Runs the verb."""
    args = parse_args()
    if args.verb == 'check':
        return check_set(args)
    ensure(args.out)
    print(f"data set 'shapes' is in '{args.out}'")
    if args.show:
        sheet = args.out.with_name(f'{args.out.name}.png')
        contact_sheet(args.out, 'test', args.show, sheet)
        print(f"picture: '{sheet}'")
    return 0


if __name__ == '__main__':
    run_main(main)
