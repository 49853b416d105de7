from __future__ import annotations

import json
import os
import subprocess
import sys
import threading

import pytest

from compactdet.errors import UserError

import sweep_fake

CLUSTER = """
import json, sys, time
from pathlib import Path
from ray.cluster_utils import Cluster

out = Path(sys.argv[1])
small = dict(object_store_memory=100 * 2**20)
cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=0, include_dashboard=False, **small))
nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]
print(cluster.address, flush=True)
end = time.monotonic() + 120
while len(list(out.glob('*/pid'))) < 2:  # a run waits on each node
    assert time.monotonic() < end
    time.sleep(0.1)
cluster.remove_node(nodes[0], allow_graceful=False)
print('removed', flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.mark.slow
def test_a_node_is_removed_and_all_runs_end(tmp_path):
    pytest.importorskip('ray')
    out = tmp_path / 'out'
    out.mkdir()
    names = [f'{arch}_frcnn_c4_shapes_random_seed{seed}' for seed in (0, 1) for arch in 'ab']
    (out / 'script.json').write_text(
        json.dumps({names[0]: ['wait8', 'finish'], names[1]: ['wait8', 'finish']})
    )
    environment = {**os.environ, 'RAY_USAGE_STATS_ENABLED': '0', 'RAY_DEDUP_LOGS': '0'}
    with subprocess.Popen(
        [sys.executable, '-c', CLUSTER, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment,
    ) as cluster:  # fmt: skip
        try:
            address = cluster.stdout.readline().strip()
            done = subprocess.run(
                [sys.executable, sweep_fake.__file__, 'sweep', '--out', 'out', '--ray', address,
                 '--archs', 'a', 'b', '--detectors', 'frcnn_c4', '--datasets', 'shapes', '--init', 'none',
                 '--seeds', '0', '1'],
                cwd=tmp_path, capture_output=True, text=True, timeout=240, env=environment,
            )  # fmt: skip
            assert cluster.stdout.readline() == 'removed\n'
        finally:
            cluster.stdin.close()
            cluster.wait(timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '4 of 4 finished' in done.stdout
    lines = [line.split() for line in (out / 'journal.txt').read_text().splitlines()]
    assert sorted(line[1] for line in lines if line[0] == 'end') == sorted(names)
    begun = [line[1] for line in lines if line[0] == 'begin']
    assert len(begun) == 5  # one of the two was moved to the other node
    assert [line[2] for line in lines if line[0] == 'begin'].count('resumed') == 1
    assert {line[3] for line in lines if line[0] == 'begin'} == {'1'}


def test_without_ray_one_line_says_what_to_install(monkeypatch):
    from compactdet.sweep import ray

    monkeypatch.setitem(sys.modules, 'ray', None)
    with pytest.raises(UserError, match=r'--ray needs Ray: python -m pip install -e "\.\[cluster\]"'):
        ray.connect('auto')


class FakeRay:
    """Ray's calls that a sweep makes, with tasks that run when they are waited for."""

    def __init__(self, room: int) -> None:
        self.room, self.tasks, self.most = room, [], 0
        self.lost: set[str] = set()

    def cluster_resources(self):
        return {'CPU': self.room}

    def remote(self, **options):
        self.options = options

        def of(function):
            class Task:
                @staticmethod
                def remote(folder, job, how, here):
                    self.tasks.append((function, folder, job, how, here))
                    return len(self.tasks) - 1

            return Task

        return of

    def wait(self, references, timeout=None, num_returns=1):
        return references[:1], references[1:]

    def get(self, reference):
        function, folder, job, how, here = self.tasks[reference]
        if job.name in self.lost:
            raise RuntimeError('the node died')
        return function(folder, job, how, here)

    def shutdown(self):
        pass


def test_runs_wait_for_their_pretraining_and_a_lost_task_is_a_failed_run(tmp_path, monkeypatch):
    from compactdet.sweep import ray
    from compactdet.sweep.folder import Folder
    from compactdet.sweep.grid import jobs
    from compactdet.sweep.job_runner import RunOptions

    content = {
        'archs': ['a', 'b'],
        'detectors': ['frcnn_c4'],
        'datasets': ['bccd'],
        'pretrain': {'dataset': 'c'},
    }
    folder = Folder(tmp_path, jobs(content, 'grid'), sweep_fake.suite(tmp_path))
    folder.make(content)
    fake = FakeRay(2)
    fake.lost = {'b_pretraining_c_seed0'}
    monkeypatch.setattr(ray, 'connect', lambda address: fake)
    monkeypatch.chdir(tmp_path)
    states = ray.run(folder, folder.jobs, RunOptions(), threading.Event(), 'auto', 1, 0.5)
    assert fake.options == {'num_cpus': 1, 'num_gpus': 0.5, 'max_retries': ray.NODES_LOST}
    assert states == {
        'a_pretraining_c_seed0': 'finished', 'a_frcnn_c4_bccd_from_c_seed0_seed0': 'finished',
        'b_pretraining_c_seed0': 'failed', 'b_frcnn_c4_bccd_from_c_seed0_seed0': 'blocked',
    }  # fmt: skip
    assert folder.state(folder.jobs[2])['message'] == 'Ray: RuntimeError: the node died'
    lines = [line.split()[:2] for line in (tmp_path / 'journal.txt').read_text().splitlines()]
    assert [name for what, name in lines if what == 'end'] == [job.name for job in folder.jobs[:2]]
