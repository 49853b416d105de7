"""Training loops that resume at the iteration where training stopped, also in the middle of an epoch.

MMEngine's loops start an interrupted epoch again, do not repeat an interrupted validation, and draw
different random numbers after a resume.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from mmengine.dist import all_reduce, get_rank, get_world_size, is_main_process
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from compactdet.errors import UserError
from compactdet.records import environment
from compactdet.training import randomness
from compactdet.training.checkpoints import Position, ProcessState, Progress
from compactdet.training.config_errors import one_line_error
from compactdet.training.hook_state import HookStates
from compactdet.training.loss_hook import check_losses
from compactdet.training.model_checks import unwrap_model
from compactdet.training.signals import Interrupted

# Steps after which several processes agree whether to save or to stop. Each agreement synchronizes them.
AGREE_EVERY = 10


class StateSaver(Protocol):
    """The part of `SafeCheckpointHook` that a loop calls."""

    @property
    def last(self) -> str | None:
        """File name of the newest training state."""

    def overdue(self) -> bool:
        """Return True if the longest time between two states has passed."""

    def save_if_new(self, runner: Any) -> None:
        """Save the state unless it is already saved."""

    def step_done(self, runner: Any, save_now: bool) -> None:
        """Save the state after a step if it is due."""

    def epoch_done(self, runner: Any) -> None:
        """Save the state after an epoch if it is due."""

    def validation_done(self, runner: Any) -> None:
        """Save the state after a validation, and after all hooks, if there is a new best checkpoint."""


class ResumableLoop:
    """Base of both training loops: the position of the training, and the actions after each step.

    Attributes:
        is_running: Whether the training is running.
        batch_sampler: The batch sampler of the training data; see ``compactdet.training.randomness``.
        checkpoints: The hook that saves training states; None if the config has none. The hook sets it.
    """

    checkpoints: StateSaver | None = None

    # Attributes of MMEngine's loops.
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
        self.batch_sampler = randomness.make_resumable(self.dataloader, runner.seed)
        self.is_running = self._stepped = False
        self._sampler_epoch = 0  # the epoch; with an iteration-based loop, the pass through the sampler
        self._batch = 0  # batches of the sampler's epoch that were used
        self._validated = True  # False: a validation may be due
        # Generator states to start from; during a validation, those to restore after it.
        self._generators: dict[str, Any] | None = None
        self._hook_states: HookStates | None = None
        self._restored_hooks: dict[str, Any] | None = None  # None: the training starts
        # Of the parts of the training before this resume.
        self._earlier_wall_s = 0.0
        self._earlier_peak_bytes = 0
        self._start_time = 0.0

    def wall_s(self) -> float:
        """Return the training time in seconds over all resumes, without steps that were lost."""
        return self._earlier_wall_s + (time.monotonic() - self._start_time if self.is_running else 0)

    def peak_memory_bytes(self) -> int:
        """Return the highest memory use over all resumes."""
        return max(self._earlier_peak_bytes, environment.peak_memory_bytes())

    # Content of a training state

    def position(self) -> Position:
        """Return the position of the training."""
        return {
            'epoch': self._epoch,
            'iter': self._iter,
            'turn': self._sampler_epoch,
            'batch': self._batch,
            'batches': len(self.dataloader),
            'validated': self._validated,
            'stopped': self.stop_training,
            'wall_s': self.wall_s(),
            'peak_memory_bytes': self.peak_memory_bytes(),
        }

    def process_state(self) -> ProcessState:
        """Return this process's generators, its hooks' states and, with several processes, its buffers.

        The buffers include BN statistics, which the processes average only after each epoch.
        """
        state: ProcessState = {
            'generators': self._generators or randomness.get_generator_states(),
            'threads': torch.get_num_threads(),
            'torch': str(torch.__version__),
            'hooks': self._hook_states.state() if self._hook_states else {},
        }
        if get_world_size() > 1:
            buffers = unwrap_model(self.runner.model).named_buffers()
            state['buffers'] = {name: value.cpu() for name, value in buffers}
        return state

    def restore(self, progress: Progress) -> None:
        """Restore the position of a training state. MMEngine's runner restores epoch and iteration.

        Raises:
            UserError: The state was saved within an epoch of other batches, or by another version.
        """
        try:
            self._restore(progress)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise UserError(
                f"the checkpoint's progress does not fit this version or model ({error!r}); "
                'use the version that saved it'
            ) from error

    def _restore(self, progress: Progress) -> None:
        if progress['batch'] and progress['batches'] != len(self.dataloader):
            raise UserError(
                f'the checkpoint was saved after {progress["batch"]} of {progress["batches"]} batches, but '
                f'an epoch has {len(self.dataloader)} batches now; use the original number of processes, '
                'batch size and images, or resume from a checkpoint saved after an epoch'
            )
        self._sampler_epoch, self._batch = progress['turn'], progress['batch']
        self._validated = progress['validated']
        self.stop_training = progress.get('stopped', False)
        self._earlier_wall_s = progress['wall_s']
        self._earlier_peak_bytes = progress['peak_memory_bytes']
        processes = progress['processes']
        self._restored_hooks = processes[min(get_rank(), len(processes) - 1)].get('hooks', {})
        if get_rank() < len(processes):
            self._generators = processes[get_rank()]['generators']
            with randomness.preserve_generators():  # an invalid state is found here
                randomness.set_generator_states(self._generators)
        if get_world_size() == len(processes) > 1:
            buffers = dict(unwrap_model(self.runner.model).named_buffers())
            for name, value in processes[get_rank()]['buffers'].items():
                buffers[name].copy_(value)

    # Training

    def run(self) -> torch.nn.Module:
        """Train to the end, and return the model.

        Raises:
            UserError: The loss is not finite, or a checkpoint cannot be written.
            Interrupted: A signal to stop came; the state is saved.
        """
        self.runner.call_hook('before_train')
        self._prepare_hooks()
        self.batch_sampler.set_seed(self.runner.seed)  # the checkpoint's, after a resume
        if self._generators is not None:
            randomness.set_generator_states(self._generators)
            self._generators = None
        self._start_time, self.is_running = time.monotonic(), True
        try:
            with self.runner.signals.deferring(True):
                self._decide_current_val_interval()
                self._validate()  # if it was interrupted
                self._run_remaining()
                if self.checkpoints is not None:
                    self.checkpoints.save_if_new(self.runner)
                self._stop_if_requested()
        finally:
            self._earlier_wall_s, self.is_running = self.wall_s(), False
        self.runner.call_hook('after_train')
        return self.runner.model

    def _prepare_hooks(self) -> None:
        """Restore the states of the hooks, after ``before_train``, and print which cannot be saved.

        Raises:
            UserError: The states do not fit the hooks.
        """
        states = HookStates(self.runner.hooks, unwrap_model(self.runner.model))
        notes = list(states.not_saved)
        if self._restored_hooks is not None:
            if other := sorted({*states.names} ^ self._restored_hooks.keys()):
                notes.append(
                    f'results may differ from an uninterrupted run: {", ".join(other)} has no state in the '
                    'checkpoint, or is not in this run'
                )
            try:
                states.restore(self._restored_hooks)
            except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                raise UserError(
                    f"the checkpoint's states of hooks do not fit this config's hooks ({error!r}); use the "
                    'hooks of the original config'
                ) from error
        if is_main_process():
            for note in notes:
                print(note, flush=True)
        self._hook_states = states

    def _run_remaining(self) -> None:
        raise NotImplementedError

    def _remaining_batches(self, count_from: int | None = None) -> Iterator[tuple[int, Any]]:
        """Return the remaining batches of the sampler's epoch with their numbers."""
        self.batch_sampler.start(self._sampler_epoch, self._batch, count_from)
        return enumerate(self._fetched(iter(self.dataloader)), self._batch)

    def _fetched(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Yield the batches of the data loader.

        A signal to stop ends the wait for a batch of worker processes, which can be endless. Several
        processes stop only after a step, where they agree to.
        """
        may_stop = get_world_size() == 1 and self.dataloader.num_workers > 0
        while True:
            try:
                with self.runner.signals.deferring(not may_stop):
                    batch = next(batches)
            except StopIteration:
                return
            except Interrupted:
                if self.checkpoints is not None and self._iter and self._no_gradients():
                    check_losses(self.runner)
                    self.checkpoints.save_if_new(self.runner)
                raise
            yield batch

    def _no_gradients(self) -> bool:
        """Return True unless gradients are being accumulated, which a checkpoint does not contain."""
        return self._iter % getattr(self.runner.optim_wrapper, '_accumulative_counts', 1) == 0

    def _first_step_errors(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which an exception of this process's first step becomes one line."""
        if self._stepped:
            return contextlib.nullcontext()
        self._stepped = True
        return one_line_error(self.runner, 'the first training step fails')

    def _step_done(self, inside_epoch: bool) -> None:
        """Save the state if it is due, and stop if a signal came; check the losses before both.

        Args:
            inside_epoch: Whether another step follows before any other state is saved.
        """
        hook = self.checkpoints
        stop, save = self._agree_stop_and_save(inside_epoch)
        if stop or not inside_epoch:
            check_losses(self.runner)
        can_save = inside_epoch and self._no_gradients()
        if hook is not None:
            hook.step_done(self.runner, save_now=can_save and (stop or save))
        if stop and can_save:
            raise Interrupted(self.runner.signals.received)

    def _agree_stop_and_save(self, inside_epoch: bool) -> tuple[bool, bool]:
        """Return whether to stop and whether to save; all processes return the same."""
        stop = self.runner.signals.received or 0
        save = self.checkpoints is not None and self.checkpoints.overdue()
        if get_world_size() > 1:
            if inside_epoch and self._iter % AGREE_EVERY:
                return False, False
            requested = torch.tensor([int(stop), int(save)])
            all_reduce(requested, op='max')
            stop, save = int(requested[0]), bool(requested[1])
            self.runner.signals.received = stop or None
        return bool(stop), save

    def _stop_if_requested(self) -> None:
        """Raise Interrupted in all processes if a signal to stop came in any."""
        stop, _ = self._agree_stop_and_save(inside_epoch=False)
        if stop:
            raise Interrupted(self.runner.signals.received)

    def _validate(self) -> None:
        """Validate if it is due. The generators' states are the same after it as before."""
        if self._validated:
            return
        done = self._epoch if isinstance(self, EpochBasedTrainLoop) else self._iter
        last = self._iter >= self._max_iters
        due = done >= self.val_begin and (done % self.val_interval == 0 or last)
        if self.runner.val_loop is not None and due:
            if self.checkpoints is not None:
                self.checkpoints.save_if_new(self.runner)
            self._stop_if_requested()
            self._generators = randomness.get_generator_states()
            with self.runner.signals.deferring(get_world_size() > 1):
                self.runner.val_loop.run()
            randomness.set_generator_states(self._generators)
            self._generators = None
            self._validated = True
            if self.checkpoints is not None:
                self.checkpoints.validation_done(self.runner)
        self._validated = True


@LOOPS.register_module()
class ResumableEpochLoop(ResumableLoop, EpochBasedTrainLoop):
    """MMEngine's EpochBasedTrainLoop that can resume in the middle of an epoch."""

    _max_epochs: int

    def _run_remaining(self) -> None:
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            self._validate()
            stop, _ = self._agree_stop_and_save(inside_epoch=False)
            if stop:
                if self.checkpoints is not None:
                    self.checkpoints.save_if_new(self.runner)
                raise Interrupted(self.runner.signals.received)

    def run_epoch(self) -> None:
        """Train the rest of an epoch."""
        self._sampler_epoch = self._epoch
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for number, batch in self._remaining_batches():
            with self._first_step_errors():
                self.run_iter(number, batch)
            self._batch = number + 1
            self._step_done(inside_epoch=self._batch < len(self.dataloader))
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self._sampler_epoch, self._batch, self._validated = self._epoch, 0, False
        if self.checkpoints is not None:
            self.checkpoints.epoch_done(self.runner)


@LOOPS.register_module()
class ResumableIterLoop(ResumableLoop, IterBasedTrainLoop):
    """MMEngine's IterBasedTrainLoop that resumes with the next samples.

    The random transforms of an image depend on the seed, the iteration and the image.
    """

    def _run_remaining(self) -> None:
        self.dataloader_iterator = None  # MMEngine's, which is not used
        self.runner.call_hook('before_train_epoch')
        while self._iter < self._max_iters and not self.stop_training:
            self._run_pass()
            self._sampler_epoch, self._batch = self._sampler_epoch + 1, 0
        self.runner.call_hook('after_train_epoch')

    def _run_pass(self) -> None:
        """Train the rest of a pass through the sampler, up to the last iteration."""
        for number, batch in self._remaining_batches(count_from=self._iter - self._batch):
            self.runner.model.train()
            with self._first_step_errors():
                self.run_iter(batch)
            self._batch, self._validated = number + 1, False
            self._step_done(inside_epoch=self._iter < self._max_iters)
            self._decide_current_val_interval()
            self._validate()
            if self._iter >= self._max_iters or self.stop_training:
                return
