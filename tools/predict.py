"""Detects in your own images with a trained run: drawn detections and predictions.json.

Example:
    python tools/predict.py work_dirs/menet_frcnn_shapes data/shapes/JPEGImages/test_00000.jpg
    python tools/predict.py work_dirs/menet_frcnn_voc photos --out found --score 0.5

Images are JPEG, PNG or BMP, turned upright where the camera says so. Boxes are x1, y1, x2, y2 in pixels of
the upright image, its top left corner at 0, 0.
"""

import argparse

from compactdet.errors import run_main


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('run_dir', help='folder of a finished run of tools/train.py')
    parser.add_argument('source', metavar='image_or_folder', help='an image, or a folder of images')
    parser.add_argument('--out', help='folder of the results; default: RUN_DIR/predictions')
    parser.add_argument(
        '--score', type=_score, default=0.3, help='least score of a detection (default: 0.3)'
    )
    parser.add_argument('--device', choices=['cpu', 'cuda'], help='default: a GPU where there is one')
    return parser.parse_args()


def _score(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f'{text} is not from 0 to 1')
    return value


def main() -> None:
    """Detects and says where the results lie."""
    args = parse_args()
    from compactdet.training.predict import predict

    out = predict(args.run_dir, args.source, args.out, score=args.score, device=args.device)
    print(f'drawn images and predictions.json: {out}')


if __name__ == '__main__':
    run_main(main)
