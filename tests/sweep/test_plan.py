from __future__ import annotations

import json
from pathlib import Path

import pytest

from compactdet.detector_costs import detector_costs
from compactdet.records import record_file
from compactdet.sweep import plan as sweep_plan
from compactdet.sweep import plan_view
from compactdet.sweep import speed as sweep_speed
from compactdet.sweep.folder import Folder
from compactdet.sweep.grid import jobs
from compactdet.sweep.jobs import Suite, compose_job_config
from compactdet.sweep.plan import Row, Work
from compactdet.sweep.speed import Estimate, Speed, Speeds

REPO = Path(__file__).parents[2]
TEMPLATE = REPO / 'work_dirs_template'


def speed(arch: str, train_s: float, test_s: float, macs: int, **changed: object) -> Speed:
    values = {'key': 'k', 'gpu': None, 'cpu': 'Quick', 'threads': 1, 'size': (480, 640), **changed}
    return Speed(arch=arch, train_s=train_s, test_s=test_s, macs=macs, **values)


HERE = speed('', 0, 0, 0)


def test_a_measured_network_takes_the_mean_of_its_runs():
    found = sweep_speed.estimate([speed('a', 0.1, 0.2, 10), speed('a', 0.3, 0.4, 10)], 'a', None)
    assert (found.train_s, found.test_s) == (pytest.approx(0.2), pytest.approx(0.3))
    assert (found.basis, found.words, found.hardware) == ('measured', 'measured, 2 runs', 'Quick, 1 thread')


def test_another_network_takes_a_line_through_the_measured_ones():
    two = [speed('a', 0.2, 0.1, 100), speed('a', 0.4, 0.1, 100), speed('b', 0.7, 0.3, 300)]
    found = sweep_speed.estimate(two, 'c', 200)
    # a and b: 0.3 s at 100, 0.7 s at 300: 0.1 s + 0.002 s each
    assert found.train_s == pytest.approx(0.5)
    assert found.test_s == pytest.approx(0.2)
    assert (found.basis, found.words) == ('fitted', 'line through 2 networks')
    beyond = sweep_speed.estimate(two, 'c', 400)
    assert beyond.train_s == pytest.approx(0.9)
    assert beyond.words == 'line through 2 networks, beyond them'
    three = [speed('a', 1, 1, 1), speed('b', 2, 2, 2), speed('c', 6, 3, 3)]
    # least squares: slope 2.5, below 0 at 0, which is not allowed, so that
    # it goes through the origin: slope (1 + 4 + 18) / (1 + 4 + 9) = 23 / 14
    found = sweep_speed.estimate(three, 'd', 14)
    assert found.train_s == pytest.approx(23)
    # worst on 'a': 23/14 is 64 % above 1
    assert found.words == 'line through 3 networks, off by up to 64 % on them, beyond them'


def test_a_line_needs_two_costs_and_is_never_made_up():
    assert sweep_speed.estimate([speed('a', 0.2, 0.1, 100)], 'c', 200) is None
    assert sweep_speed.estimate([speed('a', 0.2, 0.1, 100), speed('b', 0.2, 0.1, 100)], 'c', 200) is None
    # the dearer one was faster: no slope below 0, the mean of the two
    fallen = [speed('a', 0.4, 0.1, 100), speed('b', 0.2, 0.1, 300)]
    assert sweep_speed.estimate(fallen, 'c', 10**6).train_s == pytest.approx(0.3)


def test_measurements_of_one_machine_are_chosen():
    gpu = {'gpu': 'NVIDIA H100 80GB HBM3'}
    every = [speed('a', 1, 1, 1), speed('a', 2, 1, 1, threads=2), speed('a', 3, 1, 1, **gpu),
             speed('b', 4, 1, 1, cpu='Slow'), speed('a', 9, 1, 1, key='other')]  # fmt: skip

    def times(hardware=None, here=HERE, among=every):
        found, why = sweep_speed.choose(among, 'k', hardware, here)
        return [s.train_s for s in found] or why

    assert times() == [1]
    assert times(here=speed('', 0, 0, 0, threads=4)) == [2]  # the nearest number of threads
    assert times('h100') == [3]
    assert times('slow') == [4]
    assert times(here=speed('', 0, 0, 0, **gpu)) == [3]
    assert times('v100') == (
        "no record on hardware 'v100'; there are: "
        'NVIDIA H100 80GB HBM3; Quick, 1 thread; Quick, 2 threads; Slow, 1 thread'
    )
    assert 'no record on this machine' in times(here=speed('', 0, 0, 0, cpu='Other'))
    assert 'no record of this detector and data' in times(among=[])
    assert 'no record of this detector and data' in times(among=[speed('a', None, 1, 1)])


def plan(tmp_path: Path, speeds: Speeds, **given: object) -> list[Row]:
    content = {
        'archs': ['menet_108_8x1_g3'],
        'detectors': ['frcnn_c4'],
        'datasets': ['bccd'],
        'init': ['none'],
    }
    hardware = given.pop('hardware', None)
    found = jobs({**content, **given}, 'grid')
    return sweep_plan.plan(Folder(tmp_path, found, Suite(tmp_path)), found, speeds, hardware)


def test_the_plan_of_a_run_that_was_recorded_is_near_what_it_took(tmp_path):
    """The shipped runs of BCCD: each planned from the records of the others."""
    paths = sorted(TEMPLATE.glob('bccd_random_seed*/record.json'))
    for path in paths:
        record = record_file.read(path)
        others = sweep_speed.read(other for other in paths if other != path)
        (row,) = plan(tmp_path, others, hardware='xeon')
        assert row.work == Work(6 * 205, 4 * 87 + 72, False)  # validated after 4, 5, 6, and the best again
        best_again = 87 / record['evaluation']['images_per_s']  # the record times it nowhere
        took = record['training']['wall_s'] + best_again + record['evaluation']['wall_s']
        assert row.seconds == pytest.approx(took, rel=0.25)


def test_the_arithmetic_of_a_plan():
    estimate = Estimate(0.5, 0.1, 'measured', 'measured, 1 run', 'Quick, 2 threads', False, 2)
    on_gpu = Estimate(0.5, 0.1, 'fitted', 'x', 'H100', True, 16)
    one = Row(('j',) * 3, 1, Work(7000, 1000, True), estimate, None)  # 3600 s each, 2 left
    two = Row(('j',) * 2, 0, Work(14_000, 2000, True), on_gpu, None)  # 7200 s each, 2 left
    unknown = Row(('j',), 0, Work(1, 1, True), None, 'no record')
    assert (one.seconds, two.seconds, unknown.seconds) == (3600, 7200, None)
    assert plan_view.totals([one, two, unknown], 2) == {
        'runs': 6,
        'finished': 1,
        'runs_without_estimate': 1,
        'hours': 7,
        'hours_left': 6,
        'left': {'CPU core hours': 4, 'GPU hours': 4},
        'wall_hours_left': 3,
    }
    assert plan_view.totals([one, two], 100)['wall_hours_left'] == 2  # the longest alone
    assert plan_view.totals([unknown], 1)['wall_hours_left'] == 0


@pytest.mark.parametrize(
    ('dataset', 'train', 'evaluated'),
    [
        ('voc07', 28 * 5011, 4952),
        ('coco', 12 * 117_266, 5000),
        ('coco_600', 8 * 117_266, 5000),
        ('shapes', 3 * 3000, 200 + 500),  # validated after the third epoch
    ],
)
def test_the_papers_runs_are_planned_without_their_data(tmp_path, monkeypatch, dataset, train, evaluated):
    monkeypatch.chdir(tmp_path)
    (row,) = plan(tmp_path, Speeds(), datasets=[dataset])
    assert row.work == Work(train, evaluated, False)
    assert row.seconds is None
    assert 'no record of this detector and data; --measure' in row.why
    (two,) = plan(tmp_path, Speeds(), datasets=[dataset], cfg_options={'train_cfg': {'max_epochs': 6}})
    assert two.work.train == 6 * sweep_plan.IMAGES[dataset][0]


def test_what_moves_the_speed_is_in_the_key_and_the_seed_is_not(tmp_path):
    def key(**given: object) -> str:
        content = {'archs': ['menet_108_8x1_g3'], 'detectors': ['frcnn_c4'], 'datasets': ['bccd']}
        (job,) = jobs({**content, 'init': ['none'], **given}, 'grid')
        return sweep_speed.key_of(sweep_plan.protocol_of(job, compose_job_config(job, tmp_path)))

    assert key() == key(seeds=[5]) == key(lr=0.5) == key(archs=['ghostnet_1x']) == key(schedule='2x')
    changes = [
        {'detectors': ['retinanet_fpn']}, {'datasets': ['shapes']}, {'frozen_stages': [2]},
        {'cfg_options': {'train_dataloader.batch_size': 2}},
    ]  # fmt: skip
    assert len({key(), *(key(**change) for change in changes)}) == 5


def test_a_set_that_is_there_is_counted(tmp_path, tiny_set):
    (row,) = plan(tmp_path, Speeds(), datasets=['custom'], data_root={'custom': str(tiny_set)})
    assert (row.work.train, row.work.counted) == (12 * 4, True)


def test_records_that_cannot_be_used_are_left_out_and_counted(tmp_path):
    record = json.loads((TEMPLATE / 'bccd_random_seed0' / 'record.json').read_text())
    for name, text in {
        'good': json.dumps(record),
        'cut': '{',
        'edited': json.dumps({**record, 'seed': 9}),
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / 'record.json').write_text(text)
    found = sweep_speed.read([tmp_path, tmp_path / 'good', tmp_path / 'none'])
    assert len(found.all) == 1
    assert len(found.unreadable) == 2
    (only,) = found.all
    assert only.train_s == pytest.approx(1 / record['training']['images_per_s'])
    assert only.test_s == pytest.approx(record['evaluation']['wall_s'] / 72)
    assert only.macs == record['costs']['at_input']['total_macs']


def test_learned_sparsity_is_planned_in_the_form_that_trains(tmp_path):
    """Networks that take 1 ns a multiply-add of training; a record has those of the test-time form."""
    archs = ['menet_108_8x1_g3', 'mobilenet_0.25x', 'sfr_shufflenetv2_0.5x', 'condensenetv2_a']
    content = {'archs': archs, 'detectors': ['frcnn_c4'], 'datasets': ['bccd'], 'init': ['none']}
    asked = jobs(content, 'grid')
    cfgs = [compose_job_config(job, tmp_path) for job in asked]
    trained = [sweep_plan.macs_of(job, cfg, (480, 640)) for job, cfg in zip(asked, cfgs, strict=True)]
    stored = [detector_costs(cfg.model, 480, 640).total_macs for cfg in cfgs]
    assert trained[:2] == stored[:2]
    assert all(dense > 1.5 * sparse for dense, sparse in zip(trained[2:], stored[2:], strict=True))
    key = sweep_speed.key_of(sweep_plan.protocol_of(asked[0], cfgs[0]))
    here = vars(sweep_plan.this_machine(1)) | {'key': key, 'size': (480, 640)}
    told = [Speed(**here | {'arch': 'their_own', 'train_s': 9e-9, 'test_s': 9e-9, 'macs': 9})]
    for arch, dense, sparse in zip(archs[:3], trained, stored, strict=False):
        times = {'train_s': dense * 1e-9, 'test_s': dense * 1e-9}
        told.append(Speed(**here | times | {'arch': arch, 'macs': sparse}))
    folder = Folder(tmp_path, asked, Suite(tmp_path))
    (row,) = sweep_plan.plan(folder, asked[3:], Speeds(told))
    assert row.estimate.train_s == pytest.approx(trained[3] * 1e-9)
    assert row.estimate.words.startswith('line through 4 networks, off by up to 0 % on them')


def test_macs_are_those_of_the_record(tmp_path):
    record = record_file.read(TEMPLATE / 'bccd_random_seed0' / 'record.json')
    content = {'archs': [record['arch']], 'detectors': ['frcnn_c4'], 'datasets': ['bccd'], 'init': ['none']}
    (job,) = jobs(content, 'grid')
    at_input = record['costs']['at_input']
    size = (at_input['height'], at_input['width'])
    assert sweep_plan.macs_of(job, compose_job_config(job, tmp_path), size) == at_input['total_macs']


def test_the_command_line(run_tool, tmp_path):
    axes = ['--archs', 'menet_108_8x1_g3', '--detectors', 'frcnn_c4', '--datasets', 'bccd', 'voc07']
    arguments = [*axes, '--seeds', 0, 1, '--init', 'none', '--plan', '--measured', TEMPLATE]
    status, out, err = run_tool('sweep', *arguments, '--hardware', 'xeon')
    assert (status, err) == (0, '')
    assert 'measured, 6 runs: Intel(R) Xeon(R) Processor, 1 thread' in out
    assert '4 runs, 0 finished' in out
    assert '2 runs are not in these sums: their speed is not known' in out
    status, out, _ = run_tool('sweep', *arguments, '--hardware', 'xeon', '--format', 'json', '--jobs', 2)
    found = json.loads(out)
    first, second = found['rows']
    assert first['seconds_a_run'] == pytest.approx(
        first['train_images'] * first['estimate']['train_s']
        + first['evaluated_images'] * first['estimate']['test_s']
    )
    assert found['hours'] == pytest.approx(2 * first['seconds_a_run'] / 3600)
    assert (second['seconds_a_run'], second['estimate']) == (None, None)
    status, out, err = run_tool('sweep', *axes[:1], 'menet_108', *axes[2:], '--plan')
    assert (status, err.count('\n')) == (1, 1)
    assert 'near: ' in err


@pytest.mark.slow
def test_what_has_no_record_is_timed(tmp_path, tiny_set):
    content = {
        'archs': ['menet_108_8x1_g3'],
        'detectors': ['frcnn_c4'],
        'datasets': ['custom'],
        'schedule': 'shapes',
    }
    found = jobs({**content, 'data_root': {'custom': str(tiny_set)}, 'init': ['none']}, 'grid')
    folder = Folder(tmp_path, found, Suite(tmp_path))
    (row,) = sweep_plan.plan(folder, found, Speeds(), None, 1, 2)
    assert row.estimate.basis == 'timed'
    assert row.estimate.train_s > 0
    assert row.estimate.test_s > 0
