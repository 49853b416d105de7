"""The axes of a pretraining without a config file, on a command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

DEFAULT_RECIPES = {'imagenet': 'menet'}  # others: 'short'
DATA_SETS = ('imagenet', 'cifar10', 'cifar100', 'svhn', 'mnist', 'folder')


@dataclass(frozen=True)
class PretrainChoice:
    """A pretraining by its axes; None is the default.

    Attributes:
        size: Pixels of the image that the network gets.
    """

    arch: str
    dataset: str
    recipe: str | None = None
    size: int | None = None
    data_root: str | None = None

    @property
    def recipe_name(self) -> str:
        """The recipe, or the data set's default."""
        return self.recipe or DEFAULT_RECIPES.get(self.dataset, 'short')

    @property
    def name(self) -> str:
        """What the run's folder is called."""
        data = Path(self.data_root or '.').resolve().name if self.dataset == 'folder' else self.dataset
        size = f'{self.size}px' if self.size else ''
        return '_'.join(filter(None, ('pretrain', self.arch, data, self.recipe_name, size)))


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Gives a command line a config file, or the axes of a composed run in its place."""
    parser.add_argument('config', nargs='?', help='config file')
    axes = parser.add_argument_group('a run without a config file (needs the first two)')
    axes.add_argument('--arch', help='a name from backbones.list_archs()')
    axes.add_argument('--dataset', choices=DATA_SETS)
    axes.add_argument(
        '--recipe', help='a name from det_configs/_base_/recipes; default: short; imagenet: menet'
    )
    axes.add_argument(
        '--size', type=count, metavar='PX', help="the network's input; default: its own, or 64"
    )


def pop_choice(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Puts the choice that the axes name, if they are given, into ``args.config``; ends on bad usage."""
    choice = {name: vars(args).pop(name) for name in ('arch', 'dataset', 'recipe', 'size')}
    if args.config is not None and any(choice.values()):
        parser.error(f'give a config file ({args.config}) or --arch and --dataset, not both')
    if args.config is None:
        missing = [f'--{name}' for name in ('arch', 'dataset') if not choice[name]]
        if missing:
            parser.error(f'give a config file, or --arch and --dataset ({missing[0]} is missing)')
        if choice['dataset'] == 'folder' and args.data_root is None:
            parser.error('--dataset folder needs --data-root, the folder with train/CLASS and test/CLASS')
        args.config = PretrainChoice(**choice, data_root=args.data_root)


def count(text: str) -> int:
    """A number of things."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text} is no whole number above 0')
    return int(text)
