"""The latency study: correlations, factors, Pareto frontier, its files and its option of the tool."""

import json
from pathlib import Path

import numpy as np
import pytest

from compactdet.deploy.latency import Interval
from compactdet.errors import UserError
from compactdet.latency_study import networks, report, study
from compactdet.latency_study.networks import DENSE, DEPTHWISE, GROUPED, StudyNetwork
from compactdet.latency_study.study import family_interval, make_study, pareto_frontier

NAMES = ['menet_108_8x1_g3', 'shufflenet_0.25x_g1', 'mobilenet_0.25x', 'shufflenetv2_0.5x', 'squeezenet1_0']


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch) -> None:
    monkeypatch.setattr(study, 'RESAMPLES', 300)
    monkeypatch.setattr(study, 'FAMILY_RESAMPLES', 200)


def network(name: str, macs: float, ms: float, *, family='a', kind=DEPTHWISE, memory=1.0, top1=None):
    return StudyNetwork(
        name, family, kind, top1, int(macs), 10, int(memory),
        {'onnxruntime': Interval(ms, ms, ms)}, {'onnxruntime': Interval(ms, ms * 0.95, ms * 1.05)},
    )  # fmt: skip


def latency_content(latencies: dict[str, float]) -> dict:
    """Return a latency.json of two backends; the second takes half the time."""
    results = [
        {
            'name': name, 'backend': backend, 'threads': 1, 'batch': 1, 'size': [224, 224],
            'median_ms': {'value': ms * factor, 'low95': ms * factor, 'high95': ms * factor},
            'p90_ms': ms, 'p99_ms': None, 'inferences': 9, 'warm_up': 1, 'memory_mb': None,
            'energy_mj': None,
            'ratio': None if index == 0 else {'value': ms, 'low95': ms, 'high95': ms},
        }
        for backend, factor in (('eager', 1.0), ('onnxruntime', 0.5))
        for index, (name, ms) in enumerate(latencies.items())
    ]  # fmt: skip
    return {
        'schema_version': 1, 'created_utc': '2026-01-02T03:04:05Z', 'command': 'python tools/latency.py',
        'reference': NAMES[0], 'rounds': 5, 'usable': True, 'problems': [], 'limits': {},
        'load': dict.fromkeys(
            ('other_cores', 'stolen_share', 'frequency_change', 'throttled', 'energy_j')
        ) | {'wall_s': 1.0},
        'hardware': dict.fromkeys(('gpu', 'gpu_memory_bytes', 'memory_bytes'))
        | {'cpu': 'a CPU', 'cores': 2, 'threads': 1, 'platform': 'Linux'},
        'versions': {'python': '3.11'}, 'results': results,
    }  # fmt: skip


def test_a_cost_that_orders_the_networks_by_latency_has_rho_1() -> None:
    found = [
        network(str(i), 1e6 * 2**i, 3.0 * 2**i, memory=memory)
        for i, memory in enumerate([5, 1, 4, 2, 6, 3])
    ]
    (result,) = make_study(found)
    macs, params, memory = result.costs
    assert macs.rho.value == pytest.approx(1)
    assert params.rho.value is None  # all networks have the same
    assert memory.rho.value == pytest.approx(1 - 6 * (16 + 1 + 1 + 4 + 1 + 9) / 210)
    assert result.memory_minus_macs.value == pytest.approx(memory.rho.value - 1)
    assert result.exponent == pytest.approx(1)


def test_a_network_that_takes_four_times_the_predicted_latency() -> None:
    rng = np.random.default_rng(0)
    found = [
        network(str(i), 1e6 * 1.3**i, 1.3**i * (1 + 0.02 * rng.random()), kind=DENSE) for i in range(12)
    ]
    found.append(network('slow', 1e6 * 1.3**6, 4 * 1.3**6, kind=GROUPED))
    (result,) = make_study(found)
    assert [factor.name for factor in result.slower] == ['slow']
    assert result.factors[0].factor == pytest.approx(4 ** (12 / 13), rel=0.02)  # the fit moves by a 13th
    product = result.kinds[GROUPED].value * result.kinds[DENSE].value ** 12
    assert product == pytest.approx(1)  # residuals of a least-squares fit sum to 0
    assert result.kinds[GROUPED].low is None  # one network has no interval


def test_the_frontier_orders_only_what_the_intervals_order() -> None:
    found = [
        network('fast', 1, 1.0, top1=60.0),
        network('dominated', 1, 2.0, top1=59.0),
        network('equal', 1, 1.02, top1=60.0),  # 5 % intervals overlap
        network('accurate', 1, 3.0, top1=70.0),
        network('unknown', 1, 0.1),
    ]
    assert pareto_frontier(found, 'onnxruntime') == ('equal', 'fast', 'accurate')


def test_families_that_disagree_widen_the_interval() -> None:
    rising = [(np.arange(5.0), np.arange(5.0))] * 4
    falling = (np.arange(5.0), -np.arange(5.0))
    assert family_interval(rising) == pytest.approx((1, 1))
    low, high = family_interval([*rising, falling])
    assert low < 0.6
    assert high == pytest.approx(1)


def test_kinds_of_convolution() -> None:
    kinds = [networks.convolution_kind(name) for name in (*NAMES, 'condensenetv2_a')]
    assert kinds == [GROUPED, DEPTHWISE, DEPTHWISE, DEPTHWISE, DENSE, GROUPED]


def test_accuracy_is_that_of_the_own_paper() -> None:
    assert networks.top1('menet_228_12x1_g3') == 66.43
    assert networks.top1('starnet_s2') == 74.8
    assert networks.top1('gmnet_baseline') is None


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda content: content['results'][0].update(threads=2), 'several numbers of threads'),
        (
            lambda content: content['results'][0].update(name='my.onnx'),
            'my.onnx is not the name of a network',
        ),
        (
            lambda content: content.update(results=content['results'][:4]),
            '4 networks; a study needs at least 5',
        ),
    ],
)
def test_a_file_that_is_no_base_of_a_study(change, message: str) -> None:
    content = latency_content(dict.fromkeys(NAMES, 1.0))
    change(content)
    with pytest.raises(UserError, match=message):
        networks.from_latencies(content, 'latency.json')


def test_the_tool_studies_a_file(run_tool, tmp_path: Path) -> None:
    content = latency_content(dict(zip(NAMES, (5.0, 3.0, 2.0, 4.0, 9.0), strict=True)))
    source = tmp_path / 'latency.json'
    source.write_text(json.dumps(content), encoding='utf-8')
    status, out, err = run_tool('latency', source, '--study', tmp_path / 'out')
    assert status == 0, err
    assert [line.rpartition('/')[2] for line in out.splitlines()] == [*report.FILES]
    value = json.loads((tmp_path / 'out' / 'study.json').read_text(encoding='utf-8'))
    assert value['backends'][1]['eager_ratio'] == dict.fromkeys(NAMES, 0.5)
    text = (tmp_path / 'out' / 'report.md').read_text(encoding='utf-8')
    assert 'the 4 networks with at most 300 million multiply-adds: median 0.50' in text


def test_nothing_to_measure(run_tool) -> None:
    status, _, err = run_tool('latency')
    assert status == 2
    assert 'or --study DIR for all networks' in err


@pytest.mark.slow
def test_the_committed_study_is_that_of_its_measurement(tmp_path: Path, run_tool, monkeypatch) -> None:
    monkeypatch.undo()  # all resamples
    folder = Path('work_dirs_template/latency_study')
    status, _, err = run_tool('latency', folder / 'latency.json', '--study', tmp_path)
    assert status == 0, err
    for name in ('report.md', 'study.json'):
        assert (tmp_path / name).read_text() == (folder / name).read_text()
