"""Weights files: make them from published ones, look inside, measure their accuracy.

    python tools/weights.py convert 108-MENet-8x1-group-3.pth.tar \
        --arch menet_108_8x1_g3 --out weights/menet_108_8x1_g3.safetensors
    python tools/weights.py inspect weights/menet_108_8x1_g3.safetensors
    python tools/weights.py verify weights/menet_108_8x1_g3.safetensors --images imagenet/val

Published files are read without executing code from them. `verify` takes a folder with a sub-folder for
each class, or images that are named for their class and a list of the classes.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict

from backbones.weights import WeightsError, file_sha256, read_weights
from bench.converters import convert_file
from bench.errors import UserError, run_main
from bench.verify import accuracy, find_images


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest='verb', required=True, metavar='convert|inspect|verify')

    convert = verbs.add_parser('convert', help='a published PyTorch file -> a weights file of this suite')
    convert.add_argument('file', help='the published file')
    convert.add_argument('--arch', required=True, help='the network it holds')
    convert.add_argument('--out', required=True, help='the file to write, .safetensors')
    convert.add_argument(
        '--top1', type=float, help='its published ImageNet accuracy in per cent, to be recorded'
    )
    convert.add_argument('--top5', type=float, help='the same for top-5')

    inspect = verbs.add_parser('inspect', help='what a weights file holds')
    inspect.add_argument('file')

    verify = verbs.add_parser('verify', help='top-1 and top-5 accuracy on a folder of images')
    verify.add_argument('file')
    verify.add_argument('--images', required=True, metavar='FOLDER')
    verify.add_argument(
        '--class-index', metavar='FILE', help='lines of `NUMBER NAME` (default: class_index*.txt there)'
    )
    return parser.parse_args(argv)


def inspect_file(file: str) -> None:
    """Prints what a weights file says of itself and what it holds."""
    state_dict, info = read_weights(file)
    no_parameters = ('.running_mean', '.running_var', '.num_batches_tracked')
    summary = asdict(info) | {
        'num_entries': len(state_dict),
        'params': sum(v.numel() for k, v in state_dict.items() if not k.endswith(no_parameters)),
        'sha256': file_sha256(file),
    }
    print(json.dumps(summary, indent=2))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a verb."""
    args = parse_args(argv)
    try:
        if args.verb == 'convert':
            info = convert_file(args.file, args.arch, args.out, top1=args.top1, top5=args.top5)
            print(f'{args.out}: {info.arch}, from {info.source}')
        elif args.verb == 'inspect':
            inspect_file(args.file)
        else:
            result = accuracy(args.file, find_images(args.images, args.class_index))
            print('top-1 {top1:.2f} %, top-5 {top5:.2f} % of {num_images} images'.format(**result))
    except WeightsError as error:
        raise UserError(str(error)) from error


if __name__ == '__main__':
    run_main(main)
