"""Trains a detector, evaluates it and leaves WORK_DIR/record.json.

Example:
    python tools/train.py det_configs/menet_frcnn_shapes.py
    python tools/train.py det_configs/menet_frcnn_voc.py --init weights/menet_352_12x1_g8.safetensors
"""

import argparse
import shlex
import sys
from pathlib import Path

from bench.errors import run_main


def parse_args() -> argparse.Namespace:
    """The command line, in MMDetection's conventions."""
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help="the run's folder; default: work_dirs/CONFIG_NAME")
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
    parser.add_argument('--amp', action='store_true', help='mixed precision (CUDA)')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, help='override values: KEY=VALUE ...'
    )
    return parser.parse_args()


def main() -> None:
    """Trains and shows the result."""
    args = parse_args()
    from bench import report, training

    command = shlex.join(['python', f'tools/{Path(sys.argv[0]).name}', *sys.argv[1:]])
    path = training.train(training.Options(**vars(args), command=command))
    report.show(path)


if __name__ == '__main__':
    run_main(main)
