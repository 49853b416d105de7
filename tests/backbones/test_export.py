"""The backbones leave Python: torch.compile and ONNX, one network of each family (most of them slow)."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from backbones import build_backbone, get_arch
from backbones.base import CompactBackbone

GOLDEN = json.loads((Path(__file__).parents[1] / 'golden/complexity.json').read_text())
CHEAPEST = {row['family']: row['arch'] for row in sorted(GOLDEN, key=lambda row: -row['macs'])}
SIZE = (64, 96)
ALWAYS = ('MENet', 'CondenseNetV2')
NETWORKS = [
    pytest.param(arch, id=family, marks=[] if family in ALWAYS else pytest.mark.slow)
    for family, arch in CHEAPEST.items()
]


def backbone(name: str) -> CompactBackbone:
    torch.manual_seed(0)
    model = build_backbone(name, out_strides=tuple(get_arch(name).strides))
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # its statistics become those of the one batch
    with torch.no_grad():
        model.train()(torch.randn(4, 3, *SIZE))
    return model.eval().requires_grad_(False)


def assert_same(maps: list[torch.Tensor], expected: tuple[torch.Tensor, ...]) -> None:
    assert len(maps) == len(expected)
    for ours, theirs in zip(maps, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


@pytest.mark.parametrize('name', NETWORKS)
def test_compiles_as_one_graph(name: str) -> None:
    """Without a break in the graph. The generated code is PyTorch's part, so none is generated here."""
    torch.compiler.reset()
    model, image = backbone(name), torch.randn(2, 3, *SIZE)
    compiled = torch.compile(model, fullgraph=True, backend='aot_eager')
    assert_same(compiled(image), model(image))


@pytest.mark.parametrize('name', NETWORKS)
def test_runs_as_onnx(name: str, tmp_path: Path) -> None:
    pytest.importorskip('onnxscript')
    runtime = pytest.importorskip('onnxruntime')
    model, image = backbone(name), torch.randn(1, 3, *SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the exporter's own
        program = torch.onnx.export(model, (image,), dynamo=True, verbose=False)
    program.save(tmp_path / 'backbone.onnx')
    session = runtime.InferenceSession(tmp_path / 'backbone.onnx')
    maps = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    assert_same([torch.from_numpy(a) for a in maps], model(image))
