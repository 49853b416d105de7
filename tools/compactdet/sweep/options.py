"""The command line of tools/sweep.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compactdet.arguments import add_format
from compactdet.config.choice import DATASET_NAMES, DETECTORS
from compactdet.sweep.grid import EACH, of_axes
from compactdet.sweep.job_runner import usable_cores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give the parser a sweep's options."""
    parser.add_argument('grid', nargs='?', type=Path, help='YAML file of the grid')
    parser.add_argument(
        '--out', type=Path, help='folder of the sweep; default: work_dirs/sweep_NAME_OF_THE_GRID_FILE'
    )
    parser.add_argument('--only', nargs='+', metavar='RUN', help='these runs, and what they need')
    _add_axes(parser.add_argument_group('a grid without a file (a grid file has the same keys)'))
    _add_pretraining(parser.add_argument_group('a pretraining of each network before its detectors'))

    here = parser.add_argument_group('on this machine')
    here.add_argument('--jobs', type=_count, default=1, metavar='N', help='runs at once; default: 1')
    here.add_argument('--threads', type=_count, help='of each run; default: the cores divided by --jobs')
    here.add_argument(
        '--gpus',
        nargs='+',
        default=[],
        metavar='ID',
        help='dealt out to the --jobs in turn; default: not set',
    )
    here.add_argument('--retries', type=int, default=2, help='of a run that dies; default: 2')

    slurm = parser.add_argument_group('on Slurm')
    slurm.add_argument('--slurm', action='store_true', help='submit job arrays instead of running here')
    slurm.add_argument('--slurm-print', action='store_true', help='show the scripts and submit nothing')
    slurm.add_argument(
        '--slurm-options',
        default='',
        metavar='TEXT',
        help='for sbatch, such as "--partition=gpu --gres=gpu:1"',
    )

    ray = parser.add_argument_group('on a Ray cluster (pip install -e ".[cluster]")')
    ray.add_argument(
        '--ray',
        nargs='?',
        const='auto',
        metavar='ADDRESS',
        help='one task a run; default: the running cluster',
    )
    ray.add_argument(
        '--cpus-per-run', type=_count, default=1, metavar='N', help='default: 1; its threads too'
    )
    ray.add_argument('--gpus-per-run', type=float, default=0, metavar='N', help='default: 0')

    plan = parser.add_argument_group('what it will take')
    plan.add_argument(
        '--plan', action='store_true', help='print runs and hours by measured speed; run nothing'
    )
    plan.add_argument(
        '--measured', nargs='+', default=None, metavar='WORK_DIR',
        help='records to take speeds from; default: work_dirs and work_dirs_template',
    )  # fmt: skip
    plan.add_argument('--hardware', metavar='TEXT', help='whose speeds: part of the name of a GPU or CPU')
    plan.add_argument(
        '--measure', type=_count, metavar='N', help='time N training steps of what has no record'
    )
    add_format(plan, what='the plan')
    parser.add_argument('--status', action='store_true', help='show how far a sweep is, and end')


def _add_axes(axes: Any) -> None:
    axes.add_argument('--archs', nargs='+', metavar='ARCH', help='names or patterns: "menet_*"')
    axes.add_argument('--detectors', nargs='+', choices=DETECTORS)
    axes.add_argument('--datasets', nargs='+', choices=DATASET_NAMES)
    axes.add_argument('--seeds', nargs='+', type=int, help='default: 0')
    axes.add_argument(
        '--init', nargs='+', metavar='START',
        help="'none', 'pretraining', or a weights file ({arch} stands for the network's name); "
        "default: the pretraining, if there is one, else the config's weights",
    )  # fmt: skip
    axes.add_argument('--frozen-stages', nargs='+', type=int, metavar='N', help="default: the config's")
    axes.add_argument('--schedule', help="default: the data set's own")
    axes.add_argument('--lr', type=float)
    axes.add_argument('--cfg-options', nargs='+', metavar='KEY=VALUE', help='for every run')
    axes.add_argument('--data-root', nargs='+', type=_root, metavar='SET=DIR', help='folder of a data set')
    axes.add_argument('--amp', action='store_true', help='mixed precision (CUDA)')


def _add_pretraining(group: Any) -> None:
    group.add_argument('--pretrain', metavar='DATASET', help='tools/pretrain.py trains each network on it')
    group.add_argument('--pretrain-recipe', metavar='RECIPE')
    group.add_argument('--pretrain-epochs', type=_count, metavar='N')
    group.add_argument('--pretrain-size', type=_count, metavar='PX')
    group.add_argument(
        '--pretrain-seed', type=_seed, metavar='N', help=f"default: 0 for all; '{EACH}': the detector's own"
    )
    group.add_argument('--pretrain-data-root', metavar='DIR')


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r} is no whole number above 0')
    return int(text)


def _seed(text: str) -> int | str:
    if text != EACH and not text.isdecimal():
        raise argparse.ArgumentTypeError(f'{text!r} is neither a whole number from 0 nor {EACH!r}')
    return EACH if text == EACH else int(text)


def _root(text: str) -> tuple[str, str]:
    name, _, folder = text.partition('=')
    if name not in DATASET_NAMES or not folder:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no SET=DIR with a data set of {", ".join(DATASET_NAMES)}'
        )
    return name, folder


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options of a command line, with the grid of the axes in ``content``; ends on bad usage.

    The value of ``--slurm-options`` may begin with ``--``, unless it is an option of the parser.
    """
    words = list(arguments)
    for index, word in enumerate(words[:-1]):
        following = words[index + 1]
        own = following.partition('=')[0] in parser._option_string_actions
        if word == '--slurm-options' and following.startswith('-') and not own:
            words[index : index + 2] = [f'{word}={following}']
            break
    args = parser.parse_args(words)
    _settle(parser, args)
    return args


def _settle(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Put the grid of the axes, if they are given, into ``args.content``; ends on bad usage."""
    pretrain = of_axes(
        dataset=args.pretrain, recipe=args.pretrain_recipe, epochs=args.pretrain_epochs,
        size=args.pretrain_size, seed=args.pretrain_seed, data_root=args.pretrain_data_root,
    )  # fmt: skip
    if pretrain and not args.pretrain:
        parser.error('the options of a pretraining need --pretrain DATASET')
    args.content = of_axes(
        archs=args.archs, detectors=args.detectors, datasets=args.datasets, seeds=args.seeds,
        init=args.init, frozen_stages=args.frozen_stages, schedule=args.schedule, lr=args.lr,
        cfg_options=args.cfg_options, data_root=dict(args.data_root or ()), amp=args.amp, pretrain=pretrain,
    )  # fmt: skip
    missing = [key for key in ('archs', 'detectors', 'datasets') if key not in args.content]
    if args.grid is not None and args.content:
        parser.error(f'give a grid file ({args.grid}) or its axes and options, not both')
    if args.content and missing:
        parser.error(f'a grid needs --archs, --detectors and --datasets (--{missing[0]} is missing)')
    if args.grid is not None:
        args.out = args.out or Path('work_dirs') / f'sweep_{args.grid.stem}'
    elif args.out is None and not (args.plan and args.content):
        parser.error('name a grid file, or the folder of the sweep: --out work_dirs/sweep_NAME')
    ways = [name for name in ('slurm', 'slurm_print', 'ray', 'plan', 'status') if getattr(args, name)]
    if len(ways) > 1:
        parser.error(f'--{ways[0].replace("_", "-")} or --{ways[1].replace("_", "-")}, not both')
    if args.retries < 0:
        parser.error('--retries cannot be below 0')
    if args.threads is None:
        args.threads = args.cpus_per_run if args.ray else max(1, usable_cores() // args.jobs)
