"""The latency rig: rounds, statistics, disturbances, its file and its tool."""

import copy
import itertools
import json
import time
from pathlib import Path

import numpy as np
import pytest

from compactdet.deploy import latency, latency_file, latency_table, machine_load
from compactdet.deploy.latency import Candidate, Interval, measure
from compactdet.deploy.machine_load import Load, Snapshot, between
from compactdet.errors import UserError

QUIET = Load(1.0, 0.0, 0.0, 1.0, 0, None)


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Replace the clock by one that only candidates advance; returns its time in seconds."""
    now = [0.0]
    monkeypatch.setattr(time, 'perf_counter', lambda: now[0])
    monkeypatch.setattr(time, 'monotonic', lambda: now[0])
    return now


def candidate(clock: list[float], name: str, milliseconds, calls: list[str] | None = None) -> Candidate:
    durations = itertools.cycle(milliseconds)

    def run() -> None:
        clock[0] += next(durations) / 1e3
        if calls is not None:
            calls.append(name)

    return Candidate(name, 'eager', 1, 1, (224, 224), run)


def test_medians_percentiles_and_ratios_by_hand(clock) -> None:
    fast, slow = candidate(clock, 'fast', [4.0]), candidate(clock, 'slow', [10.0, 10.0, 10.0, 20.0, 10.0])
    found = measure([fast, slow], rounds=5, reference='fast')
    one, other = found.results
    assert vars(one.median) == pytest.approx(vars(Interval(4.0, 4.0, 4.0)))
    assert one.p90 == one.p99 or one.p99 is None
    assert one.ratio is None
    assert other.median.value == pytest.approx(10.0)
    assert other.p90 == pytest.approx(20.0)
    assert other.ratio.value == pytest.approx(2.5)
    assert found.rounds == 5


def test_the_first_inference_of_a_turn_is_not_timed(clock) -> None:
    cold = candidate(clock, 'a', [90.0, 60.0])
    assert latency.turn(cold.run) == pytest.approx([60.0])


def test_rounds_are_interleaved(clock) -> None:
    calls: list[str] = []
    names = ['a', 'b', 'c']
    measure([candidate(clock, name, [60.0], calls) for name in names], rounds=20)
    timed = calls[-120::2]  # of each turn's two inferences
    rounds = [timed[i : i + 3] for i in range(0, 60, 3)]
    assert all(sorted(order) == names for order in rounds)
    assert len({tuple(order) for order in rounds}) > 3
    assert [*map(tuple, rounds)] != sorted(map(tuple, rounds))


def test_the_warm_up_ends_when_the_latency_is_stable(clock) -> None:
    falling = itertools.chain([60.0, 40.0, 30.0, 20.0], itertools.repeat(10.0))
    assert latency.warm_up(Candidate('a', 'eager', 1, 1, (8, 8), lambda: advance(clock, falling))) > 8
    unstable = itertools.cycle([60.0, 60.0, 120.0, 120.0])  # two inferences a turn
    latency.warm_up(Candidate('a', 'eager', 1, 1, (8, 8), lambda: advance(clock, unstable)))
    start = clock[0]
    latency.warm_up(Candidate('a', 'eager', 1, 1, (8, 8), lambda: advance(clock, unstable)))
    assert latency.WARM_UP_S <= clock[0] - start < latency.WARM_UP_S + 0.25


def advance(clock: list[float], durations) -> None:
    clock[0] += next(durations) / 1e3


def test_the_interval_of_a_median_covers_it_in_95_percent() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(300):
        turns = [rng.normal(10 + rng.normal(0, 1), 0.1, 20) for _ in range(30)]
        interval = latency.median_interval(turns, rng)
        covered += interval.low <= 10 <= interval.high
    assert 0.90 <= covered / 300 <= 0.99


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'other_cores': 0.8}, 'other processes used 0.80 cores (limit 0.25)'),
        ({'stolen_share': 0.1}, 'the hypervisor took 10.0% of the CPU time (limit 0.02)'),
        ({'frequency_change': 1.5}, 'the CPU frequency changed by a factor of 1.50 (limit 1.2)'),
        ({'throttled': 3}, 'the CPU was throttled 3 times (limit 0)'),
    ],
)
def test_a_disturbed_machine_is_noticed(change: dict, message: str) -> None:
    load = Load(**{**vars(QUIET), **change})
    assert latency.find_problems(load) == [message]
    unknown = Load(1.0, None, None, None, None, None)
    assert latency.find_problems(unknown) == []


def test_an_uncertain_median_is_noticed(clock, capsys) -> None:
    (steady,) = measure([candidate(clock, 'a', [10.0])], rounds=5).results
    assert latency.uncertainty(steady.median) == pytest.approx(0)
    found = measure([candidate(clock, 'a', [60.0, 60.0, 90.0, 90.0])], rounds=7)
    assert latency.uncertainty(found.results[0].median) > latency.LIMITS['interval']
    assert found.problems == tuple(latency.find_problems(found.load))  # the machine is not at fault
    hardware = dict(cpu='a CPU', cores=2, threads=1, gpu=None, gpu_memory_bytes=None, memory_bytes=None)
    value = latency_file.content(found, None, {}, {**hardware, 'platform': 'Linux'}, 'a command')
    assert latency_file.is_uncertain(value['results'][0], value['limits'])
    latency_table.show(value)
    assert '1 of 1 medians are uncertain by more than 5%' in capsys.readouterr().out


def test_load_by_hand() -> None:
    first = Snapshot(100.0, 10.0, 50.0, 1.0, 200.0, (2000, 2400), 1, 999_000_000)
    last = Snapshot(110.0, 16.0, 61.0, 2.0, 220.0, (3000, 2400), 4, 1_000_500_000)
    found = between(first, last)
    assert found == Load(10.0, 0.5, 0.05, 1.5, 3, 1.5)


def test_a_machine_that_tells_nothing(monkeypatch) -> None:
    monkeypatch.setattr(machine_load, '_read', lambda path: '')
    found = between(machine_load.snapshot(), machine_load.snapshot())
    assert [found.other_cores, found.stolen_share, found.throttled, found.energy_j] == [None] * 4


def content(clock) -> dict:
    found = measure([candidate(clock, 'fast', [4.0]), candidate(clock, 'slow', [10.0])], 3, 'fast')
    hardware = dict(cpu='a CPU', cores=2, threads=1, gpu=None, gpu_memory_bytes=None, memory_bytes=None)
    return latency_file.content(found, 'fast', {0: 1.5}, {**hardware, 'platform': 'Linux'}, 'a command')


def test_the_file_is_checked(clock, tmp_path: Path) -> None:
    value = content(clock)
    path = tmp_path / 'latency.json'
    latency_file.write(path, value)
    assert latency_file.read(path) == json.loads(json.dumps(value))
    for place, wrong in (('usable', 'yes'), ('reference', 3), ('results', [])):
        changed = copy.deepcopy(value)
        changed[place] = wrong
        path.write_text(json.dumps(changed))
        with pytest.raises(UserError, match=rf'latency.json: {place}.*only tools/latency.py writes'):
            latency_file.read(path)


def test_the_tool(run_tool, tmp_path: Path) -> None:
    path = tmp_path / 'latency.json'
    arguments = ['menet_108_8x1_g3', 'mobilenet_0.25x', '--size', '64', '--rounds', '2', '--json', path]
    status, out, _ = run_tool('latency', *arguments)
    value = latency_file.read(path)
    assert status == (0 if value['usable'] else 1)
    assert [result['name'] for result in value['results']] == ['menet_108_8x1_g3', 'mobilenet_0.25x']
    assert value['results'][0]['ratio'] is None
    assert value['results'][1]['ratio']['value'] > 0
    assert 'ratio: latency over that of menet_108_8x1_g3' in out


@pytest.mark.parametrize(
    ('arguments', 'status', 'message'),
    [
        (['nosuchnet'], 1, "error: unknown arch 'nosuchnet'"),
        (['no.onnx', '--backends', 'onnxruntime'], 1, "error: 'no.onnx': no such file"),
        (['menet_108_8x1_g3', '--rounds', '1'], 2, '--rounds is at least 2'),
        (['menet_108_8x1_g3', '--threads', '0'], 2, 'at least 1'),
        (['menet_108_8x1_g3'] * 2, 2, 'each target is given once'),
    ],
)
def test_errors(arguments: list[str], status: int, message: str, run_tool) -> None:
    found, _, err = run_tool('latency', *arguments)
    assert found == status
    assert message in err


def test_an_onnx_file_of_another_input_size(run_tool, tmp_path: Path) -> None:
    path = tmp_path / 'net.onnx'
    run_tool('export', '--arch', 'menet_108_8x1_g3', '--size', '64', '--out', path)
    status, _, err = run_tool('latency', path, '--backends', 'onnxruntime', '--size', '96')
    assert status == 1
    assert 'net.onnx takes 1x3x64x64, not 1x3x96x96' in err
    path.write_bytes(path.read_bytes()[:1000])
    status, _, err = run_tool('latency', path, '--backends', 'onnxruntime')
    assert status == 1
    assert 'net.onnx: ONNX Runtime cannot load it' in err
    assert err.count('\n') == 1


def test_a_backend_that_is_not_installed(run_tool, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, 'openvino', None)
    found, _, err = run_tool('latency', 'menet_108_8x1_g3', '--backends', 'openvino')
    assert (found, err) == (
        1,
        'error: the backend openvino is not installed: pip install -e ".[openvino]"\n',
    )
