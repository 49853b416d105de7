"""Convert a network with learned sparsity to its test-time form. Its condensing must be finished.

Example:
    python tools/convert_sparse.py weights/masked.safetensors --out weights/condensenetv2_a.safetensors
    python tools/convert_sparse.py work_dirs/condensenetv2_a_shapes/epoch_3.pth --out converted.pth

A weights file states its form, and `--init` builds the detector accordingly. A converted detector
checkpoint contains only weights, so it cannot be resumed. It needs a config with that form:

    _base_ = ['CONFIG.py']
    model = dict(
        backbone=dict(conventions=dict(sparsity='converted')),
        roi_head=dict(shared_head=dict(conventions=dict(sparsity='converted'))),  # Faster R-CNN C4 only
    )
"""

import argparse
from collections.abc import Sequence

from compactdet.arguments import make_parser
from compactdet.errors import run_main


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('checkpoint', metavar='CKPT', help='weights file or detector checkpoint')
    parser.add_argument('--out', required=True, metavar='FILE', help='the file to write, of the same kind')
    parser.add_argument(
        '--half-classifier',
        action='store_true',
        help="keep only the stronger half of the inputs of a CondenseNet's classifier; changes its outputs",
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Convert the file."""
    args = parse_args(argv)
    # here: --help starts without loading PyTorch
    from compactdet.weights.convert_sparse import convert_to_test_form

    content = convert_to_test_form(args.checkpoint, args.out, half_classifier=args.half_classifier)
    print(f'{args.out}: {content}, test-time form')


if __name__ == '__main__':
    run_main(main)
