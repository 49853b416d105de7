"""What a training says on the console while it runs."""

from __future__ import annotations

import time
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from compactdet.console import duration

EVERY_S = 10


@HOOKS.register_module()
class ProgressHook(Hook):
    """Prints, every ten seconds, how far the training is, its loss and the time left."""

    priority = 'VERY_LOW'

    def before_train(self, runner: Runner) -> None:
        """Notes when the training starts."""
        self._started = self._said = time.monotonic()
        self._first = runner.iter

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Prints a line, if it is time for one."""
        now, done = time.monotonic(), runner.iter + 1
        last = done == runner.max_iters
        if not is_main_process() or (not last and now - self._said < EVERY_S):
            return
        self._said = now
        left_s = (now - self._started) / (done - self._first) * (runner.max_iters - done)
        loss = f' · loss {float(outputs["loss"].detach()):.3f}' if outputs else ''
        epoch = f'epoch {runner.epoch + 1}/{runner.max_epochs} · ' if runner.max_epochs else ''
        print(
            f'{epoch}step {done}/{runner.max_iters}{loss} · {duration(left_s)} left to train',
            flush=True,
        )
