"""CUDA graphs of a backbone, against the pass without them."""

import copy

import pytest
import torch
from mmengine.config import Config

from backbones import build_backbone
from compactdet.config.options import set_cuda_graphs
from compactdet.errors import UserError
from compactdet.training.graphs import CALLS_BEFORE, GraphedForward, with_cuda_graphs


def test_on_a_cpu_nothing_changes() -> None:
    network = build_backbone('menet_108_8x1_g3').train()
    expected = copy.deepcopy(network)
    graphed = with_cuda_graphs(network)
    images = torch.randn(2, 3, 64, 64)
    for _ in range(CALLS_BEFORE + 2):
        for one, other in zip(graphed(images), expected(images), strict=True):
            assert torch.equal(one, other)
    assert isinstance(graphed.forward, GraphedForward)
    assert not graphed.forward.graphs


def test_learned_sparsity_is_refused() -> None:
    with pytest.raises(UserError, match='learned sparsity'):
        with_cuda_graphs(build_backbone('condensenetv2_a'))


def test_without_a_gpu_the_option_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(UserError, match='needs a CUDA GPU'):
        set_cuda_graphs(Config(), 'none')


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    with pytest.raises(UserError, match='for one process'):
        set_cuda_graphs(Config(), 'pytorch')


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')
@pytest.mark.parametrize('half', [None, torch.bfloat16])
def test_maps_gradients_and_statistics_are_equal(half: torch.dtype | None) -> None:
    torch.manual_seed(0)
    network = build_backbone('menet_108_8x1_g3').cuda().train()
    if half:
        network = network.to(memory_format=torch.channels_last)
    expected = copy.deepcopy(network)
    graphed = with_cuda_graphs(network)
    for step in range(CALLS_BEFORE + 4):
        images = torch.randn(2, 3, 96 + 32 * (step % 2), 128, device='cuda')
        for one in (graphed, expected):
            one.zero_grad()
            with torch.autocast('cuda', half or torch.float16, enabled=half is not None):
                maps = one(images)
            sum(map_.float().square().mean() for map_ in maps).backward()
        for name, value in expected.named_parameters():
            if value.grad is not None:
                found = graphed.get_parameter(name).grad
                assert found is not None, name
                error = (found - value.grad).norm() / value.grad.norm().clamp(min=1e-6)
                assert error < (0.1 if half else 1e-3), name
    assert len(graphed.forward.graphs) == 2
    for name, value in expected.named_buffers():
        torch.testing.assert_close(graphed.get_buffer(name), value, rtol=1e-2, atol=1e-2, msg=name)
