"""Compose the config of a run from its network, detector and data set, without a config file.

``--arch ghostnet_1x --detector retinanet_fpn --dataset voc07`` gives the config that a leaf config with the
same base configs of ``det_configs/_base_`` and the same wiring would give. A base config for one data set
or detector has its name as a suffix and replaces the general one: ``detectors/frcnn_c4_bccd.py``,
``schedules/1x_retinanet_fpn.py``.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compactdet.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config

BASE_CONFIGS = Path(__file__).parents[3] / 'det_configs' / '_base_'
DETECTORS = ('frcnn_c4', 'frcnn_fpn', 'retinanet_fpn')
CUSTOM = 'custom'
BEST_ON_VAL = {'default_hooks': {'checkpoint': {'save_best': 'voc/ap50_11point', 'rule': 'greater'}}}


@dataclass(frozen=True)
class Recipe:
    """Settings of a run on a data set that are not in the base configs.

    Attributes:
        schedule: The default schedule.
        wiring: Keyword arguments of the wiring function.
        best_on_val: Whether the best checkpoint on val is tested, if the data set has that split.
    """

    schedule: str
    wiring: Mapping[str, Any] = field(default_factory=dict)
    best_on_val: bool = False


# By name of the file in _base_/datasets; a custom data set has none.
RECIPES = {
    'voc07': Recipe('voc07'),
    'coco': Recipe('1x'),
    'coco_600': Recipe('coco_c4'),
    'coco_300': Recipe('coco_c4'),
    'shapes': Recipe('shapes', {'init': None}),
    # Four images with many cells per step suffice for BN statistics, and differ much from ImageNet's.
    'bccd': Recipe('bccd', {'bn_policy': 'train'}, best_on_val=True),
    CUSTOM: Recipe('1x', best_on_val=True),
}


@dataclass(frozen=True)
class Choice:
    """A run by network, detector and data set.

    Attributes:
        schedule: None for the default of the data set.
        data_root: Folder of a custom data set, from which format, splits and classes are read.
    """

    arch: str
    detector: str
    dataset: str
    schedule: str | None = None
    data_root: str | None = None

    @property
    def name(self) -> str:
        """Name of the run folder and of the saved config."""
        data = Path(self.data_root or '.').resolve().name if self.dataset == CUSTOM else self.dataset
        return '_'.join(filter(None, (self.arch, self.detector, data, self.schedule)))


def add_axes(parser: argparse.ArgumentParser) -> None:
    """Add to a parser a config file, or the options of a composed run instead of it."""
    parser.add_argument('config', nargs='?', help='config file')
    axes = parser.add_argument_group('a run without a config file (needs the first three)')
    axes.add_argument('--arch', help='a name from backbones.list_archs()')
    axes.add_argument('--detector', choices=DETECTORS)
    axes.add_argument('--dataset', choices=RECIPES)
    axes.add_argument(
        '--schedule', help='a name from det_configs/_base_/schedules; default: that of the data set'
    )


def pop_axes(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Replace the options of a composed run by a `Choice` in ``args.config``; exit on bad usage."""
    axes = {name: vars(args).pop(name) for name in ('arch', 'detector', 'dataset', 'schedule')}
    needed = [name for name in axes if name != 'schedule']
    if args.config is not None and any(axes.values()):
        parser.error(f'give a config file ({args.config}) or --arch, --detector and --dataset, not both')
    if args.config is None:
        missing = [f'--{name}' for name in needed if not axes[name]]
        if missing:
            parser.error(
                f'give a config file, or --arch, --detector and --dataset ({missing[0]} is missing)'
            )
        if axes['dataset'] == CUSTOM and args.data_root is None:
            parser.error(
                f'--dataset {CUSTOM} needs --data-root, the folder of a data set in VOC or COCO format'
            )
        args.config = Choice(**axes, data_root=args.data_root)


def rate(text: str) -> float:
    """Parse a learning rate."""
    value = float(text)
    if not 0 < value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text} is not positive')
    return value


def composed(choice: Choice) -> Config:
    """Return the config of a choice, with its keys checked.

    Raises:
        UserError: There is no such base config, the network cannot be the backbone of this detector, or a
            custom data set cannot be read.
        UnknownArchError: There is no such network.
        WeightsError: The weights file is that of another network.
    """
    from mmengine.config import Config  # here: --help starts without loading PyTorch

    from backbones import wiring
    from compactdet.config import strict
    from compactdet.data.layout import custom_config

    recipe = RECIPES.get(choice.dataset) or RECIPES[_known(choice.dataset, RECIPES, 'data set')]
    _known(choice.detector, DETECTORS, 'detector')
    try:
        wiring.check_able(choice.arch, choice.detector)
    except ValueError as error:
        raise UserError(str(error)) from error
    content: dict[str, Any] = {}
    for piece in base_configs(choice):
        content.update(strict.read(piece).to_dict())
    if choice.dataset == CUSTOM:
        content.update(custom_config(choice.data_root or '.'))
    cfg = Config(content, cfg_text=f'# {choice}\n', filename=f'{choice.name}.py')
    wire = getattr(wiring, choice.detector)
    model = wire(choice.arch, num_classes=len(_classes(cfg)), **recipe.wiring)
    cfg.merge_from_dict({'model': model})
    if recipe.best_on_val and cfg.get('val_dataloader'):
        cfg.merge_from_dict(BEST_ON_VAL)
    strict.check_keys(cfg)
    return cfg


def _classes(cfg: Config) -> list[str]:
    """Return the classes of a config's data set: from the config, or those of its class."""
    from compactdet.mmdetection import DATASETS

    dataset = cfg.train_dataloader.dataset
    return (dataset.get('metainfo') or DATASETS.get(dataset.type).METAINFO)['classes']


def base_configs(choice: Choice) -> list[Path]:
    """Return the base configs of a run.

    Raises:
        UserError: There is no such schedule, or the checkout is missing.
    """
    if not BASE_CONFIGS.is_dir():
        raise UserError(f'{BASE_CONFIGS}: no such folder; --arch needs the checkout: pip install -e .')
    schedules = [path.stem for path in (BASE_CONFIGS / 'schedules').glob('*.py')]
    general = [name for name in schedules if not name.endswith(DETECTORS)]
    schedule = _known(choice.schedule or RECIPES[choice.dataset].schedule, general, 'schedule')
    family = choice.dataset.partition('_')[0]  # coco_600 and coco_300 are coco
    data = [] if choice.dataset == CUSTOM else [BASE_CONFIGS / 'datasets' / f'{choice.dataset}.py']
    return [
        _made_for(BASE_CONFIGS / 'detectors', choice.detector, family),
        *data,
        _made_for(BASE_CONFIGS / 'schedules', schedule, choice.detector),
        BASE_CONFIGS / 'runtime.py',
    ]


def _made_for(folder: Path, name: str, other: str) -> Path:
    special = folder / f'{name}_{other}.py'
    return special if special.is_file() else folder / f'{name}.py'


def _known(name: str, known: Mapping[str, Any] | list[str] | tuple[str, ...], what: str) -> str:
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=3)
    hint = f'did you mean {" or ".join(near)}?' if near else f'known: {", ".join(sorted(known))}'
    raise UserError(f'no {what} {name!r}; {hint}')
