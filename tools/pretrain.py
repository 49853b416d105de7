"""Train a backbone network for classification; write a weights file for detectors and a record.

Example:
    python tools/pretrain.py --arch menet_108_8x1_g3 --dataset cifar10
    python tools/pretrain.py --arch gmnet_a_cifar --dataset cifar10 --recipe gmnet_augmented
    python tools/pretrain.py det_configs/pretrain/menet_imagenet.py --data-root imagenet
    python tools/train.py det_configs/menet_frcnn_bccd.py --init work_dirs/RUN/weights.safetensors

Requires MMPretrain: pip install -e ".[pretrain]". The data set is in data/NAME or in --data-root: the
authors' files, folders CLASS/FILE, or zip and tar files of such folders, which are read without unpacking.
"""

import argparse

from compactdet.arguments import make_parser
from compactdet.config.argument_types import positive_int
from compactdet.errors import run_main
from compactdet.pretraining.choice import add_config_arguments, resolve_config_arguments
from compactdet.training.command_line import add_training_options


def parse_args() -> argparse.Namespace:
    """Parse the command line; its options are those of tools/train.py where both have them."""
    parser = make_parser(__doc__)
    add_config_arguments(parser)
    parser.add_argument(
        '--hold-out', type=positive_int, metavar='N', help='hold out N training images for validation'
    )
    add_training_options(parser)
    args = parser.parse_args()
    resolve_config_arguments(parser, args)
    return args


def main() -> None:
    """Train and print the results, or print the config."""
    args = parse_args()
    # here: --help starts without loading PyTorch
    from compactdet.pretraining import display, train
    from compactdet.pretraining.options import PretrainOptions
    from compactdet.training.run_stages import run_training_command

    run_training_command(args, PretrainOptions, train.train, train.show, display.show_results)


if __name__ == '__main__':
    run_main(main)
