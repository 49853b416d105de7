"""Compose the config of a training from its network, detector and data set, without a config file.

``--arch ghostnet_1x --detector retinanet_fpn --dataset voc07`` gives the config that a leaf config with the
same base configs of ``det_configs/_base_`` and the same wiring would give. A base config for one data set
or detector has its name as a suffix and replaces the general one: ``detectors/frcnn_c4_bccd.py``,
``schedules/1x_retinanet_fpn.py``.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from mmengine.config import Config

from backbones import wiring
from compactdet.config import strict
from compactdet.config.choice import CUSTOM, DATASET_DEFAULTS, DETECTORS, DetectorChoice
from compactdet.data.layout import custom_config
from compactdet.errors import UserError
from compactdet.mmdetection import DATASETS

BASE_CONFIGS = strict.CONFIGS / '_base_'
BEST_ON_VAL = {'default_hooks': {'checkpoint': {'save_best': 'voc/ap50_11point', 'rule': 'greater'}}}


def compose_config(choice: DetectorChoice) -> Config:
    """Return the config of a choice, with its keys checked.

    Raises:
        UserError: There is no such base config, the network cannot be the backbone of this detector, or a
            custom data set cannot be read.
        UnknownArchError: There is no such network.
        WeightsError: The weights file is that of another network.
    """
    check_known(choice.dataset, DATASET_DEFAULTS, 'data set')
    check_known(choice.detector, DETECTORS, 'detector')
    defaults = DATASET_DEFAULTS[choice.dataset]
    try:
        wiring.check_able(choice.arch, choice.detector)
    except ValueError as error:
        raise UserError(str(error)) from error
    content: dict[str, Any] = {}
    for file in base_config_files(choice):
        content.update(strict.read(file).to_dict())
    if choice.dataset == CUSTOM:
        content.update(custom_config(choice.data_root or '.'))
    cfg = Config(content, cfg_text=f'# {choice}\n', filename=f'{choice.name}.py')
    wire = getattr(wiring, choice.detector)
    model = wire(choice.arch, num_classes=len(dataset_classes(cfg)), **defaults.wiring)
    cfg.merge_from_dict({'model': model})
    if defaults.best_on_val and cfg.get('val_dataloader'):
        cfg.merge_from_dict(BEST_ON_VAL)
    strict.check_keys(cfg)
    return cfg


def dataset_classes(cfg: Config) -> list[str]:
    """Return the classes of a config's data set: from the config, or those of the data set class."""
    dataset = cfg.train_dataloader.dataset
    return (dataset.get('metainfo') or DATASETS.get(dataset.type).METAINFO)['classes']


def base_config_files(choice: DetectorChoice) -> list[Path]:
    """Return the base configs of a choice.

    Raises:
        UserError: There is no such schedule, or the checkout is missing.
    """
    if not BASE_CONFIGS.is_dir():
        raise UserError(f'{BASE_CONFIGS}: no such folder; --arch needs the checkout: pip install -e .')
    schedules = [path.stem for path in (BASE_CONFIGS / 'schedules').glob('*.py')]
    schedule = choice.schedule or DATASET_DEFAULTS[choice.dataset].schedule
    check_known(schedule, [name for name in schedules if not name.endswith(DETECTORS)], 'schedule')
    family = choice.dataset.partition('_')[0]  # coco_600 and coco_300 are coco
    data = [] if choice.dataset == CUSTOM else [BASE_CONFIGS / 'datasets' / f'{choice.dataset}.py']
    return [
        _special_or_general(BASE_CONFIGS / 'detectors', choice.detector, family),
        *data,
        _special_or_general(BASE_CONFIGS / 'schedules', schedule, choice.detector),
        BASE_CONFIGS / 'runtime.py',
    ]


def _special_or_general(folder: Path, name: str, suffix: str) -> Path:
    """Return the base config for one data set or detector if there is one, otherwise the general one."""
    special = folder / f'{name}_{suffix}.py'
    return special if special.is_file() else folder / f'{name}.py'


def check_known(name: str, known: Collection[str], kind: str) -> None:
    """Raise UserError if a name is not known.

    Args:
        name: The name.
        known: All names of that kind.
        kind: Noun for the message, such as 'schedule'.

    Raises:
        UserError: The message has similar names, or all names.
    """
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=3)
    hint = f'did you mean {" or ".join(near)}?' if near else f'known: {", ".join(sorted(known))}'
    raise UserError(f'no {kind} {name!r}; {hint}')
