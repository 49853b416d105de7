"""Training loops, checkpoint hook and signals, with a model of one number."""

import os
import signal
import subprocess
import sys
import threading
import time
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
from compactdet.training.model_checks import check_same_protocol, describe_process_changes
from compactdet.training.runner import SafeRunner


class Sum(BaseModel):
    """A model whose loss depends on the samples, on their random numbers and on its own."""

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
        work_dir: str,
        loop: dict[str, Any],
        sampler: str,
        stop: int | None = None,
        num_workers: int = 0,
        dataset: Any = None,
        **hook: Any,
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
            train_dataloader={
                **loader,
                'dataset': dataset or Noisy(),
                'num_workers': num_workers,
                'persistent_workers': True,
                'sampler': {'type': sampler, 'shuffle': True},
            },
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
    """Request a stop after an iteration, as a signal does."""

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
def test_resume_continues_with_the_next_samples(
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
    assert len(augmented) == len(whole.model.seen)  # no random number twice


def test_states_are_kept_as_the_config_states(toy: Callable[..., SafeRunner], tmp_path: Path) -> None:
    for keep, names in (
        (-1, {'epoch_1', 'epoch_2', 'epoch_3'}),
        (1, {'epoch_3'}),
        (2, {'epoch_2', 'epoch_3'}),
    ):
        toy(f'keep{keep}', dict(BY_EPOCH), 'DefaultSampler', max_keep_ckpts=keep, minutes=0).train()
        assert {path.stem for path in (tmp_path / f'keep{keep}').glob('*.pth')} == names


def test_unsupported_options_of_the_checkpoint_hook(toy: Callable[..., SafeRunner]) -> None:
    with pytest.raises(
        errors.UserError, match='remove out_dir, published_keys: checkpoints are saved in the work dir'
    ):
        toy('x', dict(BY_EPOCH), 'DefaultSampler', out_dir='y', published_keys=['meta'])


def test_training_does_not_stop_while_gradients_accumulate(
    toy: Callable[..., SafeRunner], tmp_path: Path
) -> None:
    runner = toy('sum', dict(BY_EPOCH), 'DefaultSampler', stop=1)
    runner.optim_wrapper['accumulative_counts'] = 2
    with pytest.raises(SystemExit, match='143'):
        runner.train()
    assert runner.iter == 2


def test_more_workers_than_cores_give_no_warning() -> None:
    loader = {'batch_size': 1, 'num_workers': 999, 'dataset': Noisy()}
    loader['sampler'] = {'type': 'DefaultSampler'}
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert SafeRunner.build_dataloader(loader, seed=0).num_workers == 999


def test_changes_of_the_processes_are_described() -> None:
    process = {'threads': torch.get_num_threads(), 'torch': str(torch.__version__)}
    assert describe_process_changes({'processes': [process]}) is None
    other = dict(process, threads=99, torch='1.0')
    changes = describe_process_changes({'processes': [other, other]})
    threads, version = torch.get_num_threads(), torch.__version__
    assert changes == f'processes 2, now 1; threads 99, now {threads}; PyTorch 1.0, now {version}'


def test_a_resumed_training_may_have_another_length() -> None:
    def of_length(epochs: int) -> dict[str, Any]:
        return {'loop': {'max_epochs': epochs, 'type': 'x'}, 'schedule': []}

    progress = {'epoch': 2, 'iter': 8, 'protocol': of_length(4)}
    for epochs in (2, 3, 5):
        check_same_protocol('x', progress, of_length(epochs))
    with pytest.raises(errors.UserError, match=r'x was trained under another .*epochs 4, now 1'):
        check_same_protocol('x', progress, of_length(1))


def test_a_full_disk_at_the_start(tmp_path: Path) -> None:
    full = mock.patch('mmengine.runner.Runner.from_cfg', side_effect=OSError(28, 'No space left on device'))
    with full, pytest.raises(errors.UserError, match='No space left on device in x: free some disk space'):
        SafeRunner.from_cfg(mock.MagicMock(work_dir='x'))


@pytest.mark.parametrize(
    ('message', 'cure'),
    [
        ('DataLoader worker (pid 7) exited unexpectedly with exit code 28. Details', '--shm-size'),
        ('DataLoader worker (pid 7) is killed by signal: Bus error. It', '--shm-size'),
        ('DataLoader worker (pid 7) exited unexpectedly with exit code 24. Details', 'ulimit -n'),
        ('DataLoader worker (pid(s) 7) exited unexpectedly', 'more memory'),
        ('Caught RuntimeError: unable to allocate shared memory(shm) for file', '--shm-size'),
    ],
)
def test_the_error_of_a_worker_names_its_cure(
    toy: Callable[..., SafeRunner], message: str, cure: str
) -> None:
    runner = toy('run', BY_ITER, 'InfiniteSampler')
    with pytest.raises(errors.UserError, match=cure), runner._one_line_errors():
        raise RuntimeError(message)


def test_the_cause_of_a_dead_worker_is_in_the_first_error(toy: Callable[..., SafeRunner]) -> None:
    runner = toy('run', BY_ITER, 'InfiniteSampler')
    first = RuntimeError('DataLoader worker (pid 7) exited unexpectedly with exit code 28. Details')
    with pytest.raises(errors.UserError, match='shm-size'), runner._one_line_errors():
        raise RuntimeError('DataLoader worker (pid(s) 7) exited unexpectedly') from first


class Stuck(Noisy):
    """A data set whose sample 4 never arrives."""

    def __getitem__(self, index: int) -> Any:
        if index == 4:
            time.sleep(600)
        return super().__getitem__(index)


@pytest.mark.slow
def test_a_signal_ends_the_wait_for_a_batch(toy: Callable[..., SafeRunner], tmp_path: Path) -> None:
    runner = toy('run', BY_EPOCH, 'DefaultSampler', num_workers=1, dataset=Stuck())
    threading.Timer(8, os.kill, [os.getpid(), signal.SIGTERM]).start()
    start = time.monotonic()
    with pytest.raises(SystemExit) as stopped:
        runner.train()
    assert stopped.value.code == 128 + signal.SIGTERM
    assert time.monotonic() - start < 60
    assert list((tmp_path / 'run').glob('iter_*.pth'))


FULL_SHARED_MEMORY = """
import multiprocessing
from compactdet.training.signals import init_worker

class Batch:
    def __reduce__(self):
        raise RuntimeError('unable to allocate shared memory(shm): No space left on device (28)')

init_worker(0, None)
queue = multiprocessing.Queue()
queue.put(Batch())
queue.close()
queue.join_thread()
"""


def test_a_worker_that_cannot_send_a_batch_ends() -> None:
    python = [sys.executable, '-c', FULL_SHARED_MEMORY]
    ended = subprocess.run(python, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (28, '')


CLOSED_CONNECTION = """
from multiprocessing import connection, current_process, resource_sharer
from compactdet.training.signals import init_worker

def send(to, process):
    raise OSError('an error of the worker')

init_worker(0, None)
for receives in (False, True):
    address, key = resource_sharer._resource_sharer.register(send, lambda: None)
    with connection.Client(address, authkey=current_process().authkey) as training:
        if receives:
            training.send((key, 0))
resource_sharer.stop(timeout=60)
"""


def test_a_worker_whose_training_process_ends() -> None:
    """A worker that sends a batch prints its own errors, but not that the connection was closed."""
    python = [sys.executable, '-c', CLOSED_CONNECTION]
    errors_printed = subprocess.run(python, capture_output=True, text=True, timeout=120).stderr
    assert errors_printed.count('Traceback') == 1, errors_printed
    assert 'OSError: an error of the worker' in errors_printed
    assert 'EOFError' not in errors_printed
