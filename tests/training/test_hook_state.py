"""States of hooks in checkpoints."""

import io
from collections import deque
from typing import Any

import pytest
import torch
from mmengine.hooks import EarlyStoppingHook, EMAHook, Hook, LoggerHook, ParamSchedulerHook
from torch import nn

from backbones.weights import load_pickle_safely
from compactdet.training.hook_state import HookStates


class Counter(Hook):
    """A user's hook that counts, averages and remembers."""

    def __init__(self, patience: int = 3) -> None:
        self.patience = patience
        self.count = 0
        self.history: dict[str, list[float]] = {}
        self.mean = torch.zeros(2)
        self.head = nn.Linear(1, 1)

    def step(self) -> None:
        self.count += 1
        self.history.setdefault('ap', []).append(0.1 * self.count)
        self.mean = self.mean + 1
        nn.init.constant_(self.head.weight, self.count)


class OwnMethods(Hook):
    """A hook that saves a state that is not plain."""

    def __init__(self) -> None:
        self.last = deque([1], maxlen=2)

    def state_dict(self) -> dict[str, Any]:
        return {'last': list(self.last)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.last.extend(state['last'])


def saved(states: HookStates, folder: Any) -> dict[str, Any]:
    """Return the state as it is read from a checkpoint file."""
    torch.save(states.state(), folder / 'state.pth')
    return load_pickle_safely(folder / 'state.pth')


def test_the_state_of_early_stopping_and_of_a_users_hook_is_restored(tmp_path: Any) -> None:
    early, counter, second = EarlyStoppingHook('ap', rule='greater'), Counter(), Counter()
    states = HookStates([early, counter, second], nn.Linear(1, 1))
    early._check_stop_condition(0.5)
    early._check_stop_condition(0.4)
    second.step()
    second.step()
    state = saved(states, tmp_path)

    hooks: list[Any] = [EarlyStoppingHook('ap', rule='greater'), Counter(patience=9), Counter(patience=9)]
    HookStates(hooks, nn.Linear(1, 1)).restore(state)
    assert (hooks[0].wait_count, hooks[0].best_score) == (1, 0.5)
    assert (hooks[1].count, hooks[1].history) == (0, {})
    assert (hooks[2].count, hooks[2].history) == (2, {'ap': [0.1, 0.2]})
    assert hooks[2].mean.tolist() == [2, 2]
    assert hooks[2].head.weight.item() == 2
    assert hooks[2].patience == 9, 'only what changes during the training is restored'


def test_a_state_that_is_restored_is_saved_again(tmp_path: Any) -> None:
    first, second = Counter(), Counter()
    states = HookStates([first], nn.Linear(1, 1))
    first.step()
    later = HookStates([second], nn.Linear(1, 1))
    later.restore(saved(states, tmp_path))
    assert saved(later, tmp_path)['Counter']['attributes']['count'] == 1


def test_methods_of_the_hook_come_first(tmp_path: Any) -> None:
    hook, other = OwnMethods(), OwnMethods()
    states = HookStates([hook], nn.Linear(1, 1))
    assert states.not_saved == []
    hook.last.append(5)
    HookStates([other], nn.Linear(1, 1)).restore(saved(states, tmp_path))
    assert list(other.last) == [1, 5]


def test_a_state_that_cannot_be_saved_is_named_before_the_first_step() -> None:
    model, hook = nn.Sequential(nn.Linear(1, 1)), Counter()
    hook.part, hook.parts, hook.window = model[0], {'a': model[0]}, deque()  # type: ignore[attr-defined]
    (line,) = HookStates([hook], model).not_saved
    assert line.startswith("Counter keeps a deque in 'window', which checkpoints cannot hold: results")
    hook.window = io.StringIO()  # type: ignore[attr-defined]
    assert "StringIO in 'window'" in HookStates([hook], model).not_saved[0]


class Ema(EMAHook):
    """A hook that saves what it keeps in the checkpoint itself."""

    def __init__(self) -> None:
        super().__init__()
        self.window: deque[int] = deque()


def test_hooks_without_a_state_of_their_own() -> None:
    ema = EMAHook()
    ema.ema_model = nn.Linear(1, 1)
    states = HookStates([ema, LoggerHook(), ParamSchedulerHook()], nn.Linear(1, 1))
    assert (states.state(), states.names, states.not_saved) == ({}, [], [])
    assert HookStates([Ema()], nn.Linear(1, 1)).not_saved == []


def test_the_state_of_another_hook_is_ignored_and_that_of_another_version_is_an_error() -> None:
    counter = Counter()
    states = HookStates([counter], nn.Linear(1, 1))
    states.restore({'Other': {'attributes': {'count': 9}, 'objects': {}}})
    assert counter.count == 0
    with pytest.raises(KeyError):
        states.restore({'Counter': {'attributes': {}, 'objects': {'absent': {}}}})
