"""Options of a pretraining, and the config that they give."""

from __future__ import annotations

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
        hold_out: Number of training images that are held out for validation.
    """

    config: str | PretrainChoice  # type: ignore[assignment]
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
    if options.hold_out:
        set_hold_out(cfg, options.hold_out)
    if options.init is not None:
        cfg.model.backbone.init = None if options.init == 'none' else options.init
    return cfg


def set_hold_out(cfg: Config, number: int) -> None:
    """Hold out training images and validate on them after every epoch; no checkpoint is chosen by it."""
    cfg.train_dataloader.dataset.hold_out = number
    cfg.val_dataloader = dict(
        cfg.test_dataloader, dataset=dict(cfg.test_dataloader.dataset, split='val', hold_out=number)
    )
    cfg.val_evaluator = cfg.test_evaluator
    cfg.val_cfg = dict(type='ValLoop')
