"""Get, import, check and describe data sets.

Example:
    python tools/data.py get voc07
    python tools/data.py import coco ~/downloads/annotations_trainval2017.zip ~/downloads/val2017
    python tools/data.py check data/VOCdevkit/VOC2007 --split trainval
    python tools/data.py stats bccd --out bccd.png
    python tools/data.py shapes --out data/shapes --show 24
"""

import argparse
import shlex
from pathlib import Path

from compactdet.arguments import add_format, make_parser
from compactdet.data.catalog import SOURCES
from compactdet.errors import run_main


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    verbs = parser.add_subparsers(dest='verb', required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        '--root', type=Path, default=Path('data'), help='folder of all data (default: data)'
    )
    get = verbs.add_parser('get', parents=[common], help='download a set (shapes: draw it)')
    get.add_argument('set', choices=SOURCES)
    get.add_argument('--files', choices=('2017', '2014'), help="COCO's files of which year (default: 2017)")
    get.add_argument('--keep', action='store_true', help='keep the archives in ROOT/downloads')
    bring = verbs.add_parser('import', parents=[common], help='put archives or folders on disk in place')
    bring.add_argument('set', choices=[*(name for name in SOURCES if name != 'shapes'), 'custom'])
    bring.add_argument('paths', nargs='+', type=Path, metavar='PATH')
    bring.add_argument('--link', action='store_true', help='link to folders instead of copying them')
    bring.add_argument('--subset', action='store_true', help='a part of the set: do not check its counts')
    bring.add_argument('--name', help='what a custom set is called in ROOT (default: as PATH)')
    looked_at = argparse.ArgumentParser(add_help=False, parents=[common])
    looked_at.add_argument('set', metavar='SET|DIR', help=f'{", ".join(SOURCES)} or a folder')
    looked_at.add_argument('--split', help='default: every split')
    looked_at.add_argument('--classes', metavar='A,B,...', help='default of a folder: any class will do')
    add_format(looked_at)
    check = verbs.add_parser('check', parents=[looked_at], help='read all of a set; exit 1 on errors')
    check.add_argument('--quick', action='store_true', help='do not decode the images')
    stats = verbs.add_parser('stats', parents=[looked_at], help='counts and sizes')
    stats.add_argument('--out', type=Path, metavar='PNG', help='draw them')
    shapes = verbs.add_parser('shapes', help="draw the data set 'shapes'")
    shapes.add_argument('--out', type=Path, default=Path('data/shapes'), metavar='DIR')
    shapes.add_argument('--show', type=int, metavar='N', help='picture of the first N test images')
    args = parser.parse_args()
    if args.verb == 'shapes' and args.show is not None and args.show < 1:
        parser.error('--show must be at least 1')
    if args.verb == 'get' and args.files and args.set != 'coco':
        parser.error(f'--files is for coco, not {args.set}')
    if args.verb == 'import' and args.set == 'custom' and len(args.paths) > 1:
        parser.error('a custom set is one folder or archive')
    if args.verb == 'import' and args.name is not None and Path(args.name).name != args.name:
        parser.error('--name must be a name, not a path')
    return args


def main() -> int:
    """Run a command."""
    args = parse_args()
    # here: --help starts without loading NumPy and OpenCV
    from compactdet.data import acquire, check, layout, shapes, stats

    if args.verb in ('check', 'stats'):
        classes = [name.strip() for name in (args.classes or '').split(',') if name.strip()]
        found = layout.find_layout(args.set, args.root, classes).only(args.split)
        if args.verb == 'check':
            return int(check.report(found, decode=not args.quick, as_json=args.format == 'json') > 0)
        stats.report(found, as_json=args.format == 'json', out=args.out)
        return 0
    if args.verb == 'shapes' or args.set == 'shapes':
        out = args.out if args.verb == 'shapes' else args.root / 'shapes'
        shapes.ensure(out)
        print(f"data set 'shapes' is in '{out}'")
        if args.verb == 'shapes' and args.show:
            sheet = out.with_name(f'{out.name}.png')
            shapes.contact_sheet(out, 'test', args.show, sheet)
            print(f"picture: '{sheet}'")
        return 0
    if args.set == 'custom':
        place = args.root / (args.name or args.paths[0].name.partition('.')[0])
        acquire.bring_custom(args.paths[0], place, link=args.link)
        command = f'python tools/data.py check {shlex.quote(str(place))}'
        print(f"your data set is in '{place}'; read it all: {command}")
        return 0
    if args.verb == 'get':
        acquire.get(args.set, args.root, variant=args.files, keep=args.keep)
    else:
        acquire.bring(args.set, args.paths, args.root, link=args.link, subset=args.subset)
    place = args.root / SOURCES[args.set].root
    print(
        f"data set '{args.set}' is in '{place}'; read it all: python tools/data.py check {args.set} "
        f'--root {shlex.quote(str(args.root))}'
    )
    return 0


if __name__ == '__main__':
    run_main(main)
