"""Losses of training steps, fetched from the device once in an interval."""

from __future__ import annotations

import math
from typing import Any

import torch
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.registry import HOOKS
from torch import Tensor

from compactdet.errors import UserError


@HOOKS.register_module()
class LossHook(RuntimeInfoHook):
    """MMEngine's RuntimeInfoHook that fetches the losses of all steps when they are logged.

    MMEngine's hook copies every loss of every step to the CPU and waits for it each time. Here the losses
    stay on the device until a line is logged, an epoch ends or a checkpoint is saved. The log is the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[int] = []
        self._names: tuple[str, ...] = ()
        self._values: list[Tensor] = []
        self._interval = 50

    def before_train(self, runner: Any) -> None:
        """Take the interval of the log."""
        super().before_train(runner)
        self._interval = next((h.interval for h in runner.hooks if isinstance(h, LoggerHook)), 50)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: dict[str, Tensor] | None = None
    ) -> None:
        """Keep the losses of a step; fetch them before a line is logged."""
        values = dict(outputs or {})
        norm = getattr(runner.optim_wrapper, 'grad_norm', None)
        if norm is not None:
            values['grad_norm'] = norm
        if values:
            if tuple(values) != self._names:
                self.fetch(runner)
            self._names = tuple(values)
            self._steps.append(runner.iter + 1)
            self._values.append(torch.stack([value.detach().float().mean() for value in values.values()]))
        logged = self.every_n_inner_iters(batch_idx, self._interval)
        if logged or self.every_n_train_iters(runner, self._interval) or len(self._steps) >= self._interval:
            self.fetch(runner)

    def fetch(self, runner: Any) -> None:
        """Copy the kept losses into the log.

        Raises:
            UserError: A loss is not finite.
        """
        if not self._steps:
            return
        steps, self._steps = self._steps, []
        rows = torch.stack(self._values).tolist()
        self._values = []
        for step, row in zip(steps, rows, strict=True):
            for name, value in zip(self._names, row, strict=True):
                runner.message_hub.update_scalar(f'train/{name}', value)
                if name == 'loss' and not math.isfinite(value):
                    raise UserError(
                        f'the loss is {value} at iteration {step}: the training diverged; '
                        f'lower optim_wrapper.optimizer.lr; {runner.resume_hint()}'
                    )


def check_losses(runner: Any) -> None:
    """Fetch the losses of the last steps of a training.

    Raises:
        UserError: A loss is not finite.
    """
    for hook in runner.hooks:
        if isinstance(hook, LossHook):
            hook.fetch(runner)
