"""Hook that saves the training states and the best checkpoints, and removes those that are replaced."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import all_gather_object, barrier, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from compactdet.errors import UserError
from compactdet.files import write_whole
from compactdet.training.checkpoints import Position, Progress, StateFile, StateFiles
from compactdet.training.loops import ResumableLoop
from compactdet.training.run_folder import STATE_PREFIXES

REMOVABLE_PREFIXES = (*STATE_PREFIXES, 'best_')
# Temporary files that a killed run may leave.
TEMPORARY_FILES = (
    '*.pth.part', '.last_checkpoint.*.part', '.record.json.*.part', '.weights.safetensors.*.tmp',
)  # fmt: skip


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook that also saves by time, and keeps all files that a resume may need.

    A training state is saved at every interval, ``minutes`` after the last one, before a validation, and
    when a signal to stop came. States off the interval are named ``iter_N.pth`` and removed when the
    training ends. During the training, the second newest state is kept too, and the best checkpoints of
    both. A file is removed only after the one that replaces it was written and read back.

    The best checkpoint is chosen by a metric on the validation split, as by MMEngine's hook.

    Args:
        interval: Epochs between states, or iterations if ``by_epoch`` is False.
        by_epoch: See ``interval``.
        max_keep_ckpts: Number of states at the interval to keep; 0 or less keeps all.
        save_last: Whether to keep the last state.
        save_best: Name or names of the metrics that determine the best checkpoint.
        rule: 'greater' or 'less'; None if MMEngine infers it from the name of the metric.
        greater_keys: Names of metrics of which higher is better.
        less_keys: Names of metrics of which lower is better.
        save_begin: First epoch or iteration of the interval.
        minutes: Longest time between two states.
    """

    def __init__(
        self,
        interval: int = 1,
        by_epoch: bool = True,
        max_keep_ckpts: int = -1,
        save_last: bool = True,
        save_best: str | list[str] | None = None,
        rule: str | list[str] | None = None,
        greater_keys: Sequence[str] | None = None,
        less_keys: Sequence[str] | None = None,
        save_begin: int = 0,
        minutes: float = 10,
    ):
        super().__init__(
            interval=interval,
            by_epoch=by_epoch,
            max_keep_ckpts=max_keep_ckpts,
            save_last=save_last,
            save_best=save_best,
            rule=rule,
            greater_keys=greater_keys,
            less_keys=less_keys,
            save_begin=save_begin,
        )
        self.minutes = minutes
        self.kept: list[StateFile] = []
        self._to_remove: list[str] = []
        self._progress: Progress | None = None
        self._saved_at = time.monotonic()
        self._improved = False  # whether the last validation gave a new best checkpoint

    def restore(self, files: StateFiles) -> None:
        """Restore the list of files from a training state, so that an interrupted removal is completed."""
        self.kept, self._to_remove = files['kept'], files['removed']

    def before_train(self, runner: Any) -> None:
        """Remove the temporary files of a killed run.

        Raises:
            UserError: The training loop cannot resume in the middle of an epoch.
        """
        if not isinstance(runner.train_loop, ResumableLoop):
            raise UserError(
                f'train_cfg: {type(runner.train_loop).__name__} cannot be resumed exactly; '
                'use EpochBasedTrainLoop or IterBasedTrainLoop'
            )
        runner.train_loop.checkpoints = self
        self.out_dir = runner.work_dir
        folder = Path(self.out_dir)
        self.kept = [state for state in self.kept if (folder / state['name']).exists()]
        if is_main_process():
            for pattern in TEMPORARY_FILES:
                for path in folder.glob(pattern):
                    path.unlink()
            _remove(folder, self._to_remove)
        self._saved_at = time.monotonic()

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the loop calls ``step_done`` after all hooks."""

    def after_train_epoch(self, runner: Any) -> None:
        """Do nothing: the loop calls ``epoch_done`` after all hooks."""

    @property
    def last(self) -> str | None:
        """File name of the newest state."""
        return self.kept[-1]['name'] if self.kept else None

    def step_done(self, runner: Any, save_now: bool) -> None:
        """Save the state after a step if it is due at the interval, or if ``save_now``."""
        done = runner.iter
        if not self.by_epoch and self._is_due(done, done == runner.max_iters):
            self.save(runner, f'iter_{done}.pth', periodic=True)
        elif save_now:
            self.save(runner, f'iter_{done}.pth', periodic=False)

    def overdue(self) -> bool:
        """Return True if the last state is older than ``minutes``."""
        return time.monotonic() - self._saved_at >= 60 * self.minutes

    def epoch_done(self, runner: Any) -> None:
        """Save the state after an epoch if it is due at the interval, or if it is the last epoch."""
        if self.by_epoch and self._is_due(runner.epoch, runner.epoch == runner.max_epochs):
            self.save(runner, f'epoch_{runner.epoch}.pth', periodic=True)

    def _is_due(self, done: int, last: bool) -> bool:
        since = done - self.save_begin
        return (self.interval > 0 and since >= 0 and since % self.interval == 0) or (
            last and self.save_last
        )

    def save_if_new(self, runner: Any) -> None:
        """Save the state unless the newest one is of this iteration."""
        if not self.kept or self.kept[-1]['iter'] != runner.iter:
            self.save(runner, f'iter_{runner.iter}.pth', periodic=False)

    def save(self, runner: Any, name: str, periodic: bool) -> None:
        """Write a training state, then remove those that it replaces. All processes must call it.

        Args:
            runner: The runner.
            name: File name.
            periodic: Whether the state is at the interval.

        Raises:
            UserError: The file cannot be written, or a weight is not finite; nothing is removed.
        """
        hub = runner.message_hub.runtime_info
        best = [Path(value).name for key, value in hub.items() if key.startswith('best_ckpt')]
        new: StateFile = {'name': name, 'iter': runner.iter, 'periodic': periodic, 'best': best}
        states = [state for state in self.kept if state['name'] != name] + [new]
        kept = self._states_to_keep(states, recent=2)
        removed = sorted(_file_names(self.kept) - _file_names(kept, 2))
        loop = runner.train_loop
        processes = all_gather_object(loop.process_state())
        position: Position = loop.position()
        self._progress = {
            **position,
            'processes': processes,
            'protocol': runner.protocol,
            'files': {'kept': kept, 'removed': removed},
        }
        try:
            meta = {'epoch': position['epoch'], 'iter': position['iter']}
            runner.save_checkpoint(self.out_dir, name, meta=meta)
        finally:
            self._progress = None
        self.kept = kept
        if is_main_process():
            _remove(Path(self.out_dir), removed)
            write_whole(Path(self.out_dir) / 'last_checkpoint', str(Path(self.out_dir) / name))
        self._saved_at = time.monotonic()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Add the progress to a training state; the best checkpoint has none."""
        if self._progress is not None:
            checkpoint['progress'] = self._progress

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Save the best checkpoint.

        Raises:
            UserError: The validation does not compute the metric of ``save_best``; or as ``save``.
        """
        if self.save_best and metrics and runner.train_loop.is_running:
            self._save_best(runner, metrics)

    def _save_best(self, runner: Any, metrics: dict[str, float]) -> None:
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        hub, several = runner.message_hub, len(self.key_indicators) > 1
        name = f'epoch_{runner.epoch}.pth' if self.by_epoch else f'iter_{runner.iter}.pth'
        meta = {'epoch': runner.epoch, 'iter': runner.iter}
        improved = False
        for metric, rule in zip(self.key_indicators, self.rules, strict=True):
            if metric not in metrics:
                known = ', '.join(sorted(metrics))
                raise UserError(
                    f'default_hooks.checkpoint.save_best is {metric!r}, but the validation computes {known}'
                )
            suffix = f'_{metric}' if several else ''
            score = hub.runtime_info.get(f'best_score{suffix}', self.init_value_map[rule])
            if metrics[metric] is None or not self.is_better_than[metric](metrics[metric], score):
                continue
            improved = True
            best = f'best_{metric}_{name}'.replace('/', '_')
            hub.update_info(f'best_score{suffix}', metrics[metric])
            hub.update_info(f'best_ckpt{suffix}', str(Path(self.out_dir) / best))
            runner.save_checkpoint(
                self.out_dir, best, meta=dict(meta), save_optimizer=False, save_param_scheduler=False
            )
            runner.logger.info(f'{metric} is {metrics[metric]:.4f}, the best so far: {best}')
        self._improved = improved

    def validation_done(self, runner: Any) -> None:
        """Save the state that names a new best checkpoint. The loop calls it after all hooks.

        Raises:
            UserError: As ``save``.
        """
        if self._improved:
            self._improved = False
            newest = self.kept[-1]  # saved before this validation; replaced under the same name
            self.save(runner, newest['name'], newest['periodic'])

    def after_train(self, runner: Any) -> None:
        """Remove all but the states at the interval and the best checkpoints of the newest."""
        kept = self._states_to_keep(self.kept, recent=0) or self.kept[-1:]
        if is_main_process():
            _remove(Path(self.out_dir), sorted(_file_names(self.kept) - _file_names(kept, 1)))
        self.kept = kept
        barrier()

    def _states_to_keep(self, states: list[StateFile], recent: int) -> list[StateFile]:
        """Return the states at the interval, as many as the config keeps, and the ``recent`` newest."""
        periodic = [state for state in states if state['periodic']]
        if self.max_keep_ckpts > 0:
            periodic = periodic[-self.max_keep_ckpts :]
        newest = states[-recent:] if recent else []
        return [state for state in states if state in newest or state in periodic]


def _file_names(states: Sequence[StateFile], recent: int = 0) -> set[str]:
    """Return the names of states, and of the best checkpoints of the ``recent`` newest (0: of all)."""
    return {state['name'] for state in states} | {
        name for state in states[-recent:] for name in state['best']
    }


def _remove(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        # Names come from a checkpoint file, which is untrusted.
        if Path(name).name == name and name.startswith(REMOVABLE_PREFIXES):
            (folder / name).unlink(missing_ok=True)
