"""Train a detector, evaluate it on the test split and write WORK_DIR/record.json.

Example:
    python tools/train.py det_configs/menet_frcnn_shapes.py
    python tools/train.py det_configs/menet_frcnn_shapes.py --quick
    python tools/train.py det_configs/menet_frcnn_voc.py --init weights/menet_352_12x1_g8.safetensors
    python tools/train.py --arch ghostnet_1x --detector retinanet_fpn --dataset voc07 --lr 0.0005
    torchrun --nproc-per-node 2 tools/train.py det_configs/menet_frcnn_shapes.py --launcher pytorch

Without a config file, the run is composed from the same base configs as the leaf configs.
"""

import argparse

from compactdet.arguments import make_parser
from compactdet.config.argument_types import parse_lr_choice, positive_int
from compactdet.config.choice import add_config_arguments, resolve_config_arguments
from compactdet.errors import run_main
from compactdet.training.command_line import add_training_options


def parse_args() -> argparse.Namespace:
    """Parse the command line; its options follow MMDetection's conventions."""
    parser = make_parser(__doc__)
    add_config_arguments(parser)
    parser.add_argument(
        '--lr-choice',
        metavar='SPLIT:LR,LR,...',
        help='--lr is the best of these on SPLIT; the protocol then has this rule in place of the rate',
    )
    parser.add_argument(
        '--batch-size',
        type=positive_int,
        metavar='N',
        help='training images per step and process; scales the learning rate',
    )
    parser.add_argument(
        '--quick',
        action='store_true',
        help='trial run: one epoch on the first images of each split; its figures mean nothing',
    )
    add_training_options(parser)
    args = parser.parse_args()
    resolve_config_arguments(parser, args)
    if args.lr_choice is not None:
        try:
            args.lr_choice = parse_lr_choice(args.lr_choice, args.lr)
        except ValueError as error:
            parser.error(f'--lr-choice {error}')
    return args


def main() -> None:
    """Train and print the results, or print the config."""
    args = parse_args()
    # here: --help starts without loading PyTorch
    from compactdet.config.options import TrainOptions
    from compactdet.records import display
    from compactdet.training import train
    from compactdet.training.run_stages import run_training_command

    run_training_command(args, TrainOptions, train.train, train.show, display.show_results)


if __name__ == '__main__':
    run_main(main)
