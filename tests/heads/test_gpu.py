"""The forms that are used on a GPU only, against those of the CPU."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from backbones.layers import GroupedConv1x1
from compactdet.heads import with_batched_heads
from compactdet.heads.nms import batch_nms
from compactdet.mmdetection import MODELS

from detector_leaf import batch, detector_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU'),
]


@pytest.mark.parametrize('count', [1, 64, 1000, 12000])
def test_nms_keeps_what_torchvision_keeps(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(4, count, 2, generator=generator) * 500
    boxes = torch.cat([corner, corner + 5 + torch.rand(4, count, 2, generator=generator) * 100], 2).cuda()
    valid = torch.rand(4, count, generator=generator).cuda() < 0.9
    kept = batch_nms(boxes, torch.zeros(count, device='cuda'), valid, 0.7, 300)
    for image in range(4):
        places = valid[image].nonzero().squeeze(1)
        falling = torch.arange(len(places), 0, -1.0, device='cuda')
        expected = places[torchvision.ops.nms(boxes[image, places], falling, 0.7)][:300]
        assert kept.indices[image, kept.valid[image]].tolist() == expected.tolist()


@pytest.mark.parametrize('groups', [2, 3, 8])
@pytest.mark.parametrize('dtype', [None, torch.bfloat16])
def test_the_grouped_convolution_is_that_of_the_cpu(groups: int, dtype: torch.dtype | None) -> None:
    torch.manual_seed(0)
    layer = GroupedConv1x1(24, 48, 1, groups=groups)
    x = torch.randn(2, 24, 9, 7)
    expected = nn.Conv2d.forward(layer, x)
    with torch.autocast('cuda', dtype, enabled=dtype is not None):
        found = layer.cuda()(x.cuda())
    tolerance = 1e-5 if dtype is None else 0.03
    allow = torch.backends.cuda.matmul.allow_tf32
    assert not allow
    torch.testing.assert_close(found.float().cpu(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize('detector', ['frcnn_c4', 'frcnn_fpn', 'retinanet_fpn'])
def test_losses_are_those_of_the_cpu(
    detector: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wiring = f"{detector}('menet_108_8x1_g3', num_classes=8, init=None)"
    init_default_scope('mmdet')
    cfg = detector_config(tmp_path, f'{detector}_shapes', wiring)
    draws: list[torch.Tensor] = []
    real = torch.rand

    def recorded(*size: Any, **kwargs: Any) -> torch.Tensor:
        draws.append(real(*size))
        return draws[-1].to(kwargs.get('device', 'cpu'))

    # TF32 would change the order of the proposals, and with it the sample.
    monkeypatch.setattr(torch.backends.cudnn, 'allow_tf32', False)
    monkeypatch.setattr(torch, 'rand', recorded)
    torch.manual_seed(0)
    on_cpu = losses(cfg, 'cpu')
    torch.manual_seed(0)
    on_gpu = losses(cfg, 'cuda')
    assert on_gpu == pytest.approx(on_cpu, rel=2e-3)


def losses(cfg: Config, device: str) -> dict[str, float]:
    model = MODELS.build(with_batched_heads(copy.deepcopy(cfg.model))).to(device).train()
    data = model.data_preprocessor(batch(8), True)
    return {name: float(value.detach()) for name, value in model(**data, mode='loss').items()}
