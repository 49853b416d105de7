"""Training loops that go on from where they were killed, in the middle of an epoch too.

MMEngine's own start the interrupted epoch again, do not repeat a validation that was cut short, and draw
other random numbers than before.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size
from mmengine.model import is_model_wrapper
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from compactdet.errors import UserError
from compactdet.records import environment
from compactdet.training import randomness
from compactdet.training.signals import Interrupted

# Steps after which several processes agree whether to save or to stop: asking each time costs a wait.
AGREE_EVERY = 10


class StateSaver(Protocol):
    """The part of `SafeCheckpointHook` that a loop calls."""

    @property
    def last(self) -> str | None:
        """Name of the newest training state."""

    def overdue(self) -> bool:
        """Return True if the time between two states has passed."""

    def save_if_new(self, runner: Any) -> None:
        """Save the state unless it is already saved."""

    def step_done(self, runner: Any, save_now: bool) -> None:
        """Save the state after a step if it is due."""

    def epoch_done(self, runner: Any) -> None:
        """Save the state after an epoch if it is due."""


class ResumableLoop:
    """What both loops share: where they are, and the end of a step.

    Attributes:
        underway: Whether the training is running.
        batches: Its batches; see ``compactdet.training.randomness``.
        checkpoints: The hook that saves training states; None if the config has none. The hook sets it.
    """

    checkpoints: StateSaver | None = None

    # What MMEngine's loops have.
    runner: Any
    dataloader: Any
    _epoch: int
    _iter: int
    _max_iters: int
    val_begin: int
    val_interval: int
    stop_training: bool
    _decide_current_val_interval: Callable[[], None]

    def __init__(self, runner: Any, dataloader: Any, **kwargs: Any):
        super().__init__(runner, dataloader, **kwargs)  # type: ignore[call-arg]
        self.batches = randomness.make_resumable(self.dataloader, runner.seed)
        self.underway = False
        self._turn = self._batch = 0  # of the order of samples: an epoch, and batches of it that are done
        self._validated = True  # whether no validation is due here
        self._generators: dict[str, Any] | None = None  # to begin with; while validating, to go on with
        self._carried_s = 0.0
        self._carried_peak = 0
        self._started = 0.0

    def wall_s(self) -> float:
        """Seconds of the training, all its parts together; what was lost with a kill is not in it."""
        return self._carried_s + (time.monotonic() - self._started if self.underway else 0)

    def peak_memory_bytes(self) -> int:
        """Highest memory use of all parts of the training."""
        return max(self._carried_peak, environment.peak_memory_bytes())

    # What a state holds

    def position(self) -> dict[str, Any]:
        """Where the training is, for a checkpoint's ``progress``."""
        return {
            'epoch': self._epoch,
            'iter': self._iter,
            'turn': self._turn,
            'batch': self._batch,
            'batches': len(self.dataloader),
            'validated': self._validated,
            'wall_s': self.wall_s(),
            'peak_memory_bytes': self.peak_memory_bytes(),
        }

    def state_of_process(self) -> dict[str, Any]:
        """What each process has of its own: generators, and BN statistics between two averagings."""
        state: dict[str, Any] = {
            'generators': self._generators or randomness.get_state(),
            'threads': torch.get_num_threads(),
            'torch': str(torch.__version__),
        }
        if get_world_size() > 1:
            state['buffers'] = {name: value.cpu() for name, value in self._model().named_buffers()}
        return state

    def go_on(self, progress: dict[str, Any]) -> None:
        """Takes the place of a checkpoint's ``progress``; MMEngine's runner has set epoch and iteration.

        Raises:
            UserError: It is inside an epoch that has other batches here, or of another version.
        """
        try:
            self._take(progress)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"the checkpoint's progress does not fit this version or model ({error!r}); "
                'use the version that made it'
            ) from error

    def _take(self, progress: dict[str, Any]) -> None:
        if progress['batch'] and progress['batches'] != len(self.dataloader):
            raise UserError(
                f'the checkpoint was saved after {progress["batch"]} of {progress["batches"]} batches, and '
                f'an epoch has {len(self.dataloader)} here; use as many processes, images a step and '
                'images as before, or go on from a checkpoint that was saved after an epoch'
            )
        self._turn, self._batch = progress['turn'], progress['batch']
        self._validated = progress['validated']
        self._carried_s = progress['wall_s']
        self._carried_peak = progress['peak_memory_bytes']
        processes = progress['processes']
        if get_rank() < len(processes):
            self._generators = processes[get_rank()]['generators']
            with randomness.held():
                randomness.set_state(self._generators)
        if get_world_size() == len(processes) > 1:
            own = dict(self._model().named_buffers())
            for name, value in processes[get_rank()]['buffers'].items():
                own[name].copy_(value)

    def _model(self) -> torch.nn.Module:
        model = self.runner.model
        return model.module if is_model_wrapper(model) else model

    # The run

    def run(self) -> torch.nn.Module:
        """Trains to the end.

        Raises:
            UserError: The loss is not finite, or a checkpoint cannot be written.
            SystemExit: A signal to stop came; the state is saved.
        """
        self.runner.call_hook('before_train')
        self.batches.reseed(self.runner.seed)  # a resumed training's own
        if self._generators is not None:
            randomness.set_state(self._generators)
            self._generators = None
        self._started, self.underway = time.monotonic(), True
        try:
            with self.runner.signals.deferring(True):
                self._decide_current_val_interval()
                self._validate()  # one that was cut short
                self._run_rest()
                if self.checkpoints is not None:
                    self.checkpoints.save_if_new(self.runner)
                if self._agreed(inside_epoch=False)[0]:
                    raise Interrupted(self.runner.signals.received)
        finally:
            self._carried_s, self.underway = self.wall_s(), False
        self.runner.call_hook('after_train')
        return self.runner.model

    def _run_rest(self) -> None:
        raise NotImplementedError

    def _steps(self, count_from: int | None = None) -> Any:
        """What is left of the epoch, numbered."""
        self.batches.start(self._turn, self._batch, count_from)
        return enumerate(self.dataloader, self._batch)

    def _step_done(self, inside_epoch: bool) -> None:
        """Watches the loss; saves if it is time; stops if it was asked to.

        Args:
            inside_epoch: Whether more steps come before anything else is saved.
        """
        hub, hook = self.runner.message_hub, self.checkpoints
        loss = hub.get_scalar('train/loss').current() if 'train/loss' in hub.log_scalars else 0
        if not math.isfinite(loss):
            raise UserError(
                f'the loss is {loss} at iteration {self._iter}: the training diverged; '
                f'lower optim_wrapper.optimizer.lr; {self.runner.last_state()}'
            )
        stop, save = self._agreed(inside_epoch)
        # Gradients that are still being summed are in no checkpoint.
        whole = self._iter % getattr(self.runner.optim_wrapper, '_accumulative_counts', 1) == 0
        if hook is not None:
            hook.step_done(self.runner, save_now=inside_epoch and whole and (stop or save))
        if stop and inside_epoch and whole:
            raise Interrupted(self.runner.signals.received)

    def _agreed(self, inside_epoch: bool) -> tuple[bool, bool]:
        """Whether to stop and whether to save, the same in all processes."""
        stop = self.runner.signals.received or 0
        save = self.checkpoints is not None and self.checkpoints.overdue()
        if get_world_size() > 1:
            if inside_epoch and self._iter % AGREE_EVERY:
                return False, False
            wish = torch.tensor([int(stop), int(save)])
            all_reduce(wish, op='max')
            stop, save = int(wish[0]), bool(wish[1])
            self.runner.signals.received = stop or None
        return bool(stop), save

    def _validate(self) -> None:
        """Validates if it is due, without a trace in the generators."""
        if self._validated:
            return
        hook, done = self.checkpoints, self._epoch if isinstance(self, EpochBasedTrainLoop) else self._iter
        last = self._iter >= self._max_iters
        due = done >= self.val_begin and (done % self.val_interval == 0 or last)
        if self.runner.val_loop is not None and due:
            if hook is not None:
                hook.save_if_new(self.runner)
            if self._agreed(inside_epoch=False)[0]:
                raise Interrupted(self.runner.signals.received)
            self._validated = True  # for the state that is saved with the best checkpoint
            self._generators = randomness.get_state()
            with self.runner.signals.deferring(get_world_size() > 1):
                self.runner.val_loop.run()
            randomness.set_state(self._generators)
            self._generators = None
        self._validated = True


@LOOPS.register_module()
class ResumableEpochLoop(ResumableLoop, EpochBasedTrainLoop):
    """MMEngine's EpochBasedTrainLoop, which can go on inside an epoch."""

    _max_epochs: int

    def _run_rest(self) -> None:
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            self._validate()
            if self._agreed(inside_epoch=False)[0]:
                if self.checkpoints is not None:
                    self.checkpoints.save_if_new(self.runner)
                raise Interrupted(self.runner.signals.received)

    def run_epoch(self) -> None:
        """Trains what is left of an epoch."""
        self._turn = self._epoch
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for number, batch in self._steps():
            self.run_iter(number, batch)
            self._batch = number + 1
            self._step_done(inside_epoch=self._batch < len(self.dataloader))
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self._turn, self._batch, self._validated = self._epoch, 0, False
        if self.checkpoints is not None:
            self.checkpoints.epoch_done(self.runner)


@LOOPS.register_module()
class ResumableIterLoop(ResumableLoop, IterBasedTrainLoop):
    """MMEngine's IterBasedTrainLoop, which goes on with the samples that come next.

    What happens to an image depends on the seed, the iteration and the image.
    """

    def _run_rest(self) -> None:
        self.dataloader_iterator = None  # MMEngine's, which is not used
        self.runner.call_hook('before_train_epoch')
        while self._iter < self._max_iters and not self.stop_training:
            self._run_turn()
            self._turn, self._batch = self._turn + 1, 0
        self.runner.call_hook('after_train_epoch')

    def _run_turn(self) -> None:
        for number, batch in self._steps(count_from=self._iter - self._batch):
            self.runner.model.train()
            self.run_iter(batch)
            self._batch, self._validated = number + 1, False
            self._step_done(inside_epoch=self._iter < self._max_iters)
            self._decide_current_val_interval()
            self._validate()
            if self._iter >= self._max_iters or self.stop_training:
                return
