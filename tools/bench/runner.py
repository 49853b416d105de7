"""MMEngine's runner, made safe and quiet.

Safe: a checkpoint is data, never code, and is never half-written. Quiet: the console shows progress and
results; the environment, the config and every figure are in the run's log file.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, is_main_process, master_only
from mmengine.hooks import Hook, SyncBuffersHook
from mmengine.logging import MMLogger
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import HOOKS, RUNNERS
from mmengine.runner import Runner
from torch import Tensor, nn

from backbones.weights import load_pickle_safely, preprocessing_of
from bench import distributed
from bench.errors import UserError

PROGRESS_EVERY_S = 10


@RUNNERS.register_module()
class SafeRunner(Runner):
    """A Runner whose checkpoints are read without executing code, must fit, and are written whole.

    MMEngine's own falls back to unpickling anything, runs the config text that it finds in a checkpoint
    it resumes from, lets a missing parameter pass with a warning, and writes in place.
    """

    def setup_env(self, env_cfg: dict) -> None:
        """Joins the launcher's processes, on a machine without a GPU too.

        Raises:
            UserError: As ``distributed.start``.
        """
        distributed.start(self._launcher, env_cfg)
        super().setup_env(env_cfg)

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """MMEngine's, but without a device id where there is no GPU."""
        with warnings.catch_warnings():  # new PyTorch has another name for it, which old ones lack
            warnings.filterwarnings('ignore', '`broadcast_buffers` is deprecated', FutureWarning)
            if self.distributed and not torch.cuda.is_available():
                return MMDistributedDataParallel(module=model, broadcast_buffers=False)
            return super().wrap_model(model_wrapper_cfg, model)

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

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Goes on from a checkpoint that a training saved.

        The best checkpoint so far comes along into this run's folder: MMEngine would go on using the other
        run's file, and delete it as soon as there is a better one.

        Raises:
            WeightsError: The file is absent, cut short, or holds code.
            UserError: It is not what a training goes on from, or the best checkpoint is gone.
        """
        read_resumable(filename)
        super().resume(filename, *args, **kwargs)
        if 'best_ckpt' in self.message_hub.runtime_info:
            best = Path(self.message_hub.get_info('best_ckpt'))
            here = Path(self.work_dir) / best.name
            if is_main_process() and not here.exists():
                copy_whole(best if best.exists() else Path(filename).with_name(best.name), here)
            barrier()
            self.message_hub.update_info('best_ckpt', str(here))

    @master_only
    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, meta: dict | None = None, **kwargs: Any
    ) -> None:
        """Writes a checkpoint beside its place, then moves it there.

        Raises:
            UserError: It could not be written; nothing of it is left.
        """
        meta = dict(meta or {}, inputs=inputs_of(unwrapped(self)))
        part = Path(out_dir) / f'{filename}.part'
        try:
            super().save_checkpoint(out_dir, part.name, *args, meta=meta, **kwargs)
            part.replace(part.with_name(filename))
        except (OSError, RuntimeError) as error:  # torch.save turns a full disk into a RuntimeError
            part.unlink(missing_ok=True)
            raise UserError(f'cannot write the checkpoint {part.with_name(filename)}: {error}') from error


def copy_whole(source: Path, target: Path) -> None:
    """Copies a file beside its place, then moves it there.

    Raises:
        UserError: It cannot be read or written; nothing of it is left.
    """
    part = target.with_name(f'{target.name}.part')
    try:
        shutil.copyfile(source, part)
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f'cannot copy {source} to {target}: {error.strerror}') from error


def unwrapped(runner: Runner) -> Any:
    """The runner's detector, without the wrapper of distributed training."""
    return getattr(runner.model, 'module', runner.model)


def read_checkpoint(filename: str | Path) -> dict[str, Any]:
    """Reads a detector's checkpoint without executing anything in it.

    Raises:
        WeightsError: The file is absent, cut short, or holds code.
        UserError: It is not a detector's checkpoint.
    """
    checkpoint = load_pickle_safely(filename)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get('state_dict'), dict):
        raise UserError(f'{filename} is no detector checkpoint: it holds no state_dict')
    if not all(isinstance(value, Tensor) for value in checkpoint['state_dict'].values()):
        raise UserError(f'{filename} is no detector checkpoint: its state_dict holds more than tensors')
    if not isinstance(checkpoint.setdefault('meta', {}), dict):
        raise UserError(f'{filename} is no detector checkpoint: its meta is no dict')
    return checkpoint


def read_resumable(filename: str | Path) -> dict[str, Any]:
    """Reads a checkpoint that a training can go on from, as ``read_checkpoint`` does.

    Raises:
        WeightsError: The file is absent, cut short, or holds code.
        UserError: It is not a detector's checkpoint, or holds no training's state.
    """
    checkpoint = read_checkpoint(filename)
    missing = [key for key in ('optimizer', 'message_hub') if key not in checkpoint]
    missing += [f'meta.{key}' for key in ('epoch', 'iter') if key not in checkpoint['meta']]
    if missing:
        raise UserError(
            f'{filename} is no checkpoint to go on from: it holds no {", ".join(missing)}; '
            'give one that the training saved at an interval (epoch_N.pth)'
        )
    return checkpoint


def check_fit(filename: str | Path, wanted: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Compares two state dicts by names and shapes.

    Raises:
        UserError: They differ; the message lists the first differences and counts them.
    """
    problems = [f'{name} is missing' for name in wanted.keys() - found.keys()]
    problems += [f'{name} is not part of the model' for name in found.keys() - wanted.keys()]
    problems += [
        f'{name} is {tuple(found[name].shape)}, the model has {tuple(wanted[name].shape)}'
        for name in wanted.keys() & found.keys()
        if found[name].shape != wanted[name].shape
    ]
    if problems:
        shown = '; '.join(sorted(problems)[:4])
        raise UserError(
            f'{filename} does not fit this config ({len(problems)} differences): {shown}. '
            'Is it from another arch or another number of classes?'
        )


def inputs_of(model: Any) -> str:
    """How a detector presents images to its network, in words."""
    return f'{preprocessing_of(model.data_preprocessor)}, {model.backbone.conventions}'


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
        """Prints a line, if it is time for one.

        Raises:
            UserError: The loss is not finite.
        """
        if outputs is not None and not math.isfinite(loss := float(outputs['loss'].detach())):
            raise UserError(
                f'the loss is {loss} at iteration {runner.iter + 1}: the training diverged; '
                'lower optim_wrapper.optimizer.lr'
            )
        now, done = time.monotonic(), runner.iter + 1
        last = done == runner.max_iters
        if not is_main_process() or (not last and now - self._said < PROGRESS_EVERY_S):
            return
        self._said = now
        left_s = (now - self._started) / (done - self._first) * (runner.max_iters - done)
        epoch = f'epoch {runner.epoch + 1}/{runner.max_epochs} · ' if runner.max_epochs else ''
        print(
            f'{epoch}step {done}/{runner.max_iters} · loss {loss:.3f} · {duration(left_s)} left to train',
            flush=True,
        )


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, the leading zeros left out."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours} h {minutes:02} min' if hours else f'{minutes}:{seconds:02} min'
