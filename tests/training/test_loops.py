"""The loops and what they rest on, with numbers in place of a detector."""

import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from mmengine.model import BaseModel

from compactdet import errors
from compactdet.training.checkpoint_hook import check_processes
from compactdet.training.checkpoints import check_protocol
from compactdet.training.runner import SafeRunner


class Sum(BaseModel):
    """Its loss depends on the samples, on random numbers of the sample and on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(1.0))
        self.seen: list[Any] = []

    def forward(self, x: Any, mode: str) -> Any:
        if mode == 'predict':
            torch.rand(3)
            return [None]
        self.seen.extend(map(tuple, torch.stack(list(x)).tolist()))
        return {'loss': self.weight * torch.stack(list(x)).sum() * torch.rand(())}


class Noisy(torch.utils.data.Dataset):
    """Sample i is (i, a random number)."""

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Any:
        return {'x': torch.tensor([float(index), torch.rand(()).item()])}


@pytest.fixture
def toy(tmp_path: Path) -> Callable[..., SafeRunner]:
    made = 0

    def make(
        work_dir: str, loop: dict[str, Any], sampler: str, stop: int | None = None, **hook: Any
    ) -> SafeRunner:
        nonlocal made
        made += 1
        loader = {
            'batch_size': 2,
            'dataset': Noisy(),
            'collate_fn': {'type': 'default_collate'},
        }
        evaluator = mock.MagicMock(spec=Evaluator)
        evaluator.evaluate.return_value = {'acc': 0.5}
        runner = SafeRunner(
            Sum(),
            str(tmp_path / work_dir),
            train_dataloader={**loader, 'sampler': {'type': sampler, 'shuffle': True}},
            val_dataloader={**loader, 'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
            train_cfg=loop,
            val_cfg={},
            val_evaluator=evaluator,
            optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 1e-3}},
            default_hooks={'checkpoint': {'type': 'CheckpointHook', **hook}, 'logger': None},
            randomness={'seed': 5},
            resume=True,
            experiment_name=f'toy{made}',
        )
        if stop is not None:
            signals = runner.signals
            runner.register_hook(StopAt(stop, signals))
        return runner

    return make


class StopAt(Hook):
    """Says, as a signal would, that the training is to stop."""

    def __init__(self, iteration: int, signals: Any):
        self.iteration, self.signals = iteration, signals

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        if runner.iter + 1 == self.iteration:
            self.signals.received = signal.SIGTERM


BY_EPOCH = {'by_epoch': True, 'max_epochs': 3, 'val_interval': 1}
BY_ITER = {'by_epoch': False, 'max_iters': 12, 'val_interval': 4}


@pytest.mark.parametrize('stop', [1, 3, 4, 6, 9, 12])
@pytest.mark.parametrize(
    ('loop', 'sampler'),
    [(BY_EPOCH, 'DefaultSampler'), (BY_ITER, 'DefaultSampler'), (BY_ITER, 'InfiniteSampler')],
)
def test_the_samples_that_come_next(
    toy: Callable[..., SafeRunner], loop: dict[str, Any], sampler: str, stop: int
) -> None:
    hook = {'by_epoch': loop['by_epoch'], 'interval': 1 if loop['by_epoch'] else 5}
    whole = toy('whole', dict(loop), sampler, **hook)
    whole.train()
    first = toy('parts', dict(loop), sampler, stop=stop, **hook)
    with pytest.raises(SystemExit, match=f'{128 + signal.SIGTERM}'):
        first.train()
    second = toy('parts', dict(loop), sampler, **hook)
    second.train()
    assert first.model.seen + second.model.seen == whole.model.seen
    assert second.model.weight.item() == whole.model.weight.item()
    samples = [index for index, _ in whole.model.seen]
    if sampler == 'DefaultSampler':
        assert [sorted(samples[i : i + 7]) for i in (0, 7, 14)] == [[*map(float, range(7))]] * 3
    augmented = {number for _, number in whole.model.seen}
    assert len(augmented) == len(whole.model.seen)  # nothing twice


def test_a_full_epoch_is_kept_as_the_config_says(toy: Callable[..., SafeRunner], tmp_path: Path) -> None:
    for keep, names in (
        (-1, {'epoch_1', 'epoch_2', 'epoch_3'}),
        (1, {'epoch_3'}),
        (2, {'epoch_2', 'epoch_3'}),
    ):
        toy(f'keep{keep}', dict(BY_EPOCH), 'DefaultSampler', max_keep_ckpts=keep, minutes=0).train()
        assert {path.stem for path in (tmp_path / f'keep{keep}').glob('*.pth')} == names


def test_options_that_cannot_be_kept(toy: Callable[..., SafeRunner]) -> None:
    with pytest.raises(
        errors.UserError, match='leave out out_dir, published_keys: checkpoints lie in the work'
    ):
        toy('x', dict(BY_EPOCH), 'DefaultSampler', out_dir='y', published_keys=['meta'])


def test_gradients_that_are_summed_are_not_cut_in_two(
    toy: Callable[..., SafeRunner], tmp_path: Path
) -> None:
    runner = toy('sum', dict(BY_EPOCH), 'DefaultSampler', stop=1)
    runner.optim_wrapper['accumulative_counts'] = 2
    with pytest.raises(SystemExit, match='143'):
        runner.train()
    assert runner.iter == 2


def test_more_workers_than_cores_are_no_warning() -> None:
    loader = {'batch_size': 1, 'num_workers': 999, 'dataset': Noisy()}
    loader['sampler'] = {'type': 'DefaultSampler'}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert SafeRunner.build_dataloader(loader, seed=0).num_workers == 999


def test_what_differs_between_machines_is_said() -> None:
    process = {'threads': torch.get_num_threads(), 'torch': str(torch.__version__)}
    assert check_processes({'processes': [process]}) is None
    other = dict(process, threads=99, torch='1.0')
    said = check_processes({'processes': [other, other]})
    threads, version = torch.get_num_threads(), torch.__version__
    assert said == f'processes 2, now 1; threads 99, now {threads}; PyTorch 1.0, now {version}'


def test_a_training_of_another_length_goes_on() -> None:
    def of_length(epochs: int) -> dict[str, Any]:
        return {'loop': {'max_epochs': epochs, 'type': 'x'}, 'schedule': []}

    progress = {'epoch': 2, 'iter': 8, 'protocol': of_length(4)}
    for epochs in (2, 3, 5):
        check_protocol('x', progress, of_length(epochs))
    with pytest.raises(errors.UserError, match=r'x is of a training under another .*epochs 4, now 1'):
        check_protocol('x', progress, of_length(1))


def test_a_full_disk_at_the_start(tmp_path: Path) -> None:
    full = mock.patch('mmengine.runner.Runner.from_cfg', side_effect=OSError(28, 'No space left on device'))
    with full, pytest.raises(errors.UserError, match='No space left on device in x: make room'):
        SafeRunner.from_cfg(mock.MagicMock(work_dir='x'))


BREAKS_OFF = """
from multiprocessing import connection, current_process, resource_sharer
from compactdet.training.signals import shield_worker

def send(to, process):
    raise OSError('a fault of the worker')

shield_worker(0, None)
for takes in (False, True):
    address, key = resource_sharer._resource_sharer.register(send, lambda: None)
    with connection.Client(address, authkey=current_process().authkey) as training:
        if takes:
            training.send((key, 0))
resource_sharer.stop(timeout=60)
"""


def test_a_worker_whose_training_breaks_off() -> None:
    """It was about to hand over a batch: only its own faults are printed."""
    python = [sys.executable, '-c', BREAKS_OFF]
    said = subprocess.run(python, capture_output=True, text=True, timeout=120).stderr
    assert said.count('Traceback') == 1, said
    assert 'OSError: a fault of the worker' in said
    assert 'EOFError' not in said
