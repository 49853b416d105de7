"""States of hooks in checkpoints. MMEngine saves none, so that early stopping forgets its counter."""

from __future__ import annotations

import logging
import pickle
import re
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.runner import BaseLoop, Runner
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compactdet.records.protocol_table import HOOKS_WITHOUT_EFFECT

# Hooks whose attributes are not saved, by name of the class, and the reason.
NOT_SAVED = {
    **HOOKS_WITHOUT_EFFECT,
    'SafeCheckpointHook': 'restores the list of its files itself',
    'EMAHook': 'saves its averages in the checkpoint itself',
    'CondensingHook': 'reads the number of drops from the model',
    'PipelineSwitchHook': 'switches again after a resume, by the epoch',
    'YOLOXModeSwitchHook': 'switches again after a resume, by the epoch',
}

PLAIN = (type(None), bool, int, float, str, bytes, Tensor, np.ndarray)
CONTAINERS = (list, tuple, set)
# Objects that hold no state of a hook, or only that of the run, which is saved elsewhere.
STATELESS = (
    type, FunctionType, BuiltinFunctionType, MethodType, ModuleType, re.Pattern, PurePath, logging.Logger,
    logging.LoggerAdapter, Runner, BaseLoop, RemovableHandle,
)  # fmt: skip


class HookStates:
    """The states of the hooks of a training: the attributes that change during it.

    A hook may have ``state_dict`` and ``load_state_dict``; then these are used. Otherwise its attributes
    are saved that are plain values, or have these methods themselves.

    Args:
        hooks: The hooks, after ``before_train``.
        model: The model, whose parts are saved elsewhere.

    Attributes:
        not_saved: A sentence for each attribute that cannot be saved.
    """

    def __init__(self, hooks: Sequence[Hook], model: nn.Module) -> None:
        self._parts = {id(part) for part in model.modules()}
        self._hooks: dict[str, Hook] = {}
        for hook in hooks:
            name = type(hook).__name__
            if name not in NOT_SAVED and (vars(hook) or _has_state(hook)):
                number = sum(other.partition('#')[0] == name for other in self._hooks)
                self._hooks[f'{name}#{number + 1}' if number else name] = hook
        self._start = {
            name: {key: pickle.dumps(value) for key, value in vars(hook).items() if _is_plain(value)}
            for name, hook in self._hooks.items()
        }
        self.not_saved = [
            f'{name} keeps a {type(value).__name__} in {key!r}, which checkpoints cannot hold: results '
            'after --resume may differ from an uninterrupted run; give the hook state_dict() and '
            'load_state_dict()'
            for name, hook in self._hooks.items()
            if not (_has_state(hook) or _saves_itself(hook))
            for key, value in vars(hook).items()
            if not (_is_plain(value) or _has_state(value) or self._is_stateless(value))
        ]

    @property
    def names(self) -> list[str]:
        """Names of the hooks that may have a state."""
        return list(self._hooks)

    def state(self) -> dict[str, Any]:
        """Return the states of the hooks by name, for a checkpoint."""
        return {
            name: {'state_dict': hook.state_dict()} if _has_state(hook) else self._attributes(name, hook)
            for name, hook in self._hooks.items()
        }

    def restore(self, states: dict[str, Any]) -> None:
        """Restore the states of a checkpoint; those of other hooks are ignored.

        Raises:
            KeyError: An attribute of the checkpoint does not exist.
        """
        for name in states.keys() & self._hooks.keys():
            hook: Any = self._hooks[name]
            state = states[name]
            if 'state_dict' in state:
                hook.load_state_dict(state['state_dict'])
                continue
            for key, value in state['objects'].items():
                vars(hook)[key].load_state_dict(value)
            for key, value in state['attributes'].items():
                now = vars(hook).get(key)
                setattr(hook, key, value.to(now.device) if isinstance(now, Tensor) else value)

    def _attributes(self, name: str, hook: Hook) -> dict[str, Any]:
        """Return the plain attributes that changed, and the state dicts of the other ones."""
        start, now = self._start[name], vars(hook)
        plain = {key: value for key, value in now.items() if _is_plain(value)}
        return {
            'attributes': {
                key: value for key, value in plain.items() if pickle.dumps(value) != start.get(key)
            },
            'objects': {
                key: value.state_dict()
                for key, value in now.items()
                if _has_state(value) and not self._is_stateless(value)
            },
        }

    def _is_stateless(self, value: Any) -> bool:
        if isinstance(value, nn.Module):
            return id(value) in self._parts
        if isinstance(value, dict):
            return all(map(self._is_stateless, value.values()))
        if isinstance(value, CONTAINERS):
            return all(map(self._is_stateless, value))
        return isinstance(value, (*PLAIN, *STATELESS))


def _has_state(value: Any) -> bool:
    return not isinstance(value, type) and all(
        callable(getattr(value, name, None)) for name in ('state_dict', 'load_state_dict')
    )


def _saves_itself(hook: Hook) -> bool:
    """Return True if a hook adds its state to checkpoints, and reads it, as MMEngine's EMAHook."""
    return all(
        getattr(type(hook), name) is not getattr(Hook, name)
        for name in ('before_save_checkpoint', 'after_load_checkpoint')
    )


def _is_plain(value: Any) -> bool:
    """Return True if a checkpoint can hold a value and be read without executing code."""
    if type(value) in (dict, OrderedDict):
        return all(map(_is_plain, value)) and all(map(_is_plain, value.values()))
    if type(value) in CONTAINERS:
        return all(map(_is_plain, value))
    return type(value) in PLAIN
