"""Trains a detector, evaluates it and leaves WORK_DIR/record.json.

Example:
    python tools/train.py det_configs/menet_frcnn_shapes.py
    python tools/train.py det_configs/menet_frcnn_voc.py --init weights/menet_352_12x1_g8.safetensors
    python tools/train.py --arch ghostnet_1x --detector retinanet_fpn --dataset voc07 --lr 0.0005
    torchrun --nproc-per-node 2 tools/train.py det_configs/menet_frcnn_shapes.py --launcher pytorch

Without a config file the run is composed of the same pieces as the configs are.
"""

import argparse
import shlex
import sys
from pathlib import Path

from compactdet.errors import run_main


def parse_args() -> argparse.Namespace:
    """The command line, in MMDetection's conventions."""
    from mmengine.config import DictAction

    from compactdet.config.compose import add_axes, pop_axes, rate

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_axes(parser)
    parser.add_argument('--work-dir', help="the run's folder; default: work_dirs/NAME_OF_THE_CONFIG")
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='go on from CKPT, or from the last checkpoint in the work dir',
    )
    parser.add_argument('--seed', type=int, help='random seed; default: the config says it')
    parser.add_argument('--data-root', help='folder of the data set; default: the config says it')
    parser.add_argument(
        '--init', metavar='CKPT', help="the backbone's classification weights; 'none': random weights"
    )
    parser.add_argument('--lr', type=rate, help='learning rate, as the schedule would give it')
    parser.add_argument(
        '--lr-choice',
        metavar='SPLIT:LR,LR,...',
        help='--lr was chosen on this split among these; the protocol then holds the rule, not the rate',
    )
    parser.add_argument('--print-config', action='store_true', help='show config and protocol, and end')
    parser.add_argument('--amp', action='store_true', help='mixed precision (CUDA)')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, help='override values: KEY=VALUE ...'
    )
    args = parser.parse_args()
    pop_axes(parser, args)
    if args.lr_choice is not None:
        from compactdet.records.protocol import parse_lr_choice

        try:
            args.lr_choice = parse_lr_choice(args.lr_choice, args.lr)
        except ValueError as error:
            parser.error(f'--lr-choice {error}')
    return args


def main() -> None:
    """Trains and shows the result, or shows what would be trained."""
    args = parse_args()
    from mmengine.dist import is_main_process

    from compactdet import distributed
    from compactdet.records import display
    from compactdet.training import train

    print_config = vars(args).pop('print_config')
    if print_config:
        train.show(train.Options(**vars(args)))
        return
    command = shlex.join(['python', f'tools/{Path(sys.argv[0]).name}', *sys.argv[1:]])
    path = train.train(train.Options(**vars(args), command=command))
    if is_main_process():
        display.show(path)
    distributed.stop()


if __name__ == '__main__':
    run_main(main)
