"""Reading, writing and resuming from checkpoints in MMEngine's runner."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import barrier, broadcast_object_list, is_main_process, master_only
from mmengine.runner import Runner

from backbones.weights import WeightsError
from compactdet.errors import UserError
from compactdet.records.protocol import current_protocol
from compactdet.training.checkpoint_hook import SafeCheckpointHook
from compactdet.training.checkpoints import (
    best_checkpoints,
    read_checkpoint,
    read_training_state,
    temporary_path,
    verify_and_move,
)
from compactdet.training.loss_hook import check_losses
from compactdet.training.model_checks import (
    check_inputs,
    check_same_protocol,
    check_state_dict,
    describe_inputs,
    describe_process_changes,
    unwrap_model,
)
from compactdet.training.run_folder import check_no_later_state, copy_best_checkpoints, newest_valid_state


class CheckpointRunner(Runner):
    """A Runner that reads checkpoints without executing code, checks that they fit, and writes them whole.

    MMEngine's Runner unpickles any object, executes the config text in a checkpoint from which it resumes,
    only warns of missing parameters, and overwrites files in place.

    Attributes:
        protocol: Protocol of the run, which a resumed run has to keep; None if it is not known.
    """

    protocol: dict[str, Any] | None = None

    def resume_hint(self) -> str:
        """Return how to continue after an error."""
        hooks = [hook for hook in self.hooks if isinstance(hook, SafeCheckpointHook)]
        if not hooks or not hooks[0].last:
            return 'no checkpoint was saved yet'
        return f'add --resume to continue from {shlex.quote(str(Path(self.work_dir) / hooks[0].last))}'

    def load_checkpoint(
        self,
        filename: str,
        map_location: str | Callable = 'cpu',
        strict: bool = True,
        revise_keys: list = [(r'^module\.', '')],  # noqa: B006 - the parent's signature
    ) -> dict[str, Any]:
        """Load a detector checkpoint.

        Raises:
            WeightsError: The file is absent, truncated, or contains code.
            UserError: The file is not a detector checkpoint or does not fit this model.
        """
        checkpoint = read_checkpoint(filename)
        checkpoint['meta'].pop('config', None)  # MMEngine's resume() would execute it
        self.call_hook('after_load_checkpoint', checkpoint=checkpoint)
        model = unwrap_model(self.model)
        check_state_dict(filename, model.state_dict(), checkpoint['state_dict'])
        check_inputs(filename, model, checkpoint['meta'])
        model.load_state_dict(checkpoint['state_dict'])
        self._has_loaded = True
        self.logger.info(f'Load checkpoint from {filename}')
        return checkpoint

    def load_or_resume(self) -> None:
        """Load a checkpoint or resume, once. Without ``load_from``, resume from the newest valid state.

        Raises:
            UserError: There are training states, but none is valid; or as ``resume``.
        """
        if self._has_loaded or not self._resume or self._load_from is not None:
            super().load_or_resume()
            return
        found = [newest_valid_state(Path(self.work_dir)) if is_main_process() else None]
        broadcast_object_list(found)
        if found[0] is not None:
            self.resume(str(found[0]))
        elif is_main_process():
            print(f'no checkpoint in {self.work_dir} yet: training starts from the beginning', flush=True)
        self._has_loaded = True

    def resume(self, filename: str, *args: Any, **kwargs: Any) -> None:
        """Resume from a training state, also in the middle of an epoch.

        The best checkpoint so far is copied into this run's folder. MMEngine would use the file of the
        other run, and delete it when there is a better one.

        Raises:
            WeightsError: The file is absent, truncated, damaged, or contains code.
            UserError: The file is not a training state; or it does not fit this config, its seed or its
                protocol; or the best checkpoint is missing; or the run folder has later states.
        """
        checkpoint = read_training_state(filename)
        meta, progress = checkpoint['meta'], checkpoint.get('progress')
        if self._load_from is not None:
            check_no_later_state(Path(self.work_dir), meta['epoch'], meta['iter'])
        seed = self._randomness_cfg.get('seed')
        try:
            super().resume(filename, *args, **kwargs)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{filename} does not fit this config's optimizer or schedule: {error}"
            ) from error
        if seed is not None and meta.get('seed', seed) != seed:
            raise UserError(
                f'{filename} was trained with seed {meta["seed"]}, not {seed}; set --seed to it'
            )
        notes = []
        if progress is None:
            notes.append('the checkpoint has no random states, so results differ from an uninterrupted run')
        else:
            self.train_loop.restore(progress)
            if self.protocol and progress.get('protocol'):
                stored = current_protocol(progress['protocol'], meta.get('cfg', ''), filename)
                check_same_protocol(filename, {**progress, 'protocol': stored}, self.protocol)
            for hook in self.hooks:
                if isinstance(hook, SafeCheckpointHook):
                    hook.restore(progress['files'])
            if changes := describe_process_changes(progress):
                notes.append(f'results may differ from an uninterrupted run in the last bits: {changes}')
        if is_main_process():
            copy_best_checkpoints(checkpoint, Path(filename), Path(self.work_dir))
            print('; '.join([f'resumes from {filename}', *notes]), flush=True)
        barrier()
        for key, best in best_checkpoints(checkpoint).items():
            self.message_hub.update_info(key, str(Path(self.work_dir) / best.name))

    @master_only
    def save_checkpoint(
        self, out_dir: str, filename: str, *args: Any, meta: dict | None = None, **kwargs: Any
    ) -> None:
        """Write a checkpoint to a temporary file, read it back from the disk, then move it to its place.

        Raises:
            UserError: A weight is not finite, or the file cannot be written. No partial file is left, and
                an existing file is unchanged.
        """
        path = Path(out_dir) / filename
        check_losses(self)
        model = unwrap_model(self.model)
        for name, weight in model.named_parameters():
            if not torch.isfinite(weight).all():
                raise UserError(
                    f'{name} is not finite after iteration {self.iter}: the training diverged and {path} '
                    f'is not saved; lower optim_wrapper.optimizer.lr; {self.resume_hint()}'
                )
        meta = dict(meta or {}, inputs=describe_inputs(model))
        part = temporary_path(path)
        try:
            super().save_checkpoint(out_dir, part.name, *args, meta=meta, **kwargs)
            verify_and_move(part, path)
        # torch.save turns a full disk into a RuntimeError
        except (OSError, RuntimeError, WeightsError) as error:
            raise UserError(f'cannot write the checkpoint {path}: {error}; {self.resume_hint()}') from error
        finally:
            part.unlink(missing_ok=True)
