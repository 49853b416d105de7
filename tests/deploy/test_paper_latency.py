"""The papers' latency results beside those of this machine."""

import sys

import pytest
import torch

from backbones import list_archs
from compactdet.benchmarks import paper_latency
from compactdet.deploy.latency import Candidate, Interval, Measurement, Result
from compactdet.deploy.machine_load import Load
from compactdet.layer_costs import count


def result(name: str, ms: float, ratio: Interval | None) -> Result:
    candidate = Candidate(name, 'onnxruntime', 1, 1, (480, 640), lambda: None)
    return Result(candidate, Interval(ms, ms, ms), ms, None, 9, 3, ratio, None)


def test_the_ratios_of_the_paper_are_those_of_its_column(capsys: pytest.CaptureFixture[str]) -> None:
    results = (
        result('shufflenet_0.5x_g3', 4.0, None),
        result('alexnet', 40.0, Interval(10.0, 9.0, 11.0)),
    )
    load = Load(1.0, None, None, None, None, None)
    paper_latency.show(Measurement(results, load, (), 5), 'shufflenet', size=1)
    first, line = capsys.readouterr().out.splitlines()[1:]
    assert first.split() == ['shufflenet_0.5x_g3', 'onnxruntime', '4.00', '1', '87.4', '1.00']
    assert line.split()[:3] == ['alexnet', 'onnxruntime', '40.00']
    assert '10.00 (9.00 to 11.00)' in line
    assert line.split()[-2:] == ['1156.7', '13.23']


def test_every_network_is_one_of_the_suite() -> None:
    assert {*paper_latency.TABLE_8, *paper_latency.FIGURE_9} <= {*list_archs()}
    for paper, names in (('shufflenet', paper_latency.TABLE_8), ('condensenetv2', paper_latency.FIGURE_9)):
        assert paper_latency.REFERENCES[paper] in names


def test_a_size_that_the_paper_does_not_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, 'argv', ['paper_latency', 'shufflenet', '--size', '100', '100'])
    with pytest.raises(SystemExit):
        paper_latency.main()
    assert '--size is one of the table: 224 224, 480 640, 720 1280' in capsys.readouterr().err


def test_stacks_of_convolutions_have_equal_multiply_adds() -> None:
    builders = paper_latency.make_builders('groups', (8, 8))
    macs = [count(builder.exportable.graph, builder.image.to('meta')).macs for builder in builders]
    assert macs[0] == 8 * 8 * (3 * 128 + 10 * 128**2)
    assert max(macs) / min(macs) < 1.02
    for builder in builders:
        eager = builder.candidate('eager', 1).run()
        (deployed,) = builder.candidate('onnxruntime', 1).run()
        assert torch.allclose(eager, torch.from_numpy(deployed), atol=1e-3)
