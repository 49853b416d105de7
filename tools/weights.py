"""List, download, convert, inspect and verify weights files.

Example:
    python tools/weights.py list 'menet_*'
    python tools/weights.py get mobilenetv2_1x
    python tools/weights.py convert 108-MENet-8x1-g-3.pth.tar --arch menet_108_8x1_g3 --out m.safetensors
    python tools/weights.py inspect weights/menet_108_8x1_g3.safetensors
    python tools/weights.py verify weights/menet_108_8x1_g3.safetensors --images imagenet/val

`get` downloads a file, verifies it and converts it; `convert` also reads files that must be downloaded
manually in a browser. Code in published files is never executed. `verify` takes a folder with a subfolder
per class, or images whose file names contain their class and a list of the classes.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from compactdet.arguments import add_format, make_parser
from compactdet.errors import run_main

# Names in compactdet.weights.convert.PREPROCESSING_NAMES; repeated so that --help starts without PyTorch.
IMAGES_AS = ('imagenet', 'halves', 'raw-bgr')


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    commands = parser.add_subparsers(
        dest='command', required=True, metavar='list|get|convert|inspect|verify'
    )

    known = argparse.ArgumentParser(add_help=False)
    known.add_argument(
        '--known', type=Path, metavar='FILE', help='JSON list with your own rows of published weights'
    )
    listed = commands.add_parser(
        'list', help='published weights with publisher, accuracy and address', parents=[known]
    )
    listed.add_argument('pattern', nargs='?', default='*', help='pattern of the arch or the publisher')
    add_format(listed)
    listed.add_argument('--dir', type=Path, default=Path('weights'), help='folder of your weights files')

    get = commands.add_parser('get', help='download published weights and convert them', parents=[known])
    get.add_argument(
        'name', help='a name from `list`, or an arch for its first weights that can be downloaded'
    )
    get.add_argument(
        '--out', type=Path, metavar='DIR', default=Path('weights'), help='folder of your weights files'
    )
    get.add_argument('--keep', action='store_true', help='keep the downloaded file in DIR/downloads')

    convert = commands.add_parser(
        'convert', help='convert a published PyTorch file to a weights file of the suite'
    )
    convert.add_argument('file', help='the published file')
    convert.add_argument('--arch', required=True, help='its network')
    convert.add_argument('--out', required=True, help='output file, .safetensors')
    convert.add_argument('--top1', type=float, help='its published top-1 accuracy in percent')
    convert.add_argument('--top5', type=float, help='its published top-5 accuracy in percent')
    convert.add_argument('--data', help='data set of its training, if not that of the file format')
    convert.add_argument(
        '--tensorflow',
        action='store_true',
        help="trained in TensorFlow (timm's tf_...): use its padding and BN epsilon",
    )
    convert.add_argument(
        '--images-as', choices=IMAGES_AS, help='preprocessing, if not that of the file or its format'
    )

    inspect = commands.add_parser('inspect', help='show the content of a weights file')
    inspect.add_argument('file')

    verify = commands.add_parser('verify', help='measure top-1 and top-5 accuracy on a folder of images')
    verify.add_argument('file')
    verify.add_argument('--images', required=True, metavar='FOLDER')
    verify.add_argument(
        '--class-index', metavar='FILE', help='lines of `NUMBER NAME` (default: class_index*.txt in FOLDER)'
    )
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    """Run a command."""
    # here: --help starts without loading PyTorch
    from backbones.weights import file_sha256
    from compactdet.weights.catalog import find_weights, read_catalog, select_weights, to_json
    from compactdet.weights.convert import PREPROCESSING_NAMES, PublishedFacts, convert_file
    from compactdet.weights.display import inspect_file, print_catalog
    from compactdet.weights.download import download_weights
    from compactdet.weights.formats import TENSORFLOW
    from compactdet.weights.verify import accuracy, classes_in, find_images

    if args.command == 'list':
        rows = [to_json(row, args.dir) for row in select_weights(read_catalog(args.known), args.pattern)]
        print(json.dumps(rows, indent=1)) if args.format == 'json' else print_catalog(rows)
    elif args.command == 'get':
        row = find_weights(read_catalog(args.known), args.name)
        out = args.out / f'{row.arch}.safetensors'
        downloaded = download_weights(row, out, keep=args.keep)
        print(f'{out}: {row.name}\nsha256 {file_sha256(out)} (downloaded file: {downloaded})')
    elif args.command == 'convert':
        facts = PublishedFacts(
            top1=args.top1,
            top5=args.top5,
            data=args.data,
            preprocessing=PREPROCESSING_NAMES[args.images_as] if args.images_as else None,
            conventions=TENSORFLOW if args.tensorflow else None,
        )
        info = convert_file(args.file, args.arch, args.out, facts)
        print(f'{args.out}: {info.arch}, from {info.source}\nsha256 {file_sha256(args.out)}')
    elif args.command == 'inspect':
        print(json.dumps(inspect_file(args.file), indent=2))
    else:
        images = find_images(args.images, args.class_index, classes_in(args.file))
        result = accuracy(args.file, images)
        print('top-1 {top1:.2f} %, top-5 {top5:.2f} % of {num_images} images'.format(**result))


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run(parse_args(argv))


if __name__ == '__main__':
    run_main(main)
