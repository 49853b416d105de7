"""Console progress of a training run."""

from __future__ import annotations

import time
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from compactdet.console import duration

INTERVAL_S = 10


@HOOKS.register_module()
class ProgressHook(Hook):
    """Print the training step, the loss and the remaining time every ten seconds."""

    priority = 'VERY_LOW'

    def before_train(self, runner: Runner) -> None:
        """Record the start of the training."""
        self._start_time = self._last_print = time.monotonic()
        self._start_iter = runner.iter

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Print a line after ten seconds and after the last step."""
        now, done = time.monotonic(), runner.iter + 1
        last = done == runner.max_iters
        if not is_main_process() or (not last and now - self._last_print < INTERVAL_S):
            return
        self._last_print = now
        left_s = (now - self._start_time) / (done - self._start_iter) * (runner.max_iters - done)
        loss = f' · loss {float(outputs["loss"].detach()):.3f}' if outputs else ''
        epoch = f'epoch {runner.epoch + 1}/{runner.max_epochs} · ' if runner.max_epochs else ''
        print(
            f'{epoch}step {done}/{runner.max_iters}{loss} · {duration(left_s)} left to train',
            flush=True,
        )
