"""A training that is killed or stopped and resumed equals an uninterrupted one, bit for bit."""

import multiprocessing
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from kill import Kill
from mmengine.fileio import LocalBackend

from compactdet import errors
from compactdet.benchmarks.resume import differences
from compactdet.config.options import TrainOptions
from compactdet.records import record_file
from compactdet.training.checkpoints import read_training_state
from compactdet.training.loops import ResumableEpochLoop
from compactdet.training.loss_hook import LossHook
from compactdet.training.randomness import SeededDataset
from compactdet.training.train import train

FORK = multiprocessing.get_context('fork')  # without the seconds of the imports

pytestmark = pytest.mark.usefixtures('plain_config_text')


@pytest.fixture(scope='module')
def config(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny detector with flips and workers: three epochs of four steps, a state after every step."""
    path = tmp_path_factory.mktemp('config') / 'killed.py'
    text = tiny_config.read_text()
    flip = "    dict(type='RandomFlip', prob=0.5),\n    dict(type='PackDetInputs'),"
    assert text.count("    dict(type='PackDetInputs'),") == 1
    text = text.replace("    dict(type='PackDetInputs'),", flip)
    text += (
        'train_dataloader.update(batch_size=1, num_workers=2)\n'
        'val_dataloader.update(num_workers=1)\n'
        'train_cfg.update(max_epochs=3)\n'
        "default_hooks['checkpoint'].update(max_keep_ckpts=1, minutes=0)\n"
    )
    path.write_text(text)
    return path


def child(options: TrainOptions, patch: Any, output: Path) -> None:
    """Train in a child process, which ends like tools/train.py."""
    with output.open('a') as file, patch:
        sys.stdout = sys.stderr = file
        errors.run_main(lambda: train(options) and None)


@pytest.fixture
def run(config: Path, tmp_path: Path) -> Callable[..., int]:
    """Train in a child process, with ``--resume``; return the exit status."""

    def go(
        work_dir: Path, patch: Any = None, during: Callable[[Any], None] | None = None, **options: Any
    ) -> int:
        options = {'resume': 'auto', 'seed': 3, **options}
        made = TrainOptions(str(config), str(work_dir), **options)
        arguments = (made, patch or mock.MagicMock(), tmp_path / 'output.txt')
        process = FORK.Process(target=child, args=arguments)
        process.start()
        if during is not None:
            during(process)
        process.join(120)
        assert process.exitcode is not None
        return process.exitcode

    return go


@pytest.fixture(scope='module')
def whole(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of the uninterrupted run; tests only read it."""
    folder = tmp_path_factory.mktemp('runs')
    process = FORK.Process(
        target=child,
        args=(
            TrainOptions(str(config), str(folder / 'whole'), seed=3),
            mock.MagicMock(),
            folder / 'output',
        ),
    )
    process.start()
    process.join(120)
    assert process.exitcode == 0, (folder / 'output').read_text()
    return folder / 'whole'


# Each process resumes where the one before was killed.
KILLS = {
    'before anything is saved': Kill('compactdet.training.loops.ResumableEpochLoop.run_iter', 1),
    'in a step': Kill('compactdet.training.loops.ResumableEpochLoop.run_iter', 3),
    'a checkpoint is written but not moved to its place': Kill(
        'compactdet.training.checkpoint_runner.verify_and_move', 2
    ),
    'a checkpoint is in place, but the old one is not removed': Kill(
        'compactdet.training.checkpoint_hook._remove', 2
    ),
    'in the validation': Kill('compactdet.evaluation.metric.DetectionMetric.process', 1),
    'the best checkpoint is about to be written': Kill(
        'compactdet.training.checkpoint_hook.SafeCheckpointHook._save_best', 1
    ),
    'the best checkpoint is in place, but no state names it': Kill(
        'compactdet.training.checkpoint_runner.verify_and_move', 1, after=True
    ),
    'after an epoch': Kill('compactdet.training.loops.ResumableEpochLoop.run_epoch', 1, after=True),
    'in the test': Kill('compactdet.training.runner.SafeRunner.test', 1),
    'before the record': Kill('compactdet.records.record_file.write', 1),
}
FEW = (
    'a checkpoint is written but not moved to its place',
    'the best checkpoint is in place, but no state names it',
)


@pytest.mark.parametrize(
    'moments', [pytest.param(FEW, id='few'), pytest.param(tuple(KILLS), id='all', marks=pytest.mark.slow)]
)
def test_killed(run: Callable[..., int], whole: Path, tmp_path: Path, moments: tuple[str, ...]) -> None:
    work_dir = tmp_path / 'killed'
    for moment in moments:
        assert run(work_dir, KILLS[moment].patch()) == -signal.SIGKILL, moment
        assert not (work_dir / 'record.json').exists()
    assert run(work_dir) == 0, (tmp_path / 'output.txt').read_text()
    assert differences(whole, work_dir) == []
    assert (tmp_path / 'output.txt').read_text().count('resumes from ') >= len(moments) - 1
    assert [path.name for path in work_dir.glob('*.part')] == []
    one, other = (record_file.read(folder / 'record.json') for folder in (whole, work_dir))
    assert one['keys'] == other['keys']


@pytest.mark.slow
def test_early_stopping_after_a_kill(run: Callable[..., int], tmp_path: Path) -> None:
    """A score that never improves by 1 stops the training two epochs after the first, also resumed."""
    hook = {'type': 'EarlyStoppingHook', 'monitor': 'voc/ap50_11point', 'rule': 'greater', 'min_delta': 1}
    options = {'custom_hooks': [{**hook, 'patience': 2}], 'train_cfg.max_epochs': 6}
    assert run(tmp_path / 'whole', cfg_options=options) == 0
    kill = Kill('compactdet.training.loops.ResumableEpochLoop.run_epoch', 3)
    assert run(tmp_path / 'killed', kill.patch(), cfg_options=options) == -signal.SIGKILL
    assert run(tmp_path / 'killed', cfg_options=options) == 0
    one, other = (record_file.read(tmp_path / name / 'record.json') for name in ('whole', 'killed'))
    assert one['training']['epochs'] == other['training']['epochs'] == 3
    assert differences(tmp_path / 'whole', tmp_path / 'killed') == []


def test_resuming_a_finished_run_changes_nothing(
    run: Callable[..., int], whole: Path, tmp_path: Path
) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    assert run(whole) == 0
    assert run(whole, seed=4) == 1
    assert (
        'is the record of a finished run, which is never overwritten'
        in (tmp_path / 'output.txt').read_text()
    )
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == before


def test_content_of_a_training_state(whole: Path) -> None:
    names = sorted(path.name for path in whole.glob('*.pth'))
    assert names[-1] == 'epoch_3.pth'
    assert len(names) == 2  # with the best checkpoint
    progress = read_training_state(whole / 'epoch_3.pth')['progress']
    assert (progress['epoch'], progress['iter'], progress['batch']) == (3, 12, 0)
    (process,) = progress['processes']
    assert process['threads'] == torch.get_num_threads()
    assert process['generators'].keys() >= {'python', 'numpy', 'torch'}


# Ends with a one-line message


def stop_after(name: str, number: int, work_dir: Path) -> Callable[[Any], None]:
    def during(process: Any) -> None:
        while process.is_alive() and not any(work_dir.glob(name)):
            process.join(0.005)
        os.kill(process.pid, number)

    return during


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop(run: Callable[..., int], tmp_path: Path, number: int, whole: Path) -> None:
    work_dir = tmp_path / 'stopped'
    assert run(work_dir, during=stop_after('iter_1.pth', number, work_dir)) == 128 + number
    output = (tmp_path / 'output.txt').read_text()
    (line,) = [line for line in output.splitlines() if line.startswith('error: ')]
    assert line.startswith(f'error: stopped by {signal.Signals(number).name} at step ')
    assert re.search(r'; add --resume to continue from .*\.pth$', line)
    assert 'Traceback' not in output
    if number == signal.SIGTERM:
        assert run(work_dir) == 0
        assert differences(whole, work_dir) == []


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('full disk', 'cannot write the checkpoint'),
        ('loss', 'the loss is nan at iteration 3: the training diverged; lower'),
        ('weights', 'is not finite after iteration 3: the training diverged and'),
    ],
)
def test_a_failure_keeps_the_saved_states(
    run: Callable[..., int], tmp_path: Path, name: str, words: str
) -> None:
    work_dir = tmp_path / 'failed'
    assert run(work_dir, PATCHES[name]()) == 1
    output = (tmp_path / 'output.txt').read_text()
    lines = [line for line in output.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1, output
    assert words in lines[0]
    assert lines[0].endswith(f'; add --resume to continue from {work_dir}/iter_2.pth')
    assert 'Traceback' not in output
    assert [path.name for path in work_dir.glob('*.part')] == []
    assert {path.name for path in work_dir.glob('*.pth')} == {'iter_1.pth', 'iter_2.pth'}


def full_disk() -> Any:
    """Simulate a full disk while the third checkpoint is written."""
    put, calls = LocalBackend.put, 0

    def write_half(self: Any, data: bytes, filepath: str) -> None:
        nonlocal calls
        calls += filepath.endswith('.pth.part')
        if calls == 3:
            put(self, data[: len(data) // 2], filepath)
            raise OSError(28, 'No space left on device')
        put(self, data, filepath)

    return mock.patch.object(LocalBackend, 'put', write_half)


def after_step(change: Callable[[Any], None]) -> Any:
    """Call ``change`` after the third step."""
    step = ResumableEpochLoop.run_iter

    def changed(self: Any, *args: Any) -> None:
        step(self, *args)
        if self.runner.iter == 3:
            change(self)

    return mock.patch.object(ResumableEpochLoop, 'run_iter', changed)


def nan_loss(loop: Any) -> None:
    (hook,) = [hook for hook in loop.runner.hooks if isinstance(hook, LossHook)]
    hook._values[-1].fill_(float('nan'))


def nan_weight(loop: Any) -> None:
    with torch.no_grad():
        next(iter(loop.runner.model.parameters())).fill_(float('nan'))


def killed_worker() -> Any:
    """Kill the worker process that loads a sample of the second epoch."""
    load = SeededDataset.__getitem__

    def load_or_die(self: Any, position: Any) -> Any:
        if position[1:] == (1, 2):
            os.kill(os.getpid(), signal.SIGKILL)
        return load(self, position)

    return mock.patch.object(SeededDataset, '__getitem__', load_or_die)


PATCHES: dict[str, Callable[[], Any]] = {
    'full disk': full_disk,
    'loss': lambda: after_step(nan_loss),
    'weights': lambda: after_step(nan_weight),
}


def test_a_worker_that_dies(run: Callable[..., int], tmp_path: Path) -> None:
    assert run(tmp_path / 'failed', killed_worker()) == 1
    output = (tmp_path / 'output.txt').read_text()
    (line,) = [line for line in output.splitlines() if line.startswith('error: ')]
    assert line.startswith('error: a data loader worker process died')
    assert ': give the run more memory, or lower num_workers of' in line
    assert re.search(r'; add --resume to continue from .*\.pth$', line)
    assert 'Traceback' not in output


def test_two_trainings_in_one_folder(run: Callable[..., int], tmp_path: Path) -> None:
    """The second is an error and does not affect the first; the lock of a killed run is released."""
    work_dir, seconds = tmp_path / 'run', []

    def second(first: Any) -> None:
        while first.is_alive() and not any(work_dir.glob('iter_1.pth')):
            first.join(0.005)
        seconds.append(run(work_dir))
        os.kill(first.pid, signal.SIGKILL)

    assert run(work_dir, during=second) == -signal.SIGKILL
    assert seconds == [1]
    output = (tmp_path / 'output.txt').read_text()
    assert f'error: another training is running in {work_dir}; wait until it ends' in output
    assert run(work_dir) == 0


# The newest valid state


@pytest.fixture(scope='module')
def stopped(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run folder of a run that was killed in its second epoch; tests copy it."""
    folder = tmp_path_factory.mktemp('runs')
    kill = Kill('compactdet.training.loops.ResumableEpochLoop.run_iter', 7)
    options = TrainOptions(str(config), str(folder / 'stopped'), seed=3)
    process = FORK.Process(target=child, args=(options, kill.patch(), folder / 'output'))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    return folder / 'stopped'


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def flip(path: Path) -> None:
    """Change one bit in the middle, which PyTorch does not notice."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize('damage', [cut, flip])
def test_a_damaged_state_is_reported_and_the_previous_one_is_used(
    stopped: Path, whole: Path, tmp_path: Path, run: Callable[..., int], damage: Callable
) -> None:
    work_dir = tmp_path / 'run'
    shutil.copytree(stopped, work_dir)
    assert {'iter_5.pth', 'iter_6.pth'} <= {path.name for path in work_dir.glob('iter_*.pth')}
    damage(work_dir / 'iter_6.pth')
    assert run(work_dir) == 0
    output = (tmp_path / 'output.txt').read_text()
    assert f'renamed to iter_6.pth.damaged\nresumes from {work_dir}/iter_5.pth' in output
    assert (work_dir / 'iter_6.pth.damaged').exists()
    assert differences(whole, work_dir) == []


def test_no_checkpoint_is_valid(stopped: Path, tmp_path: Path, run: Callable[..., int]) -> None:
    work_dir = tmp_path / 'run'
    shutil.copytree(stopped, work_dir)
    for path in work_dir.glob('*_*.pth'):
        cut(path)
    before = {path: path.stat().st_mtime_ns for path in work_dir.glob('*.pth')}
    assert run(work_dir) == 1
    assert f'error: no checkpoint in {work_dir} is valid: ' in (tmp_path / 'output.txt').read_text()
    assert {path: path.stat().st_mtime_ns for path in work_dir.glob('*.pth*')} == before


def test_an_unfinished_run_is_not_started_again(
    stopped: Path, tmp_path: Path, run: Callable[..., int]
) -> None:
    work_dir = tmp_path / 'run'
    shutil.copytree(stopped, work_dir)
    assert run(work_dir, resume=None) == 1
    assert 'belongs to an unfinished training: add --resume' in (tmp_path / 'output.txt').read_text()
    assert run(work_dir, resume=str(work_dir / 'iter_5.pth')) == 1
    assert (
        'iter_6.pth is later than the checkpoint given to --resume' in (tmp_path / 'output.txt').read_text()
    )


def test_another_batch_size_in_the_middle_of_an_epoch(
    stopped: Path, tmp_path: Path, run: Callable[..., int]
) -> None:
    options = {'resume': str(stopped / 'iter_6.pth'), 'cfg_options': {'train_dataloader.batch_size': 2}}
    assert run(tmp_path / 'run', **options) == 1
    output = (tmp_path / 'output.txt').read_text()
    assert 'the checkpoint was saved after 2 of 4 batches, but an epoch has 2 batches now' in output
    assert 'Traceback' not in output
