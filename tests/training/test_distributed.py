"""Training in several processes on the CPU: shared values, errors, and equality with one process."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from mmengine.config import Config

from compactdet import distributed
from compactdet.config import strict
from compactdet.errors import UserError
from compactdet.records import protocol, protocol_summary, record_file
from compactdet.training.run_stages import describe_learning_rate

REPO = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    """Return this process's environment without the variables of a launcher."""
    known = {name for _, names in distributed.LAUNCHERS.values() for name in names}
    kept = {name: value for name, value in os.environ.items() if name not in known}
    return {**kept, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': '', **more}


def in_two(*arguments: object, cwd: Path) -> list[tuple[int, str, str]]:
    """Run a Python program in two processes like torchrun; return exit status, stdout, stderr of each."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    shared = {'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=environment(**shared, RANK=str(rank), LOCAL_RANK=str(rank)),
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    return [(process.returncode, *texts) for process, texts in zip(started, outputs, strict=True)]


SHARING = """
import numpy as np
import torch
from mmengine.dist import get_rank, is_main_process
from mmengine.model import BaseModel
from torch import distributed as dist
from compactdet import distributed, errors
from compactdet.evaluation.metric import DetectionMetric
from compactdet.training.runner import SafeRunner

class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.line, self.norm = torch.nn.Linear(1, 1, bias=False), torch.nn.BatchNorm1d(1, affine=False)
    def init_weights(self):
        torch.nn.init.constant_(self.line.weight, 0.5 + get_rank())  # the first process's is used
    def forward(self, x, mode):
        seen.extend(x.flatten().tolist())
        x = torch.stack(list(x)) if isinstance(x, list) else x
        self.norm(x)
        return dict(loss=self.line(x).mean())

class Hundreds(torch.utils.data.Dataset):
    def __len__(self): return 5
    def __getitem__(self, i): return dict(x=torch.tensor([100.0 * (i + 1)]))

def run():
    runner = SafeRunner(
        Toy(), 'work', train_dataloader=dict(
            batch_size=3, dataset=Hundreds(), sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='default_collate')),
        train_cfg=dict(by_epoch=True, max_epochs=1), launcher='pytorch', randomness=dict(seed=4),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
        default_hooks=dict(checkpoint=None, logger=None), cfg=dict(experiment_name='toy'))
    runner.train()
    model = runner.model.module
    every = [None, None]
    dist.all_gather_object(every, dict(
        seen=seen, weight=model.line.weight.item(), mean=model.norm.running_mean.item(),
        random=[np.random.rand(), torch.rand(1).item()]))
    metric = DetectionMetric()
    metric.dataset_meta = dict(classes=['thing'])
    for i in (0, 2) if get_rank() == 0 else (1, 0):  # image 0 again: the sampler's padding
        box = dict(bboxes=torch.tensor([[0.0, 0, 10, 10]]), labels=torch.tensor([0]))
        none = dict(bboxes=torch.zeros(0, 4), labels=torch.zeros(0))
        score = torch.tensor([0.9 - i / 10])
        found = dict(none, scores=torch.zeros(0)) if i == 1 else dict(box, scores=score)
        sample = dict(gt_instances=box, ignored_instances=none, pred_instances=found)
        metric.process(None, [dict(sample, img_id=i)])
    metrics = metric.evaluate(3)
    assert metrics['coco/ap50'] == metrics['coco/ap50']  # every process has them
    if is_main_process():
        print(dict(every=every, ap=metrics['voc/ap50_area']))
    # An error in one process ends both and prints one line.
    dist.barrier()
    if get_rank() == 1:
        raise errors.UserError('image 7 is truncated')
    dist.barrier()

seen = []
errors.run_main(run)
"""


def test_two_processes(tmp_path: Path) -> None:
    (tmp_path / 'sharing.py').write_text(SHARING)
    first, second = in_two('sharing.py', cwd=tmp_path)
    assert first[1], first[2]
    shared = eval(first[1].strip().splitlines()[-1])
    one, other = shared['every']
    # Five images, and one that the sampler repeats.
    seen = one['seen'] + other['seen']
    assert len(one['seen']) == len(other['seen']) == 3
    assert set(seen) == {100.0, 200.0, 300.0, 400.0, 500.0}
    # The gradient is the mean over all six; the initial weight is the first process's 0.5.
    assert one['weight'] == other['weight'] == pytest.approx(0.5 - 1e-3 * sum(seen) / 6, rel=1e-5)
    # The BN mean is the mean of both processes' running means (momentum 0.1).
    assert one['mean'] == other['mean'] == pytest.approx(0.1 * sum(seen) / 6, rel=1e-5)
    assert one['random'][0] != other['random'][0]
    assert one['random'][1] != other['random'][1]
    # Two of three objects are detected, with the two highest scores.
    assert shared['ap'] == pytest.approx(2 / 3)
    assert (first[0], second[0]) == (1, 1)
    errors = [line for _, _, err in (first, second) for line in err.splitlines()]
    assert errors == ['error: image 7 is truncated']
    assert second[1] == ''


@pytest.mark.slow
def test_a_run_under_two_processes(tiny_config: Path, tmp_path: Path) -> None:
    train = [REPO / 'tools/train.py', tiny_config, '--launcher', 'pytorch', '--work-dir', tmp_path / 'run']
    first, second = in_two(*train, '--cfg-options', 'train_dataloader.batch_size=1', cwd=tmp_path)
    assert first[0] == 0, first[2]
    assert second == (0, '', '')
    assert 'not scaled to 2 images per step (2 x 1)' in ' '.join(first[1].split())
    record = record_file.read(tmp_path / 'run' / 'record.json')
    made = record['training']
    assert (made['processes'], made['batch_size_per_process'], made['batch_size']) == (2, 1, 2)
    assert made['iterations'] == 4  # two epochs of four images
    assert (record['protocol']['batch_size'], record['protocol']['bn_images']) == (2, 1)
    assert not (tmp_path / '.dist_test').exists()

    checkpoint = tmp_path / 'run' / 'epoch_2.pth'
    # Batch size 1: the images in a batch may change the last bits of the results.
    one_by_one = ['--cfg-options', 'test_dataloader.batch_size=1']
    test = [
        REPO / 'tools/test.py',
        tiny_config,
        checkpoint,
        '--work-dir',
        tmp_path / 'test',
        *one_by_one,
        '--out',
    ]
    both = in_two(*test, tmp_path / 'two.json', '--launcher', 'pytorch', cwd=tmp_path)
    assert [status for status, *_ in both] == [0, 0], both
    assert both[1][1:] == ('', '')
    alone = [sys.executable, *map(str, test), str(tmp_path / 'one.json')]
    subprocess.run(alone, env=environment(), cwd=tmp_path, check=True, capture_output=True)
    one, two = (tmp_path / f'{name}.json' for name in ('one', 'two'))
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.slow
def test_torchrun(tiny_config: Path, tmp_path: Path) -> None:
    """Under torchrun, an error in all processes prints one line."""
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    tool = [str(REPO / 'tools/test.py'), str(tiny_config), 'absent.pth']
    options = ['--work-dir', str(tmp_path / 'test')]
    for launcher in (['--launcher', 'pytorch'], []):
        done = subprocess.run(
            [*command, *tool, *options, *launcher],
            env=environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        errors = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
        assert done.returncode == 1
        assert len(errors) == 1, done.stderr
        assert ('absent.pth' if launcher else 'add --launcher pytorch') in errors[0]


SLURM = {'SLURM_PROCID': '3', 'SLURM_LOCALID': '1', 'SLURM_NTASKS': '4', 'SLURM_NODELIST': 'node[1-2]'}


def test_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, 'environ', environment(**SLURM, MASTER_ADDR='node1'))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with (
        mock.patch('torch.distributed.init_process_group') as join,
        mock.patch('compactdet.distributed.set_multi_processing'),
    ):
        distributed.start('slurm', {'dist_cfg': {'backend': 'nccl'}})
    join.assert_called_once_with(backend='gloo')
    names = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR')
    assert [os.environ[name] for name in names] == ['3', '1', '4', 'node1']


def test_slurm_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, 'environ', environment(**SLURM, MASTER_ADDR='node1'))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    with (
        mock.patch('torch.distributed.init_process_group') as join,
        mock.patch('torch.cuda.set_device') as select,
        mock.patch('compactdet.distributed.set_multi_processing'),
    ):
        distributed.start('slurm', {})
    join.assert_called_once_with(backend='nccl')
    select.assert_called_once_with(1)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    with pytest.raises(UserError, match='process 2 on this machine, which has 1 GPUs'):
        distributed.check_launcher('slurm')


def test_slurm_without_its_tools(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, 'environ', environment(**SLURM, PATH=str(tmp_path)))
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    os.environ.pop('MASTER_ADDR', None)
    with pytest.raises(UserError, match=r'scontrol is not installed; set MASTER_ADDR'):
        distributed.check_launcher('slurm')
    del os.environ['SLURM_NTASKS']
    with pytest.raises(UserError, match='start this command with srun, which sets SLURM_NTASKS'):
        distributed.check_launcher('slurm')


def test_a_single_process_is_not_affected() -> None:
    before = torch.get_rng_state()
    distributed.start('none', {})
    distributed.seed_by_rank(3)
    with distributed.main_first():
        pass
    distributed.stop()
    assert torch.equal(torch.get_rng_state(), before)
    assert not distributed.another_process_failed()


@pytest.fixture
def voc(tiny_config: Path) -> Callable[..., Config]:
    def make(**scaling: object) -> Config:
        cfg = strict.load(REPO / 'det_configs/menet_frcnn_voc.py')
        cfg.train_dataloader.batch_size = 2
        cfg.optim_wrapper.optimizer.lr = 0.001
        cfg.auto_scale_lr = scaling or None
        return cfg

    return make


def test_the_learning_rate_is_described(voc: Callable[..., Config]) -> None:
    scaled, fixed = voc(enable=True, base_batch_size=2), voc(enable=False, base_batch_size=2)
    assert describe_learning_rate(scaled, 1) is None
    line = describe_learning_rate(scaled, 4)
    assert line == 'learning rate 0.004: 0.001 for 2 images, scaled to 8 images per step (4 x 2)'
    line = describe_learning_rate(fixed, 4)
    assert line is not None
    assert 'learning rate 0.001 for 2 images, not scaled to 8 images per step (4 x 2); ' in line
    assert describe_learning_rate(voc(), 1) is None
    line = describe_learning_rate(voc(), 4)
    assert line is not None
    assert line.endswith('the schedule has no auto_scale_lr')


def test_images_per_process_are_in_the_protocol_if_bn_statistics_are_trained(
    voc: Callable[..., Config],
) -> None:
    cfg = voc()
    assert 'bn_images' not in protocol.protocol_of(cfg, {}, 'ImageNet', 2)  # frozen BN
    cfg.model.backbone.bn_policy = 'train'
    assert 'bn_images' not in protocol.protocol_of(cfg, {}, 'none', 1)
    made = protocol.protocol_of(cfg, {}, 'none', 2)
    assert (made['batch_size'], made['bn_images']) == (4, 2)
    assert 'the 2 images of each process (no SyncBN)' in protocol_summary.summarize(made).bn_policy
