"""Command-line options that several of the tools train.py, test.py and pretrain.py have."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from compactdet.config.argument_types import CfgOptionsAction, learning_rate, positive_int
from compactdet.config.log_services import SERVICES


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that override values of the config, for training and testing."""
    parser.add_argument('--data-root', help="folder of the data set; default: the config's value")
    parser.add_argument(
        '--init',
        metavar='CKPT',
        help="weights file with the initial weights; 'library': those that timm or torchvision publish for "
        "their network; 'none': random initialization",
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptionsAction,
        default={},
        metavar='KEY=VALUE',
        help='override values of the config',
    )


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of any training, those of ``add_config_options`` included."""
    parser.add_argument('--work-dir', help='run folder; default: work_dirs/NAME_OF_THE_CONFIG')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CKPT',
        help='resume from CKPT, or from the newest training state in the run folder',
    )
    parser.add_argument('--seed', type=int, help="random seed; default: the config's value")
    parser.add_argument(
        '--lr', type=learning_rate, help='learning rate, in place of the schedule or recipe'
    )
    parser.add_argument(
        '--epochs', type=positive_int, help='number of epochs, to which the whole schedule is scaled'
    )
    parser.add_argument('--print-config', action='store_true', help='print config and protocol, then exit')
    parser.add_argument(
        '--precision',
        choices=['fp32', 'tf32', 'bf16', 'fp16'],
        help='precision of the training; default: fp32, with TF32 convolutions on a GPU',
    )
    parser.add_argument(
        '--amp', action='store_const', const='fp16', dest='precision', help='same as --precision fp16'
    )
    parser.add_argument('--threads', type=positive_int, help='number of CPU threads')
    parser.add_argument(
        '--log', nargs='+', default=(), choices=[*SERVICES],
        help='services to which the training also logs its losses and metrics',
    )  # fmt: skip
    parser.add_argument(
        '--cuda-graphs', action='store_true',
        help='capture the training pass of the backbone as CUDA graphs, one for each image shape',
    )  # fmt: skip
    add_config_options(parser)


def command_line() -> str:
    """Return the command line of this process, as the record states it."""
    return shlex.join(['python', f'tools/{Path(sys.argv[0]).name}', *sys.argv[1:]])
