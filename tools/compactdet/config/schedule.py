"""Changes of a training's schedule: another number of epochs, another batch size."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from mmengine.config import Config

from compactdet.errors import UserError


def set_epochs(cfg: Config, epochs: int) -> None:
    """Scale the whole schedule of a config to a number of epochs, in place.

    The warm-up and the validations keep their share of the training.

    Raises:
        UserError: The config's training is not counted in epochs.
    """
    if 'max_epochs' not in (cfg.get('train_cfg') or {}):
        raise UserError(f'--epochs {epochs}: {cfg.filename} has no train_cfg.max_epochs; omit --epochs')
    before = cfg.train_cfg.max_epochs
    cfg.train_cfg.max_epochs = epochs
    for key in ('val_begin', 'val_interval'):
        if key in cfg.train_cfg:
            cfg.train_cfg[key] = max(1, round(cfg.train_cfg[key] * epochs / before))
    for phase in cfg.get('param_scheduler') or ():
        _scale(phase, epochs, before)


def set_batch_size(cfg: Config, batch_size: int) -> None:
    """Set the number of training images per step and process in a config, in place.

    The learning rate is scaled with the batch size, unless the config forbids it. The warm-up keeps its
    number of images.
    """
    before = cfg.train_dataloader.batch_size
    cfg.train_dataloader.batch_size = batch_size
    if not cfg.get('auto_scale_lr'):
        cfg.auto_scale_lr = dict(enable=True, base_batch_size=before)
    for phase in _phases_in_steps(cfg):
        _scale(phase, before, batch_size)


def limit_warm_up(cfg: Config, steps: int) -> None:
    """Shorten the warm-up of a config to a number of steps, in place."""
    for phase in _phases_in_steps(cfg):
        if phase.get('begin', 0) == 0 and phase.get('end', 0) > steps:
            phase.end = steps


def describe_long_warm_up(cfg: Config, num_steps: int) -> str | None:
    """Return a message if the warm-up is longer than the training of a number of steps; None if not."""
    for index, phase in enumerate(cfg.get('param_scheduler') or ()):
        end = phase.get('end', 0)
        in_steps = not phase.get('by_epoch', True)
        if in_steps and phase.get('begin', 0) == 0 and num_steps < end < math.inf:
            return (
                f'the warm-up of {end} steps is longer than the training of {num_steps}: the learning rate '
                f'never reaches its value; --cfg-options param_scheduler.{index}.end=N shortens it'
            )
    return None


def _phases_in_steps(cfg: Config) -> Iterator[Any]:
    """Yield the parts of the learning rate schedule that are counted in steps, not in epochs."""
    yield from (phase for phase in cfg.get('param_scheduler') or () if not phase.get('by_epoch', True))


def _scale(phase: Any, numerator: int, denominator: int) -> None:
    """Multiply the places of a part of the learning rate schedule by a fraction, in place."""
    in_epochs = phase.get('by_epoch', True)

    def scaled(place: float) -> float:
        new = place * numerator / denominator
        return new if in_epochs else max(1, round(new)) if place else 0

    for key in ('begin', 'end', 'T_max'):
        if key in phase and math.isfinite(phase[key]):
            phase[key] = scaled(phase[key])
    if 'milestones' in phase:
        phase.milestones = [scaled(place) for place in phase.milestones]
        if in_epochs and any(place % 1 for place in phase.milestones):
            phase.convert_to_iter_based = True  # MMEngine skips a milestone inside an epoch
