"""Options that choose a pretraining by network, data set and recipe, without a config file."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from compactdet.config.argument_types import positive_int
from compactdet.config.choice import pop_choice_arguments

DEFAULT_RECIPES = {'imagenet': 'menet'}  # for the other data sets: 'short'
DATA_SETS = ('imagenet', 'cifar10', 'cifar100', 'svhn', 'mnist', 'folder')


@dataclass(frozen=True)
class PretrainChoice:
    """Network, data set and recipe of a pretraining.

    Attributes:
        arch: A name from ``list_archs()``.
        dataset: One of ``DATA_SETS``.
        recipe: A file name from ``det_configs/_base_/recipes``; None is the data set's default.
        size: Side of the network's input in pixels; None is the default for the network and the data set.
        data_root: Folder of the data set; None is ``data/NAME``.
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
        """Name of the run folder."""
        data = Path(self.data_root or '.').resolve().name if self.dataset == 'folder' else self.dataset
        size = f'{self.size}px' if self.size else ''
        return '_'.join(filter(None, ('pretrain', self.arch, data, self.recipe_name, size)))


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config file argument and the options of a `PretrainChoice`."""
    parser.add_argument('config', nargs='?', help='config file')
    group = parser.add_argument_group('a run without a config file (needs the first two)')
    group.add_argument('--arch', help='a name from backbones.list_archs()')
    group.add_argument('--dataset', choices=DATA_SETS)
    group.add_argument(
        '--recipe', help='a name from det_configs/_base_/recipes; default: short; imagenet: menet'
    )
    group.add_argument(
        '--size',
        type=positive_int,
        metavar='PX',
        help="side of the network's input; default: the network's own, at most 64 for small images",
    )


def resolve_config_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Replace the options of a `PretrainChoice` by such a choice in ``args.config``.

    On bad usage, the process ends through ``parser.error``.
    """
    values = pop_choice_arguments(parser, args, ['arch', 'dataset'], ['recipe', 'size'])
    if values is None:
        return
    if values['dataset'] == 'folder' and args.data_root is None:
        parser.error('--dataset folder needs --data-root, the folder with train/CLASS and test/CLASS')
    args.config = PretrainChoice(**values, data_root=args.data_root)
