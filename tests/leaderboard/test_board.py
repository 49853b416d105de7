"""The leaderboard: what is grouped, what is ranked and what it refuses."""

import json
import re
from pathlib import Path

import pytest

from compactdet.deploy import latency_file
from compactdet.deploy.latency import LIMITS
from compactdet.errors import UserError
from compactdet.leaderboard import latencies, ranking, writers
from compactdet.leaderboard.board import make
from compactdet.records import environment, record_file

from leaderboard_runs import MAIN, TEMPLATE, board, example_record, measured, run, seeds

# Grouping


def test_rows_seeds_and_ranks(tmp_path):
    seeds(tmp_path, 'good', 0.80, 0.81, 0.82)
    seeds(tmp_path, 'like_it', 0.79, 0.81, 0.82)
    seeds(tmp_path, 'worse', 0.60, 0.61, 0.62)
    seeds(tmp_path, 'once', 0.99)
    (group,) = measured(board(tmp_path))
    rows = {row.network: row for row in group.rows}
    values = {name: row.metrics[MAIN] for name, row in rows.items()}
    assert list(rows) == ['once', 'good', 'like_it', 'worse']
    assert {name: value.ranks for name, value in values.items()} == {
        'good': [1, 2], 'like_it': [1, 2], 'worse': [3, 3], 'once': [],
    }  # fmt: skip
    assert values['good'].mean == pytest.approx(0.81)
    assert values['good'].sd == pytest.approx(0.01)
    assert (values['once'].mean, values['once'].sd) == (0.99, None)
    assert (values['once'].seeds_interval, values['once'].images_interval) == (None, None)
    assert rows['good'].class_ap == {MAIN: {'RBC': pytest.approx(0.81), 'WBC': pytest.approx(0.81)}}
    assert rows['good'].costs['latency_ms'] is None


def test_networks_on_one_seed_each_are_never_ranked_apart(tmp_path):
    for arch, ap in (('a', 0.9), ('b', 0.1), ('c', 0.5)):
        run(tmp_path, arch, 0, ap)
    (group,) = measured(board(tmp_path))
    assert [row.metrics[MAIN].ranks for row in group.rows] == [[], [], []]


def test_two_weights_files_of_a_network_are_two_rows(tmp_path):
    init = example_record()['init']
    seeds(tmp_path, 'net', 0.8, 0.9)
    for path in sorted(tmp_path.rglob('record.json')):
        record = json.loads(path.read_text())
        record['init'] = {**init, 'file': 'other.safetensors', 'sha256': 'b' * 64}
        (path.parent / 'other').mkdir()
        record_file.write(path.parent / 'other' / 'record.json', record)
    (group,) = measured(board(tmp_path))
    assert [len(row.seeds) for row in group.rows] == [2, 2]
    assert sorted(row.label for row in group.rows)[1] == 'net (other.safetensors)'


def test_protocols_are_never_ranked_together(tmp_path):
    seeds(tmp_path, 'a', 0.80, 0.81)
    seeds(tmp_path, 'c', 0.70, 0.71)
    seeds(tmp_path, 'b', 0.50, 0.51, protocol={'init': 'ImageNet', 'optimiser': {'lr': 0.01}})
    groups = measured(board(tmp_path))
    ranks = [[row.metrics[MAIN].ranks for row in group.rows] for group in groups]
    assert ranks == [[[1, 1], [2, 2]], [[]]]  # one that stands alone is first of nothing
    assert len({group.key for group in groups}) == 2
    for group in board(tmp_path).groups:
        if group.kind == 'published':
            assert all(value.ranks is None for row in group.rows for value in row.metrics.values())


def test_a_seed_counts_once(tmp_path):
    seeds(tmp_path / 'a', 'net', 0.80, 0.82)
    run(
        tmp_path / 'b', 'net', 0, 0.10, created_utc='2026-11-21T00:00:00Z'
    )  # the run key of the first, later
    text = 'seed = 0  # slower\n'
    changed = {'created_utc': '2026-11-22T00:00:00Z', 'config': {'file': 'x.py', 'text': text}}
    run(tmp_path / 'b', 'net', 1, 0.20, **changed)  # another config text, but nothing that moves the result
    made = board(tmp_path)
    (row,) = measured(made)[0].rows
    assert (row.seeds, row.metrics[MAIN].values) == ([0, 1], [0.80, 0.82])
    assert made.summary.startswith('2 runs of 1 network (2 more records repeat a seed')


def test_added_records_are_marked_and_do_not_displace_own(tmp_path):
    seeds(tmp_path / 'own', 'net', 0.80, 0.82)
    run(tmp_path / 'theirs', 'net', 0, 0.10, created_utc='2020-01-01T00:00:00Z')
    run(tmp_path / 'theirs', 'other', 0, 0.70)
    (group,) = measured(board(tmp_path / 'own', add=(tmp_path / 'theirs',)))
    rows = {row.network: row for row in group.rows}
    assert (rows['net'].added, rows['net'].metrics[MAIN].values) == (False, [0.80, 0.82])
    assert (rows['other'].added, rows['other'].source) == (True, 'measured, added')


def test_interval_over_images_has_its_own_column(tmp_path):
    run(tmp_path, 'net', 0, 0.80, images=(0.78, 0.83))
    run(tmp_path, 'net', 1, 0.82, images=(0.80, 0.85))
    run(tmp_path, 'bare', 0, 0.50, images=(0.4, 0.6))
    run(tmp_path, 'bare', 1, 0.52)
    rows = {row.network: row.metrics[MAIN] for row in measured(board(tmp_path))[0].rows}
    assert rows['net'].images_interval == pytest.approx([0.79, 0.84])
    assert rows['net'].seeds_interval == pytest.approx(ranking.t_interval([0.80, 0.82]))
    assert rows['bare'].images_interval is None


def test_an_undefined_figure_is_no_number_and_comes_last(tmp_path):
    seeds(tmp_path, 'known', 0.1, 0.2)
    run(tmp_path, 'unknown', 0, None)
    run(tmp_path, 'unknown', 1, 0.9)
    made = board(tmp_path)
    assert [row.network for row in measured(made)[0].rows] == ['known', 'unknown']
    assert measured(made)[0].rows[1].metrics[MAIN].mean is None
    assert writers.page(made)


def latency_json(path, ratios, usable=True, backends=('eager',)):
    """Writes a latency.json of a reference of 10 ms and networks with ratios: value, low, high."""

    def interval(values):
        return dict(zip(('value', 'low95', 'high95'), values, strict=True))

    hardware = dict(cpu='a CPU', cores=2, threads=1, gpu=None, gpu_memory_bytes=None, memory_bytes=None)
    load = dict.fromkeys(('other_cores', 'stolen_share', 'frequency_change', 'throttled', 'energy_j'))
    results = [
        {
            'name': name, 'backend': backend, 'threads': 1, 'batch': 1, 'size': [224, 224],
            'median_ms': interval([10 * value for value in ratio or (1, 1, 1)]),
            'p90_ms': 20.0, 'p99_ms': None, 'ratio': ratio and interval(ratio),
            'inferences': 9, 'warm_up': 3, 'memory_mb': None, 'energy_mj': None,
        }
        for backend in backends for name, ratio in ratios.items()
    ]  # fmt: skip
    value = {
        'schema_version': 1, 'created_utc': '2026-11-27T00:00:00Z', 'command': 'a command',
        'reference': 'a', 'rounds': 5, 'usable': usable,
        'problems': [] if usable else ['other processes used 2 cores'],
        'limits': LIMITS, 'load': {'wall_s': 1.0, **load}, 'hardware': {**hardware, 'platform': 'Linux'},
        'versions': environment.versions(), 'results': results,
    }  # fmt: skip
    latency_file.write(path, value)
    return path


def test_latencies_whose_ratio_may_be_1_are_not_ordered(tmp_path):
    for arch, ap in (('a', 0.5), ('b', 0.6), ('c', 0.55), ('d', 0.4)):
        run(tmp_path / 'runs', arch, 0, ap)
    ratios = {'a': None, 'b': (2.0, 1.9, 2.1), 'c': (2.05, 1.95, 2.2), 'd': (1.5, 1.4, 1.6)}
    latency = latencies.read(latency_json(tmp_path / 'latency.json', ratios))
    (group,) = measured(make([str(tmp_path / 'runs')], [], tmp_path / 'out', latency))
    rows = {row.network: row for row in group.rows}
    assert rows['b'].costs['latency_ms'] == 20
    assert rows['b'].latency_interval == (19, 21)
    assert rows['b'].machine == 'a CPU, eager, threads: 1, batch: 1, 224x224'
    others = latencies.read(latency_json(tmp_path / 'others.json', {'x': None}))
    with pytest.raises(UserError, match=r'the file has x, none of which .* \(a, b, c, d\); run tools'):
        make([str(tmp_path / 'runs')], [], tmp_path / 'out', others)
    names = {row.id: row.network for row in group.rows}
    # d is slower and worse than a; c is worse than b, but not surely slower
    assert [names[id] for id in group.frontiers['latency_ms'][MAIN]] == ['a', 'b', 'c']


def test_latencies_that_are_not_usable(tmp_path):
    path = latency_json(tmp_path / 'latency.json', {'a': None}, usable=False)
    with pytest.raises(UserError, match=r'not usable \(other processes used 2 cores\); measure again'):
        latencies.read(path)
    path = latency_json(tmp_path / 'latency.json', {'a': None}, backends=('eager', 'onnxruntime'))
    with pytest.raises(UserError, match='has several settings'):
        latencies.read(path)


def test_the_committed_records():
    groups = measured(board(TEMPLATE))
    means = sorted(
        (g.title, len(g.rows), round(100 * g.rows[0].metrics[g.main_metric].mean, 1)) for g in groups
    )
    assert means == sorted([
        ('BCCD · frcnn_c4 · ImageNet (ILSVRC 2012) weights', 2, 86.2),
        ('BCCD · frcnn_c4 · CIFAR-10 weights', 11, 54.5),
        ('BCCD · frcnn_c4 · weights of unstated training', 1, 59.2),
        ('BCCD · frcnn_c4 · random weights', 4, 61.5),
        ('BCCD · frcnn_c4 · random weights', 11, 55.3),
        ('BCCD · frcnn_fpn · ImageNet (ILSVRC 2012) weights', 1, 87.4),
        ('BCCD · retinanet_fpn · ImageNet (ILSVRC 2012) weights', 1, 68.0),
        ('shapes · frcnn_c4 · CIFAR-10 weights', 11, 66.9),
        ('shapes · frcnn_c4 · random weights', 1, 74.0),
        ('shapes · frcnn_c4 · random weights, stem and 2 stages frozen', 1, 34.6),
        # in float32 without TF32, and in bfloat16, on a GPU
        ('BCCD · frcnn_c4 · ImageNet (ILSVRC 2012) weights', 1, 83.3),
        ('BCCD · frcnn_c4 · ImageNet (ILSVRC 2012) weights', 1, 85.6),
    ])  # fmt: skip
    assert len(groups[0].rows) == len(groups[1].rows) == 11  # most networks first, controls last
    assert [group.control for group in groups] == [False] * 8 + [True] * 4
    # One network, three detectors: one cost of the network
    costs = {
        row.costs['network_macs'] for g in groups for row in g.rows if row.network == 'menet_108_8x1_g3'
    }
    assert costs == {38287440}
    (imagenet,) = [g for g in groups if 'frcnn_c4 · ImageNet' in g.title and len(g.rows) == 2]
    top1 = {row.network: row.top1 for row in imagenet.rows}
    assert top1 == {'mobilenet_0.75x': None, 'menet_108_8x1_g3': pytest.approx(0.5608)}


def test_published_rows_are_the_papers():
    groups = {g.key: g for g in board(TEMPLATE).groups if g.kind == 'published'}
    voc = groups['arXiv:1803.09127/voc07_c4']
    best = voc.rows[0]
    assert (best.network, best.metrics['voc/ap50'].mean) == ('menet_456_24x1_g3', 0.655)
    assert (best.costs['network_macs'], best.source) == (551e6, 'MENet paper, Table VIII')
    assert best.class_ap['voc/ap50']['aeroplane'] == pytest.approx(0.692)
    labels = [row.label for row in groups['arXiv:1707.01083/coco_frcnn_300'].rows]
    assert labels[1:3] == [
        'mobilenet_1x (1.0 MobileNet-224 [12])',
        'mobilenet_1x (1.0 MobileNet-224 (our impl.))',
    ]
    fpn = groups['arXiv:2104.04382/coco_frcnn_fpn']
    (row,) = [row for row in fpn.rows if row.network == 'shufflenetv2_1x']
    assert 'printed: model ShuffleNetV2 0.5x' in row.note
    assert all('seed 00' not in repr(group) for group in groups.values())


# What is refused


def spoil(path: Path, how: str) -> str:
    """Spoils a record; returns what the error must name."""
    record = json.loads(path.read_text())
    if how == 'not valid JSON':
        path.write_text('{"arch": ')
        return 'not a JSON file'
    if how == 'missing':
        del record['costs']['params']['total']
        name = r'\$\.costs\.params'
    elif how == 'edited':
        record['protocol']['optimiser']['lr'] = 5
        name = r'\$\.keys\.protocol'
    elif how == 'percent':
        record['metrics']['test'][MAIN] = 80.0
        name = r"\$\.metrics\.test\['voc/ap50_11point'\] is 80\.0"
    elif how == 'share':
        record['init']['pretraining']['top1'] = 5608
        name = r'\$\.init\.pretraining\.top1 is 5608'
    else:
        record['metrics']['test'][MAIN] = float('nan')
        name = r'\$\.metrics\.test\.voc/ap50_11point is NaN'
    path.write_text(json.dumps(record))
    return name


@pytest.mark.parametrize('how', ['not valid JSON', 'missing', 'edited', 'percent', 'share', 'NaN'])
@pytest.mark.parametrize('added', [False, True])
def test_a_bad_record_is_one_line_and_nothing_is_written(tmp_path, run_tool, how, added):
    good, bad = run(tmp_path / 'good', 'net', 0, 0.8), run(tmp_path / 'bad', 'net', 1, 0.8)
    name = spoil(bad, how)
    arguments = [good, '--add', bad] if added else [good, bad]
    status, out, err = run_tool('leaderboard', *arguments, '--out', tmp_path / 'out')
    assert (status, out) == (1, '')
    assert err.startswith(f'error: {bad}: ')
    assert err.count('\n') == 1
    assert re.search(name, err)
    assert not (tmp_path / 'out').exists()


def test_no_record_and_no_folder(tmp_path, run_tool):
    status, _, err = run_tool('leaderboard', tmp_path, '--out', tmp_path / 'out')
    assert (status, 'no record.json in it' in err) == (1, True)
    (tmp_path / 'file').write_text('')
    status, _, err = run_tool('leaderboard', TEMPLATE, '--out', tmp_path / 'file')
    assert (status, 'cannot be written' in err, err.count('\n')) == (1, True, 1)
