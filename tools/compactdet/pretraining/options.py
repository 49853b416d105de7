"""Options of a pretraining, and the config that they give."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mmengine.config import Config

from compactdet.config import strict
from compactdet.config.options import TrainOptions, apply_common_options
from compactdet.errors import UserError
from compactdet.pretraining.choice import PretrainChoice
from compactdet.pretraining.config import compose_config


@dataclass
class PretrainOptions(TrainOptions):
    """Options of a pretraining. None keeps the value of the config.

    Attributes:
        config: A config file, or the choice from which a config is composed.
        epochs: Number of epochs, to which the whole schedule is scaled.
        hold_out: Number of training images that are held out for validation.
    """

    config: str | PretrainChoice  # type: ignore[assignment]
    epochs: int | None = None
    hold_out: int | None = None


def config_from_options(options: PretrainOptions) -> Config:
    """Return the config that the options give, after all checks that do not need the data set.

    Raises:
        UserError: An option or a value of the config cannot be used.
        WeightsError: The initial weights cannot be used.
    """
    choice = options.config
    cfg = compose_config(choice) if isinstance(choice, PretrainChoice) else strict.load(choice)
    if (cfg.get('model') or {}).get('type') != 'mmpretrain.ImageClassifier':
        raise UserError(f'{cfg.filename} is not a pretraining config; train a detector with tools/train.py')
    apply_common_options(cfg, options)
    if options.epochs is not None:
        set_epochs(cfg, options.epochs)
    if options.hold_out:
        set_hold_out(cfg, options.hold_out)
    if options.init is not None:
        cfg.model.backbone.init = None if options.init == 'none' else options.init
    return cfg


def set_epochs(cfg: Config, epochs: int) -> None:
    """Scale the whole schedule of a config to a number of epochs, in place.

    Raises:
        UserError: The config's training is not counted in epochs.
    """
    if 'max_epochs' not in (cfg.get('train_cfg') or {}):
        raise UserError(f'--epochs {epochs}: {cfg.filename} has no train_cfg.max_epochs; omit --epochs')
    factor = epochs / cfg.train_cfg.max_epochs
    cfg.train_cfg.max_epochs = epochs
    for scheduler in cfg.param_scheduler:
        for key in ('begin', 'end', 'T_max'):
            if key in scheduler and math.isfinite(scheduler[key]):
                scheduler[key] = scheduler[key] * factor
        if 'milestones' in scheduler:
            scheduler.milestones = [epoch * factor for epoch in scheduler.milestones]


def set_hold_out(cfg: Config, number: int) -> None:
    """Hold out training images and validate on them after every epoch; no checkpoint is chosen by it."""
    cfg.train_dataloader.dataset.hold_out = number
    cfg.val_dataloader = dict(
        cfg.test_dataloader, dataset=dict(cfg.test_dataloader.dataset, split='val', hold_out=number)
    )
    cfg.val_evaluator = cfg.test_evaluator
    cfg.val_cfg = dict(type='ValLoop')
