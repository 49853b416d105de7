"""Checks that a checkpoint fits a model and its run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.model import is_model_wrapper

from backbones.weights import preprocessing_of
from compactdet.errors import UserError
from compactdet.records import protocol_diff
from compactdet.training.checkpoints import Progress


def unwrap_model(model: Any) -> Any:
    """Return a runner's model without the wrapper of distributed training."""
    return model.module if is_model_wrapper(model) else model


def check_state_dict(filename: str | Path, expected: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Compare the names and shapes of two state dicts.

    Args:
        filename: The checkpoint, for the message.
        expected: The model's state dict.
        found: The checkpoint's.

    Raises:
        UserError: They differ; the message states the number of differences and the first ones.
    """
    problems = [f'{name} is missing' for name in expected.keys() - found.keys()]
    problems += [f'{name} is not part of the model' for name in found.keys() - expected.keys()]
    problems += [
        f'{name} is {tuple(found[name].shape)}, the model has {tuple(expected[name].shape)}'
        for name in expected.keys() & found.keys()
        if found[name].shape != expected[name].shape
    ]
    if problems:
        shown = '; '.join(sorted(problems)[:4])
        raise UserError(
            f'{filename} does not fit this config ({len(problems)} differences): {shown}. '
            'Is it from another arch or another number of classes?'
        )


def describe_inputs(model: Any) -> str:
    """Return a summary of the model's input preprocessing and of its backbone's conventions.

    Parts that the model does not have are omitted.
    """
    parts: list[Any] = []
    if hasattr(model, 'data_preprocessor'):
        parts.append(preprocessing_of(model.data_preprocessor))
    if hasattr(model, 'backbone') and hasattr(model.backbone, 'conventions'):
        parts.append(model.backbone.conventions)
    return ', '.join(map(str, parts))


def check_inputs(filename: str | Path, model: Any, meta: Mapping[str, Any]) -> None:
    """Check that a model's input preprocessing is that of a checkpoint's training.

    Args:
        filename: The checkpoint, for the message.
        model: The detector.
        meta: The checkpoint's ``meta``.

    Raises:
        UserError: The preprocessing differs.
    """
    given = describe_inputs(model)
    if meta.get('inputs', given) != given:
        raise UserError(
            f'{filename} was trained with {meta["inputs"]}, but this config gives {given}; '
            "use the config in the run folder, or the training's --init"
        )


def check_same_protocol(filename: str | Path, progress: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Check that a resumed run keeps its protocol. Only the length of the training may differ.

    Args:
        filename: The checkpoint, for the message.
        progress: Its ``progress``; see `Progress`.
        now: The protocol of the resumed run.

    Raises:
        UserError: The protocols differ; the message states the number of differences and the first ones.
    """
    done = {'max_epochs': progress['epoch'], 'max_iters': progress['iter']}
    length = {key: end for key, end in now['loop'].items() if key in done and end >= done[key]}
    then = {**progress['protocol'], 'loop': {**progress['protocol']['loop'], **length}}
    if found := protocol_diff.find_differences(then, now):
        shown = '; '.join(f'{one.words} {one.one}, now {one.other}' for one in found[:4])
        raise UserError(
            f'{filename} was trained under another protocol ({len(found)} differences): {shown}; '
            'resume with the original settings, or train from the start in another --work-dir'
        )


def describe_process_changes(progress: Progress) -> str | None:
    """Return how the processes differ from those that saved a training state, or None if they do not.

    Such differences can change the results of floating-point operations in the last bits.
    """
    saved = progress['processes']
    compared = {
        'processes': (len(saved), get_world_size()),
        'threads': (saved[0]['threads'], torch.get_num_threads()),
        'PyTorch': (saved[0]['torch'], str(torch.__version__)),
    }
    changes = [f'{name} {old}, now {new}' for name, (old, new) in compared.items() if old != new]
    return '; '.join(changes) or None
