"""Options that choose a training by network, detector and data set, without a config file."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DETECTORS = ('frcnn_c4', 'frcnn_fpn', 'retinanet_fpn')
CUSTOM = 'custom'


@dataclass(frozen=True)
class DatasetDefaults:
    """Settings of a run on a data set that are not in the base configs.

    Attributes:
        schedule: Name of the default schedule.
        wiring: Keyword arguments of the wiring function.
        best_on_val: Whether the best checkpoint on val is tested, if the data set has that split.
    """

    schedule: str
    wiring: Mapping[str, Any] = field(default_factory=dict)
    best_on_val: bool = False


# By name of the base config in _base_/datasets; a custom data set has none.
DATASET_DEFAULTS = {
    # As in the papers' detectors, the weights up to stride 4 stay those of ImageNet.
    'voc07': DatasetDefaults('voc07', {'frozen_stride': 4}),
    'coco': DatasetDefaults('1x', {'frozen_stride': 4}),
    'coco_600': DatasetDefaults('coco_c4', {'frozen_stride': 4}),
    'coco_300': DatasetDefaults('coco_c4', {'frozen_stride': 4}),
    'shapes': DatasetDefaults('shapes', {'init': None}),
    # A batch of four images with many cells suffices for BN statistics, which differ much from ImageNet's.
    'bccd': DatasetDefaults('bccd', {'bn_policy': 'train'}, best_on_val=True),
    CUSTOM: DatasetDefaults('1x', best_on_val=True),
}
DATASET_NAMES = tuple(DATASET_DEFAULTS)


@dataclass(frozen=True)
class DetectorChoice:
    """Network, detector and data set of a training.

    Attributes:
        arch: A name from ``list_archs()``.
        detector: One of `DETECTORS`.
        dataset: One of `DATASET_NAMES`.
        schedule: A file name from ``det_configs/_base_/schedules``; None for the default of the data set.
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


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the config file argument and the options of a `DetectorChoice`."""
    parser.add_argument('config', nargs='?', help='config file')
    group = parser.add_argument_group('a run without a config file (needs the first three)')
    group.add_argument('--arch', help='a name from backbones.list_archs()')
    group.add_argument('--detector', choices=DETECTORS)
    group.add_argument('--dataset', choices=DATASET_NAMES)
    group.add_argument(
        '--schedule', help='a name from det_configs/_base_/schedules; default: that of the data set'
    )


def resolve_config_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Replace the options of a `DetectorChoice` by such a choice in ``args.config``.

    On bad usage, the process ends through ``parser.error``.
    """
    values = pop_choice_arguments(parser, args, ['arch', 'detector', 'dataset'], ['schedule'])
    if values is None:
        return
    if values['dataset'] == CUSTOM and args.data_root is None:
        parser.error(
            f'--dataset {CUSTOM} needs --data-root, the folder of a data set in VOC or COCO format'
        )
    args.config = DetectorChoice(**values, data_root=args.data_root)


def pop_choice_arguments(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    required: Sequence[str],
    optional: Sequence[str],
) -> dict[str, Any] | None:
    """Remove the options of a run without a config file from the parsed arguments.

    On bad usage, the process ends through ``parser.error``.

    Args:
        parser: The parser.
        args: The parsed arguments, with the attribute ``config``.
        required: Names of the options without which the run is not defined.
        optional: Names of the other options.

    Returns:
        The values by name; None if a config file is given.
    """
    values = {name: vars(args).pop(name) for name in (*required, *optional)}
    options = [f'--{name}' for name in required]
    listed = f'{", ".join(options[:-1])} and {options[-1]}'
    if args.config is not None:
        if any(values.values()):
            parser.error(f'give a config file ({args.config}) or {listed}, not both')
        return None
    missing = [f'--{name}' for name in required if not values[name]]
    if missing:
        parser.error(f'give a config file, or {listed} ({missing[0]} is missing)')
    return values
