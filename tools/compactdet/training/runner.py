"""The runner of training and testing.

The console shows progress and results only. Environment, config and all metrics are in the log file of the
run.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import io
import itertools
import logging
import re
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook, Hook, RuntimeInfoHook, SyncBuffersHook
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from compactdet import distributed
from compactdet.errors import MORE_FILES, UserError
from compactdet.heads import with_batched_heads
from compactdet.heads.detectors import BatchedDataPreprocessor
from compactdet.training.acceleration import fast_optimizer, use_channels_last, with_workers
from compactdet.training.checkpoint_hook import SafeCheckpointHook
from compactdet.training.checkpoint_runner import CheckpointRunner
from compactdet.training.config_errors import DISK_FULL
from compactdet.training.graphs import with_cuda_graphs
from compactdet.training.loops import ResumableEpochLoop, ResumableIterLoop
from compactdet.training.loss_hook import LossHook  # noqa: F401 - registers it
from compactdet.training.progress_hook import ProgressHook  # noqa: F401 - registers it for configs
from compactdet.training.run_folder import check_no_unfinished_run
from compactdet.training.signals import WORKER_DIED, Interrupted, StopSignals, init_worker

RESUMABLE_LOOPS = {'EpochBasedTrainLoop': ResumableEpochLoop, 'IterBasedTrainLoop': ResumableIterLoop}
NO_SHARED_MEMORY = 'unable to allocate shared memory'  # start of PyTorch's message
MORE_SHARED_MEMORY = 'give the run more shared memory (/dev/shm; docker run --shm-size=8g)'


def without_empty_phases(phases: Iterable[Any], epoch_length: int) -> list[Any]:
    """Return the phases of a learning rate schedule that are not shorter than one step.

    A shortened training can have shorter ones, which MMEngine refuses.

    Args:
        phases: Configs of MMEngine's schedulers, or built ones.
        epoch_length: Steps of an epoch.
    """

    def has_step(phase: Any) -> bool:
        if not isinstance(phase, Mapping) or not phase.get('convert_to_iter_based') or 'end' not in phase:
            return True
        begin, end = (int(epoch * epoch_length) for epoch in (phase.get('begin', 0), phase['end']))
        return begin < end

    return [phase for phase in phases if has_step(phase)]


def round_milestones(schedulers: Iterable[Any]) -> None:
    """Round the milestones of learning rate schedules to whole steps, in place.

    Shortening a schedule can put a milestone between two steps, where MMEngine would skip it.
    """
    for scheduler in schedulers:
        if hasattr(scheduler, 'milestones'):
            scheduler.milestones = Counter(round(place) for place in scheduler.milestones.elements())


@RUNNERS.register_module()
class SafeRunner(CheckpointRunner):
    """A Runner with exact resume, safe checkpoints, and one-line errors for what ends a run early."""

    @classmethod
    def from_cfg(cls, cfg: Any) -> SafeRunner:
        """Build a runner from a config.

        Raises:
            UserError: The disk is full.
        """
        try:
            return super().from_cfg(cfg)
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise UserError(f'{error.strerror} in {cfg.work_dir}: free some disk space') from error

    # Environment

    def setup_env(self, env_cfg: dict) -> None:
        """Set up the environment; with a launcher, join its processes, also on a machine without a GPU.

        Raises:
            UserError: As ``distributed.start``.
        """
        distributed.start(self._launcher, env_cfg)
        super().setup_env(env_cfg)
        if env_cfg.get('tf32') is not None:  # otherwise PyTorch's default: convolutions only
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = env_cfg['tf32']

    def set_randomness(self, seed: int | None, *args: Any, **kwargs: Any) -> None:
        """Set the seed of all generators.

        Raises:
            UserError: NumPy does not accept the seed.
        """
        if seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**32):
            raise UserError(f'seed {seed!r} is not an integer from 0 to {2**32 - 1}')
        super().set_randomness(seed, *args, **kwargs)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build MMEngine's logger with a console handler that shows errors only.

        Its file is UTF-8 also where the locale is not; a console escapes what it cannot show.
        """
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            stream = getattr(handler, 'stream', None)
            if isinstance(stream, io.TextIOWrapper):
                encoding = 'utf-8' if isinstance(handler, logging.FileHandler) else None
                stream.reconfigure(encoding=encoding, errors='backslashreplace')
            if type(handler) is logging.StreamHandler:
                handler.setLevel(logging.ERROR)
        return logger

    # Model, data and loops

    def build_model(self, model: nn.Module | dict) -> nn.Module:
        """Build the model: with the batched heads where they equal MMDetection's, and channels last."""
        built = super().build_model(with_batched_heads(model) if isinstance(model, dict) else model)
        return use_channels_last(built, self.cfg.get('optim_wrapper'))

    def build_optim_wrapper(self, optim_wrapper: Any) -> Any:
        """Build the optimizer wrapper: a fused optimizer, and no copy to the CPU in a step."""
        return super().build_optim_wrapper(fast_optimizer(optim_wrapper))

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model for distributed training; without a device id on a machine without a GPU."""
        with warnings.catch_warnings():  # older PyTorch does not have the new argument's name
            warnings.filterwarnings('ignore', '`broadcast_buffers` is deprecated', FutureWarning)
            if self.distributed and not torch.cuda.is_available():
                return MMDistributedDataParallel(module=model, broadcast_buffers=False)
            return super().wrap_model(model_wrapper_cfg, model)

    def _init_model_weights(self) -> None:
        super()._init_model_weights()  # with the same seed in every process
        distributed.seed_by_rank(self.seed)

    def use_datasets(self, datasets: Mapping[str, Any]) -> None:
        """Replace the data set configs by built data sets, by split: 'train', 'val', 'test'."""
        for name, dataset in datasets.items():
            getattr(self, f'_{name}_dataloader')['dataset'] = dataset

    @staticmethod
    def build_dataloader(dataloader: Any, *args: Any, **kwargs: Any) -> DataLoader:
        """Build a data loader whose workers do not end on a signal to the process group.

        With a GPU, it gets worker processes if the config has none.
        """
        if isinstance(dataloader, dict):
            dataloader = with_workers(dataloader)
        with warnings.catch_warnings():  # a slow disk may need more workers than there are cores
            warnings.filterwarnings('ignore', 'This DataLoader will create', UserWarning)
            loader = Runner.build_dataloader(dataloader, *args, **kwargs)
        loader.worker_init_fn = functools.partial(init_worker, worker_init_fn=loader.worker_init_fn)
        return loader

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop; MMEngine's loops are replaced by the resumable ones.

        The images of a batch are stacked in the data loader's workers where the model can read that.
        """
        loader: Any = getattr(self, '_train_dataloader', None)
        preprocessor = getattr(self.model, 'data_preprocessor', None)
        if isinstance(loader, dict) and isinstance(preprocessor, BatchedDataPreprocessor):
            loader = {'collate_fn': {'type': 'stacked_collate'}, **loader}
            self._train_dataloader = loader
        if self.cfg.get('cuda_graphs'):
            with_cuda_graphs(self.model.backbone)
        if isinstance(loop, dict):
            loop = dict(loop)
            kind = loop.pop('type', None) or (
                'EpochBasedTrainLoop' if loop.pop('by_epoch') else 'IterBasedTrainLoop'
            )
            loop['type'] = RESUMABLE_LOOPS.get(getattr(kind, '__name__', kind), kind)
        return super().build_train_loop(loop)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """Build the learning rate schedules: phases of one step or more, milestones at whole steps."""
        if not isinstance(scheduler, Mapping) or 'type' in scheduler:
            phases = [scheduler] if isinstance(scheduler, Mapping) else scheduler or []
            scheduler = without_empty_phases(phases, len(self.train_dataloader))
        built = super().build_param_scheduler(scheduler)
        round_milestones(built if isinstance(built, list) else itertools.chain(*built.values()))
        return built

    def register_hooks(self, *args: Any, **kwargs: Any) -> None:
        """Register the hooks; with several processes, also the averaging of BN statistics."""
        super().register_hooks(*args, **kwargs)
        if self.distributed:
            self.register_hook(SyncBuffersHook())

    def register_hook(self, hook: Hook | dict, priority: Any = None) -> None:
        """Register a hook; `SafeCheckpointHook` and `LossHook` replace MMEngine's.

        Raises:
            UserError: The config of the hook has keys that `SafeCheckpointHook` does not support.
        """
        if isinstance(hook, dict) and hook.get('type') in ('RuntimeInfoHook', RuntimeInfoHook):
            hook = dict(hook, type='LossHook')
        if isinstance(hook, dict) and hook.get('type') in ('CheckpointHook', CheckpointHook):
            known = {*inspect.signature(SafeCheckpointHook).parameters, 'type', 'priority'}
            if unknown := sorted(hook.keys() - known):
                raise UserError(
                    f'default_hooks.checkpoint: remove {", ".join(unknown)}: checkpoints are saved in the '
                    'work dir, under fixed names, with all that a resume needs'
                )
            hook = dict(hook, type='SafeCheckpointHook')
        super().register_hook(hook, priority)

    # Runs

    @functools.cached_property
    def signals(self) -> StopSignals:
        """The handler of the signals to stop."""
        return StopSignals()

    def train(self) -> nn.Module:
        """Train the model, and return it.

        Raises:
            UserError: The run folder has an unfinished training that is not to be resumed; or a data loader
                worker died; or the disk is full; or as the loop.
            SystemExit: A signal to stop came; the exit status is 128 + its number.
        """
        if not self._resume:
            check_no_unfinished_run(Path(self.work_dir))
        with self._one_line_errors(), self._stopping_workers('train', 'val'):
            return super().train()

    def val(self) -> dict[str, float]:
        """Validate, with the errors of ``train``."""
        with self._one_line_errors(), self._stopping_workers('val'):
            return super().val()

    def test(self) -> dict[str, float]:
        """Test, with the errors of ``train``."""
        with self._one_line_errors(), self._stopping_workers('test'):
            return super().test()

    @contextlib.contextmanager
    def _stopping_workers(self, *splits: str) -> Iterator[None]:
        """End the persistent worker processes of data loaders on exit.

        Those that are left when Python ends are asked to by a signal, which they ignore. A worker that
        does not end within PyTorch's time limit, such as one that waits for a disk, is killed.
        """
        try:
            yield
        finally:
            for split in splits:
                loop = getattr(self, f'_{split}_loop')
                iterator = getattr(getattr(loop, 'dataloader', None), '_iterator', None)
                if iterator is not None:
                    loop.dataloader._iterator = None
                    iterator._shutdown_workers()
                    for worker in iterator._workers:
                        worker.kill()

    @contextlib.contextmanager
    def _one_line_errors(self) -> Iterator[None]:
        """Handle signals, and raise UserError for a dead worker process and a full disk."""
        try:
            with self.signals:
                yield
        except Interrupted as stopped:
            self._exit_on_signal(stopped.args[0])
        except RuntimeError as error:
            if NO_SHARED_MEMORY in str(error):
                raise UserError(
                    f"shared memory is full: {MORE_SHARED_MEMORY}, or lower num_workers of the config's "
                    f'data loaders; {self.resume_hint()}'
                ) from error
            # PyTorch's message for a worker process that ended; its cause may have more
            found = re.search(
                r'DataLoader worker .*?(?:is killed by signal: (\w+)|exited(?:.*exit code (\d+))?)',
                str(error.__cause__ if isinstance(error.__cause__, RuntimeError) else error),
            )
            if found is None:
                raise
            if found[1] == 'Terminated':  # stopped with this process, before `init_worker`
                self._exit_on_signal(signal.SIGTERM)
            reason = f' (killed: {found[1]})' if found[1] else ''
            full = found[1] == 'Bus' or found[2] == str(errno.ENOSPC)
            cure = MORE_SHARED_MEMORY if full else 'give the run more memory'
            if found[2] == str(errno.EMFILE):
                cure = MORE_FILES
            raise UserError(
                f"{WORKER_DIED}{reason}: {cure}, or lower num_workers of the config's data loaders; "
                f'{self.resume_hint()}'
            ) from error
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            raise UserError(
                f'{error.strerror} in {self.work_dir}: free some disk space; {self.resume_hint()}'
            ) from error

    def _exit_on_signal(self, number: int) -> NoReturn:
        if is_main_process():
            name, done = signal.Signals(number).name, f'step {self.iter}/{self.max_iters}'
            print(f'error: stopped by {name} at {done}; {self.resume_hint()}', file=sys.stderr)
        raise SystemExit(128 + number) from None
