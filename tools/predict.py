"""Detect objects in your own images with a finished run; write the drawn images and predictions.json.

Example:
    python tools/predict.py work_dirs/menet_frcnn_shapes data/shapes/JPEGImages/test_00000.jpg
    python tools/predict.py work_dirs/menet_frcnn_voc photos --out found --score 0.5

Images are JPEG, PNG, BMP or WebP; they are rotated according to their EXIF orientation. Damaged images in a
folder are skipped and listed; the exit status is then 1. Boxes are x1, y1, x2, y2 in pixels of the upright
image, with the origin at its top left corner.
"""

import argparse

from compactdet.arguments import make_parser
from compactdet.errors import run_main


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('run_dir', help='folder of a finished run of tools/train.py')
    parser.add_argument('source', metavar='image_or_folder', help='an image, or a folder of images')
    parser.add_argument('--out', help='folder of the results; default: RUN_DIR/predictions')
    parser.add_argument(
        '--score', type=score_threshold, default=0.3, help='lowest confidence score (default: 0.3)'
    )
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='default: a GPU if there is one')
    return parser.parse_args()


def score_threshold(text: str) -> float:
    """Parse a confidence score, as an argparse type."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text} is not from 0 to 1')
    return value


def main() -> None:
    """Detect objects and print the folder of the results."""
    args = parse_args()
    from compactdet.training.predict import predict  # here: --help starts without loading PyTorch

    out = predict(args.run_dir, args.source, args.out, score=args.score, device=args.device)
    print(f'drawn images and predictions.json: {out}')


if __name__ == '__main__':
    run_main(main)
