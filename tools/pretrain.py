"""Trains a network to classify, and leaves weights that a detector starts from, with a record.

Example:
    python tools/pretrain.py --arch menet_108_8x1_g3 --dataset cifar10
    python tools/pretrain.py --arch gmnet_a_cifar --dataset cifar10 --recipe gmnet_augmented
    python tools/pretrain.py det_configs/pretrain/menet_imagenet.py --data-root imagenet
    python tools/train.py det_configs/menet_frcnn_bccd.py --init work_dirs/RUN/weights.safetensors

Needs MMPretrain: pip install -e ".[pretrain]". The data set lies in data/NAME or in --data-root: the
authors' files, CLASS/FILE in folders, or zip and tar files of them, which are read without unpacking.
"""

import argparse
import shlex
import sys
from pathlib import Path

from compactdet.config.compose import rate
from compactdet.errors import run_main
from compactdet.pretraining.options import add_choice, count, pop_choice


def parse_args() -> argparse.Namespace:
    """The command line, in tools/train.py's conventions."""
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_choice(parser)
    parser.add_argument('--epochs', type=count, help='the whole schedule is stretched or shrunk to them')
    parser.add_argument('--lr', type=rate, help='learning rate, as the recipe would give it')
    parser.add_argument(
        '--hold-out', type=count, metavar='N', help='keep N training images back and validate on them'
    )
    parser.add_argument('--work-dir', help="the run's folder; default: work_dirs/NAME")
    parser.add_argument(
        '--resume', nargs='?', const='auto', help='go on from CKPT, or from the last one in the work dir'
    )
    parser.add_argument('--seed', type=int, help='random seed; default: 0')
    parser.add_argument('--data-root', help='folder of the data set; default: data/NAME')
    parser.add_argument('--init', metavar='CKPT', help='a weights file to start from')
    parser.add_argument('--print-config', action='store_true', help='show config and protocol, and end')
    parser.add_argument('--amp', action='store_true', help='mixed precision (CUDA)')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, help='override values: KEY=VALUE ...'
    )
    args = parser.parse_args()
    pop_choice(parser, args)
    return args


def main() -> None:
    """Trains and shows the result, or shows what would be trained."""
    args = parse_args()
    from mmengine.dist import is_main_process

    from compactdet import distributed
    from compactdet.pretraining import display, train

    print_config = vars(args).pop('print_config')
    if print_config:
        train.show(train.PretrainOptions(**vars(args)))
        return
    command = shlex.join(['python', f'tools/{Path(sys.argv[0]).name}', *sys.argv[1:]])
    path = train.train(train.PretrainOptions(**vars(args), command=command))
    if is_main_process():
        display.show(path)
    distributed.stop()


if __name__ == '__main__':
    run_main(main)
