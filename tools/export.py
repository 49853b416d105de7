"""Export a backbone, a classifier or a detector to ONNX, and verify it against PyTorch.

Example:
    python tools/export.py work_dirs/menet_frcnn_shapes --out menet_shapes.onnx
    python tools/export.py work_dirs/menet_frcnn_shapes --int8 --calibrate data/images --out int8.onnx
    python tools/export.py --arch mobilenetv2_1x --init weights/mobilenetv2_1x.safetensors --out net.onnx

Batch normalization is folded, learned sparsity has its test-time form, and a detector includes its
non-maximum suppression. Nothing is written if ONNX Runtime gives other outputs than PyTorch. Needs
pip install -e ".[export]".
"""

import argparse
import shlex
from pathlib import Path

from compactdet.errors import UserError, run_main


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
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
    return args


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
    metadata = onnx_export.export(exportable, args.out, args.calibrate)
    shown = metadata['size'] if args.dynamic else 'x'.join(map(str, metadata['size']))
    megabytes = args.out.stat().st_size / 1e6
    print(f'{args.out}: {metadata["what"]} {metadata["arch"]}, images of {shown}, {megabytes:.1f} MB')
    print(f'input: image, (1, 3, height, width) float32, {metadata["input"]}')
    if args.int8:
        count = metadata['calibration_images']
        print(f'int8, calibrated on {count} images; measure its accuracy before you use it:')
        if args.what == 'detector':
            model = shlex.quote(str(args.out))
            print(f'  python tools/test.py CONFIG CHECKPOINT --backend onnxruntime --model {model}')
        else:
            print(f'  outputs differ by {metadata["int8_difference"]:.1%} of their largest value')
    print(f'outputs: {", ".join(exportable.outputs)}; opset {metadata["opset"]}')


if __name__ == '__main__':
    run_main(main)
