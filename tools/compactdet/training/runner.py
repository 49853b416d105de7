"""MMEngine's runner, made safe and quiet.

Safe: a checkpoint is data, never code, and is never half-written. Quiet: the console shows progress and
results; the environment, the config and every figure are in the run's log file.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import itertools
import logging
import re
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from mmengine.dist import barrier, broadcast_object_list, is_main_process, master_only
from mmengine.hooks import CheckpointHook, Hook, SyncBuffersHook
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import RUNNERS
from mmengine.runner import BaseLoop, Runner
from torch import nn
from torch.utils.data import DataLoader

from backbones.weights import WeightsError, preprocessing_of
from compactdet import distributed
from compactdet.errors import UserError
from compactdet.training.checkpoint_hook import SafeCheckpointHook, check_processes
from compactdet.training.checkpoints import (
    best_files,
    bring_best,
    check_fit,
    check_protocol,
    newest_valid,
    part_of,
    read_checkpoint,
    read_resumable,
    refuse_later,
    refuse_unfinished,
    settle,
)
from compactdet.training.loops import ResumableEpochLoop, ResumableIterLoop
from compactdet.training.progress_hook import ProgressHook  # noqa: F401 - a name for configs
from compactdet.training.signals import WORKER_DIED, Interrupted, StopSignals, shield_worker

LOOPS_OF = {'EpochBasedTrainLoop': ResumableEpochLoop, 'IterBasedTrainLoop': ResumableIterLoop}
FULL = (errno.ENOSPC, errno.EDQUOT)


def meet_steps(schedulers: Iterable[Any]) -> None:
    """Moves a cut that a shrunken schedule puts between two steps to the nearer; MMEngine skips it."""
    for scheduler in schedulers:
        if hasattr(scheduler, 'milestones'):
            scheduler.milestones = Counter(round(place) for place in scheduler.milestones.elements())


@RUNNERS.register_module()
class SafeRunner(Runner):
    """A Runner whose checkpoints are read without executing code, must fit, and are written whole.

    MMEngine's own falls back to unpickling anything, runs the config text that it finds in a checkpoint
    it resumes from, lets a missing parameter pass with a warning, and writes in place.

    Attributes:
        protocol: Under which it trains; None where nobody said it. A resumed training has to keep it.
    """

    protocol: dict[str, Any] | None = None

    @classmethod
    def from_cfg(cls, cfg: Any) -> SafeRunner:
        """MMEngine's.

        Raises:
            UserError: The disk is full.
        """
        try:
            return super().from_cfg(cfg)
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise UserError(f'{error.strerror} in {cfg.work_dir}: make room') from error

    def setup_env(self, env_cfg: dict) -> None:
        """Joins the launcher's processes, on a machine without a GPU too.

        Raises:
            UserError: As ``distributed.start``.
        """
        distributed.start(self._launcher, env_cfg)
        super().setup_env(env_cfg)

    def set_randomness(self, seed: int | None, *args: Any, **kwargs: Any) -> None:
        """MMEngine's.

        Raises:
            UserError: NumPy takes no such seed.
        """
        if seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**32):
            raise UserError(f'seed {seed!r}: it is a whole number from 0 to {2**32 - 1}')
        super().set_randomness(seed, *args, **kwargs)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """MMEngine's, but without a device id where there is no GPU."""
        with warnings.catch_warnings():  # new PyTorch has another name for it, which old ones lack
            warnings.filterwarnings('ignore', '`broadcast_buffers` is deprecated', FutureWarning)
            if self.distributed and not torch.cuda.is_available():
                return MMDistributedDataParallel(module=model, broadcast_buffers=False)
            return super().wrap_model(model_wrapper_cfg, model)

    def build_param_scheduler(self, scheduler: Any) -> Any:
        """MMEngine's, whose cuts are at whole steps."""
        built = super().build_param_scheduler(scheduler)
        meet_steps(built if isinstance(built, list) else itertools.chain(*built.values()))
        return built

    def register_hooks(self, *args: Any, **kwargs: Any) -> None:
        """MMEngine's, and the averaging of BN statistics where there are several processes."""
        super().register_hooks(*args, **kwargs)
        if self.distributed:
            self.register_hook(SyncBuffersHook())

    def _init_model_weights(self) -> None:
        super()._init_model_weights()  # the same in every process
        distributed.seed_apart(self.seed)

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """MMEngine's logger; its console handler shows warnings only."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                handler.setLevel(logging.ERROR)
        return logger

    def use_datasets(self, datasets: Mapping[str, Any]) -> None:
        """Gives the loaders data sets that are built already: ``{'train': ..., 'test': ...}``."""
        for name, dataset in datasets.items():
            getattr(self, f'_{name}_dataloader')['dataset'] = dataset

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | Callable = 'cpu',
        strict: bool = True,
        revise_keys: list = [(r'^module\.', '')],  # noqa: B006 - the parent's signature
    ) -> dict[str, Any]:
        """Loads a detector's checkpoint.

        Raises:
            WeightsError: The file is absent, cut short, or holds code.
            UserError: The file is no detector checkpoint or does not fit this model.
        """
        checkpoint = read_checkpoint(filename)
        checkpoint['meta'].pop('config', None)  # resume() would execute it
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = unwrapped(self)
        check_fit(filename, model.state_dict(), checkpoint['state_dict'])
        check_inputs(filename, model, checkpoint['meta'])
        model.load_state_dict(checkpoint['state_dict'])
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def register_hook(self, hook: Hook | dict, priority: Any = None) -> None:
        """MMEngine's; its CheckpointHook is replaced by the suite's."""
        if isinstance(hook, dict) and hook.get('type') in ('CheckpointHook', CheckpointHook):
            others = sorted(
                hook.keys() - inspect.signature(SafeCheckpointHook).parameters.keys() - {'type'}
            )
            if others := [name for name in others if name != 'priority']:
                raise UserError(
                    f'default_hooks.checkpoint: leave out {", ".join(others)}: checkpoints lie in the work '
                    'dir, under names of their own, with all that a resume needs'
                )
            hook = dict(hook, type='SafeCheckpointHook')
        super().register_hook(hook, priority)

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """MMEngine's; its loops are replaced by those that go on in the middle of an epoch."""
        if isinstance(loop, dict):
            loop = dict(loop)
            kind = loop.pop('type', None) or (
                'EpochBasedTrainLoop' if loop.pop('by_epoch') else 'IterBasedTrainLoop'
            )
            loop['type'] = LOOPS_OF.get(getattr(kind, '__name__', kind), kind)
        return super().build_train_loop(loop)

    @staticmethod
    def build_dataloader(*args: Any, **kwargs: Any) -> DataLoader:
        """MMEngine's; its workers outlive a signal to stop, which goes to the whole group."""
        with warnings.catch_warnings():  # workers that read from a slow disk may be more than the cores
            warnings.filterwarnings('ignore', 'This DataLoader will create', UserWarning)
            loader = Runner.build_dataloader(*args, **kwargs)
        loader.worker_init_fn = functools.partial(shield_worker, then=loader.worker_init_fn)
        return loader

    @functools.cached_property
    def signals(self) -> StopSignals:
        """The signals to stop that came."""
        return StopSignals()

    def train(self) -> nn.Module:
        """MMEngine's, with a clear line for what ends a training early.

        Raises:
            UserError: The folder holds an unfinished training that is not to be resumed; a worker of a
                data loader died; the disk is full; or as the loop.
            SystemExit: A signal to stop came: status 128 + its number.
        """
        if not self._resume:
            refuse_unfinished(Path(self.work_dir))
        with self._clear_lines():
            return super().train()

    def val(self) -> dict[str, float]:
        """MMEngine's, with the clear lines of ``train``."""
        with self._clear_lines():
            return super().val()

    def test(self) -> dict[str, float]:
        """MMEngine's, with the clear lines of ``train``."""
        with self._clear_lines():
            return super().test()

    @contextlib.contextmanager
    def _clear_lines(self) -> Iterator[None]:
        try:
            with self.signals:
                yield
        except Interrupted as stopped:
            self._stop(stopped.args[0])
        except RuntimeError as error:  # PyTorch's own word for it
            found = re.search(r'DataLoader worker .*?(?:is killed by signal: (\w+)|exited)', str(error))
            if found is None:
                raise
            if found[1] == 'Terminated':  # it was told to stop before it was shielded, as this process was
                self._stop(signal.SIGTERM)
            how = f' (killed: {found[1]})' if found[1] else ''
            cure = 'more shared memory (/dev/shm)' if found[1] == 'Bus' else 'more memory'
            raise UserError(
                f'{WORKER_DIED}{how}: give the run {cure}, or lower num_workers of the '
                f"config's dataloaders; {self.last_state()}"
            ) from error
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise UserError(
                f'{error.strerror} in {self.work_dir}: make room; {self.last_state()}'
            ) from error

    def _stop(self, number: int) -> NoReturn:
        if is_main_process():
            name, done = signal.Signals(number).name, f'step {self.iter}/{self.max_iters}'
            print(f'error: stopped by {name} at {done}; {self.last_state()}', file=sys.stderr)
        raise SystemExit(128 + number) from None

    def last_state(self) -> str:
        """Says how to go on after an error."""
        hooks = [hook for hook in self.hooks if isinstance(hook, SafeCheckpointHook)]
        if not hooks or not hooks[0].last:
            return 'no checkpoint was saved yet'
        return f'{Path(self.work_dir) / hooks[0].last} is whole: --resume goes on from it'

    def load_or_resume(self) -> None:
        """Loads or resumes, once; ``resume`` without ``load_from`` takes the newest valid checkpoint.

        Raises:
            UserError: There are checkpoints, but none is valid; or as ``resume``.
        """
        if self._has_loaded or not self._resume or self._load_from is not None:
            super().load_or_resume()
            return
        found = [newest_valid(Path(self.work_dir)) if is_main_process() else None]
        broadcast_object_list(found)
        if found[0] is not None:
            self.resume(str(found[0]))
        elif is_main_process():
            print(f'no checkpoint in {self.work_dir} yet: starts from the beginning', flush=True)
        self._has_loaded = True

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Goes on from a checkpoint that a training saved, in the middle of an epoch too.

        The best checkpoint so far comes along into this run's folder: MMEngine would go on using the other
        run's file, and delete it as soon as there is a better one.

        Raises:
            WeightsError: The file is absent, cut short, or holds code.
            UserError: It is not what a training goes on from, it does not fit this config, its seed or
                protocol is another, the best checkpoint is gone, or the work dir holds later ones.
        """
        checkpoint = read_resumable(filename)
        meta, progress = checkpoint['meta'], checkpoint.get('progress')
        if self._load_from is not None:
            refuse_later(Path(self.work_dir), meta['epoch'], meta['iter'])
        seed = self._randomness_cfg.get('seed')
        try:
            super().resume(filename, *args, **kwargs)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{filename} does not fit this config's optimizer or schedule: {error}"
            ) from error
        if seed is not None and meta.get('seed', seed) != seed:
            raise UserError(
                f'{filename} is of a training with seed {meta["seed"]}, not {seed}; give its seed'
            )
        said = []
        if progress is None:
            said.append('the checkpoint holds no random numbers: another course than without the stop')
        else:
            self.train_loop.go_on(progress)
            if self.protocol and progress.get('protocol'):
                check_protocol(filename, progress, self.protocol)
            for hook in self.hooks:
                if isinstance(hook, SafeCheckpointHook):
                    hook.go_on(progress['files'])
            if differences := check_processes(progress):
                said.append(f'bits may differ from a run without the stop: {differences}')
        if is_main_process():
            bring_best(checkpoint, Path(filename), Path(self.work_dir))
            print('; '.join([f'goes on from {filename}', *said]), flush=True)
        barrier()
        for key, best in best_files(checkpoint).items():
            self.message_hub.update_info(key, str(Path(self.work_dir) / best.name))

    @master_only
    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, meta: dict | None = None, **kwargs: Any
    ) -> None:
        """Writes a checkpoint beside its place, reads it back from the disk, then moves it there.

        Raises:
            UserError: A weight is not finite, or it could not be written; nothing of it is left, and what
                stood in its place is as it was.
        """
        path = Path(out_dir) / filename
        model = unwrapped(self)
        for name, weight in model.named_parameters():
            if not torch.isfinite(weight).all():
                raise UserError(
                    f'{name} is not finite after iteration {self.iter}: the training diverged and {path} '
                    f'is not saved; lower optim_wrapper.optimizer.lr; {self.last_state()}'
                )
        meta = dict(meta or {}, inputs=inputs_of(model))
        part = part_of(path)
        try:
            super().save_checkpoint(out_dir, part.name, *args, meta=meta, **kwargs)
            settle(part, path)
        except (
            OSError,
            RuntimeError,
            WeightsError,
        ) as error:  # torch.save turns a full disk into a RuntimeError
            raise UserError(f'cannot write the checkpoint {path}: {error}; {self.last_state()}') from error
        finally:
            part.unlink(missing_ok=True)


def unwrapped(runner: Runner) -> Any:
    """The runner's detector, without the wrapper of distributed training."""
    return getattr(runner.model, 'module', runner.model)


def inputs_of(model: Any) -> str:
    """How a model presents images to its network, in words; what it does not say is left out."""
    said = []
    if hasattr(model, 'data_preprocessor'):
        said.append(preprocessing_of(model.data_preprocessor))
    if hasattr(model, 'backbone') and hasattr(model.backbone, 'conventions'):
        said.append(model.backbone.conventions)
    return ', '.join(map(str, said))


def check_inputs(filename: str | Path, model: Any, meta: Mapping[str, Any]) -> None:
    """Sees that images will reach a trained detector as they did in its training.

    Raises:
        UserError: The config's data preprocessor is another.
    """
    given = inputs_of(model)
    if meta.get('inputs', given) != given:
        raise UserError(
            f'{filename} was trained with {meta["inputs"]}, but this config gives {given}; '
            "use the config that lies in the run's folder, or the --init of its training"
        )
