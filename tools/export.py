"""Export a backbone, a classifier or a detector to ONNX, and verify it against PyTorch.

Example:
    python tools/export.py work_dirs/menet_frcnn_shapes --out menet_shapes.onnx
    python tools/export.py work_dirs/menet_frcnn_shapes --int8 --calibrate images --evaluate --out x.onnx
    python tools/export.py --arch mobilenetv2_1x --init weights/mobilenetv2_1x.safetensors --out net.onnx

Batch normalization is folded, learned sparsity has its test-time form, and a detector includes its
non-maximum suppression. Nothing is written if ONNX Runtime gives other outputs than PyTorch. Needs
pip install -e ".[export]".
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compactdet.arguments import make_parser
from compactdet.console import print_next
from compactdet.errors import UserError, run_main


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('run_dir', nargs='?', type=Path, help='folder of a finished run of tools/train.py')
    parser.add_argument('--arch', help='a name from backbones.list_archs(), instead of a run')
    parser.add_argument(
        '--what',
        choices=('backbone', 'classifier', 'detector'),
        help='default: detector of a run, classifier of an arch',
    )
    parser.add_argument('--init', type=Path, metavar='FILE', help='weights file; default: random weights')
    parser.add_argument(
        '--size',
        type=int,
        nargs='+',
        metavar='PX',
        help="height and width of the image, or one side; default: the run's or the network's",
    )
    parser.add_argument('--dynamic', action='store_true', help='the file takes images of any size')
    parser.add_argument('--int8', action='store_true', help='quantize; needs --calibrate')
    parser.add_argument(
        '--calibrate', type=Path, metavar='FOLDER', help='images from which value ranges are taken'
    )
    parser.add_argument(
        '--evaluate',
        nargs='?',
        const=Path(),
        type=Path,
        metavar='FOLDER',
        help='with --int8: measure accuracy and latency of float32 and int8; a detector on the test split '
        'of its run, a classifier on a folder of labeled images',
    )
    parser.add_argument('--out', type=Path, required=True, metavar='FILE.onnx')
    args = parser.parse_args()
    if (args.run_dir is None) == (args.arch is None):
        parser.error('give either a run folder or --arch')
    args.what = args.what or ('detector' if args.arch is None else 'classifier')
    if (args.what == 'detector') != (args.arch is None):
        parser.error('a detector is exported from a run folder, a backbone or classifier with --arch')
    if args.init is not None and args.arch is None:
        parser.error('--init goes with --arch; a run has its own weights')
    if args.size is not None and (len(args.size) > 2 or min(args.size) < 32):
        parser.error('--size takes one or two sides of at least 32 pixels')
    if args.int8 != (args.calibrate is not None):
        parser.error('--int8 and --calibrate go together')
    if args.evaluate is not None:
        check_evaluate(parser, args)
    return args


def check_evaluate(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """End with an error if --evaluate does not fit the other options."""
    if not args.int8 or args.what == 'backbone':
        parser.error('--evaluate goes with --int8, for a detector or a classifier')
    if (args.what == 'classifier') != (args.evaluate != Path()):
        parser.error('--evaluate takes a folder of labeled images for a classifier, none for a detector')
    if args.what == 'classifier' and args.init is None:
        parser.error('--evaluate needs --init: random weights have no accuracy')


def main() -> None:
    """Export and print what was written."""
    args = parse_args()
    from compactdet.deploy import onnx_export  # here: loads PyTorch
    from compactdet.files import check_writable

    if args.out.suffix != '.onnx':
        raise UserError(f"--out '{args.out}' must end in .onnx")
    check_writable(args.out)
    size = None if args.size is None else (args.size[0], args.size[-1])
    if args.what == 'detector':
        exportable = onnx_export.detector(args.run_dir, size, args.dynamic)
    else:
        exportable = onnx_export.classification_network(args.what, args.arch, args.init, size, args.dynamic)
    evaluate = None
    if args.evaluate is not None:
        from compactdet.deploy import int8_accuracy  # here: only --evaluate needs it

        source = args.run_dir or args.evaluate

        def evaluate(models: Mapping[str, bytes]) -> Mapping[str, Any]:
            return int8_accuracy.compare(exportable, models, source).as_metadata()

    metadata = onnx_export.export(exportable, args.out, args.calibrate, evaluate)
    shown = metadata['size'] if args.dynamic else 'x'.join(map(str, metadata['size']))
    megabytes = args.out.stat().st_size / 1e6
    print(f'{args.out}: {metadata["what"]} {metadata["arch"]}, images of {shown}, {megabytes:.1f} MB')
    print(f'input: image, (1, 3, height, width) float32, {metadata["input"]}')
    if args.int8:
        print_int8(metadata)
    print(f'outputs: {", ".join(exportable.outputs)}; opset {metadata["opset"]}')
    tested = ('test', args.run_dir, '--backend', 'onnxruntime', '--model', args.out)
    measured = ('latency', args.out, '--backends', 'onnxruntime', '--json', 'latency.json')
    print_next(*([tested] if args.run_dir and args.dynamic else []), measured)


def print_int8(metadata: Mapping[str, Any]) -> None:
    """Print what quantization changes."""
    print(f'int8, calibrated on {metadata["calibration_images"]} images')
    if metadata['what'] != 'detector':
        print(f'outputs differ by {metadata["int8_difference"]:.1%} of their largest value')
    found = metadata.get('int8_accuracy')
    if found is None:
        print('its accuracy is not known: measure it with --evaluate before you use it')
        return
    ratio = found['latency_ratio']
    print(
        f'{found["metric"]} on {found["num_images"]} images: float32 {found["float32"]:.1f}, int8 '
        f'{found["int8"]:.1f}'
    )
    print(
        f'latency, int8 over float32: {ratio["value"]:.2f} ({ratio["low"]:.2f} to {ratio["high"]:.2f})'
        + ('' if found['undisturbed'] else '; not usable, the machine was disturbed')
    )
    if found['loss'] > found['largest_loss']:
        print(
            f'not recommended: int8 loses {found["loss"]:.1f} points, more than {found["largest_loss"]:g}'
        )


if __name__ == '__main__':
    run_main(main)
