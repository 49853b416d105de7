"""When a training saves its state, what is in it, and which files go."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, barrier, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS

from compactdet.errors import UserError
from compactdet.files import write_whole
from compactdet.training.checkpoints import STATE_NAMES
from compactdet.training.loops import ResumableLoop

REMOVABLE = (*STATE_NAMES, 'best_')
LEFTOVERS = ('*.pth.part', '.last_checkpoint.*.part', '.record.json.*.part', '.weights.safetensors.*.tmp')


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """MMEngine's CheckpointHook, which also saves by the clock and never removes what may yet be needed.

    A state is saved at every interval, ``minutes`` after the last one, before a validation and when a
    signal to stop came; states off the interval are named ``iter_N.pth`` and go when the training ends.
    While it goes on, the state before the newest is kept too, and the best checkpoints of both. A file is
    removed only after the one that replaces it was written and read back.

    The best checkpoint by a figure on the validation split is MMEngine's.

    Args:
        interval: Epochs between states, or iterations where ``by_epoch`` is False.
        by_epoch: See ``interval``.
        max_keep_ckpts: Number of states at the interval to keep; all if it is not above 0.
        save_last: Whether the last state is one to keep.
        save_best: Name of the figure, or names, by which the best checkpoint is chosen.
        rule: 'greater' or 'less', or None where MMEngine knows it from the name.
        greater_keys: Names of figures of which more is better.
        less_keys: Names of figures of which less is better.
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
        self.kept: list[dict[str, Any]] = []
        self._progress: dict[str, Any] | None = None
        self._saved_at = time.monotonic()

    def go_on(self, files: dict[str, Any]) -> None:
        """Takes over the states that a resumed training keeps, and ends the removal that was under way."""
        self.kept, self._to_remove = files['kept'], files['removed']

    _to_remove: Sequence[str] = ()

    def before_train(self, runner: Any) -> None:
        """Clears away what a killed run left half-done.

        Raises:
            UserError: The training's loop cannot go on from the middle.
        """
        if not isinstance(runner.train_loop, ResumableLoop):
            raise UserError(
                f'train_cfg: {type(runner.train_loop).__name__} cannot be resumed exactly; '
                'use EpochBasedTrainLoop or IterBasedTrainLoop'
            )
        runner.train_loop.checkpoints = self
        self.out_dir = runner.work_dir
        folder = Path(self.out_dir)
        self.kept = [entry for entry in self.kept if (folder / entry['name']).exists()]
        if is_main_process():
            for pattern in LEFTOVERS:
                for path in folder.glob(pattern):
                    path.unlink()
            _remove(folder, self._to_remove)
        self._saved_at = time.monotonic()

    def after_train_iter(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the loop says when a step is over, hooks and all (``step_done``)."""

    def after_train_epoch(self, runner: Any) -> None:
        """Nothing: see ``epoch_done``."""

    @property
    def last(self) -> str | None:
        """Name of the newest state."""
        return self.kept[-1]['name'] if self.kept else None

    def step_done(self, runner: Any, save_now: bool) -> None:
        """Saves the state in the middle of an epoch, if it is time."""
        done = runner.iter
        if not self.by_epoch and self._due(done, done == runner.max_iters):
            self.save(runner, f'iter_{done}.pth', periodic=True)
        elif save_now:
            self.save(runner, f'iter_{done}.pth', periodic=False)

    def overdue(self) -> bool:
        """Whether the last state is older than ``minutes``."""
        return time.monotonic() - self._saved_at >= 60 * self.minutes

    def epoch_done(self, runner: Any) -> None:
        """Saves the state after an epoch, if it is one of the interval or the last."""
        if self.by_epoch and self._due(runner.epoch, runner.epoch == runner.max_epochs):
            self.save(runner, f'epoch_{runner.epoch}.pth', periodic=True)

    def _due(self, done: int, last: bool) -> bool:
        since = done - self.save_begin
        return (self.interval > 0 and since >= 0 and since % self.interval == 0) or (
            last and self.save_last
        )

    def save_if_new(self, runner: Any) -> None:
        """Saves the state unless the newest one is this: before what takes long or may fail."""
        if not self.kept or self.kept[-1]['iter'] != runner.iter:
            self.save(runner, f'iter_{runner.iter}.pth', periodic=False)

    def save(self, runner: Any, name: str, periodic: bool) -> None:
        """Writes a state, then removes those that it replaces. All processes call it.

        Raises:
            UserError: It cannot be written or the weights are not finite; nothing is removed.
        """
        hub = runner.message_hub.runtime_info
        best = [Path(value).name for key, value in hub.items() if key.startswith('best_ckpt')]
        entry = {'name': name, 'iter': runner.iter, 'periodic': periodic, 'best': best}
        entries = [one for one in self.kept if one['name'] != name] + [entry]
        kept = self._worth_keeping(entries, recent=2)
        removed = sorted(_files(self.kept) - _files(kept, 2))
        loop = runner.train_loop
        everyone = all_gather_object(loop.state_of_process())
        self._progress = {
            **loop.position(),
            'processes': everyone,
            'protocol': runner.protocol,
            'files': {'kept': kept, 'removed': removed},
        }
        try:
            meta = {'epoch': self._progress['epoch'], 'iter': self._progress['iter']}
            runner.save_checkpoint(self.out_dir, name, meta=meta)
        finally:
            self._progress = None
        self.kept = kept
        if is_main_process():
            _remove(Path(self.out_dir), removed)
            write_whole(Path(self.out_dir) / 'last_checkpoint', str(Path(self.out_dir) / name))
        self._saved_at = time.monotonic()

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        """Puts into a state where it is; a best checkpoint has none."""
        if self._progress is not None:
            checkpoint['progress'] = self._progress

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Saves the best checkpoint and the state that knows of it.

        Raises:
            UserError: The validation gives no such figure; or as ``save``.
        """
        if self.save_best and metrics and runner.train_loop.underway:
            self._save_best(runner, metrics)

    def _save_best(self, runner: Any, metrics: dict[str, float]) -> None:
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        hub, several = runner.message_hub, len(self.key_indicators) > 1
        name = f'epoch_{runner.epoch}.pth' if self.by_epoch else f'iter_{runner.iter}.pth'
        meta = {'epoch': runner.epoch, 'iter': runner.iter}
        better = False
        for figure, rule in zip(self.key_indicators, self.rules, strict=True):
            if figure not in metrics:
                known = ', '.join(sorted(metrics))
                raise UserError(
                    f'default_hooks.checkpoint.save_best is {figure!r}; validation gives {known}'
                )
            suffix = f'_{figure}' if several else ''
            score = hub.runtime_info.get(f'best_score{suffix}', self.init_value_map[rule])
            if metrics[figure] is None or not self.is_better_than[figure](metrics[figure], score):
                continue
            better = True
            best = f'best_{figure}_{name}'.replace('/', '_')
            hub.update_info(f'best_score{suffix}', metrics[figure])
            hub.update_info(f'best_ckpt{suffix}', str(Path(self.out_dir) / best))
            runner.save_checkpoint(
                self.out_dir, best, meta=dict(meta), save_optimizer=False, save_param_scheduler=False
            )
            runner.logger.info(f'{figure} is {metrics[figure]:.4f}, the best so far: {best}')
        if better:
            newest = self.kept[-1]  # the one before this validation: it is replaced
            self.save(runner, newest['name'], newest['periodic'])

    def after_train(self, runner: Any) -> None:
        """Leaves the states that were asked for, and the best of the last."""
        kept = self._worth_keeping(self.kept, recent=0) or self.kept[-1:]
        if is_main_process():
            _remove(Path(self.out_dir), sorted(_files(self.kept) - _files(kept, 1)))
        self.kept = kept
        barrier()

    def _worth_keeping(self, entries: list[dict[str, Any]], recent: int) -> list[dict[str, Any]]:
        periodic = [entry for entry in entries if entry['periodic']]
        if self.max_keep_ckpts > 0:
            periodic = periodic[-self.max_keep_ckpts :]
        newest = entries[-recent:] if recent else []
        return [entry for entry in entries if entry in newest or entry in periodic]


def _files(entries: Sequence[dict[str, Any]], recent: int = 0) -> set[str]:
    """The states, and the best checkpoints of all or the ``recent`` newest."""
    return {entry['name'] for entry in entries} | {
        name for entry in entries[-recent:] for name in entry['best']
    }


def _remove(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        if Path(name).name == name and name.startswith(REMOVABLE):  # what a checkpoint says may be anything
            (folder / name).unlink(missing_ok=True)


def check_processes(progress: dict[str, Any]) -> str | None:
    """What differs from the processes that saved a state, so that bits may too; None where nothing does."""
    then = progress['processes']
    seen = {
        'processes': (len(then), get_world_size()),
        'threads': (then[0]['threads'], torch.get_num_threads()),
        'PyTorch': (then[0]['torch'], str(torch.__version__)),
    }
    differences = [f'{name} {old}, now {new}' for name, (old, new) in seen.items() if old != new]
    return '; '.join(differences) or None
