"""Operators and synchronizations of a training step, counted on the CPU for 2 and for 16 images."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: PLC2701 - has no public name

from backbones.wiring import set_init
from compactdet.benchmarks import training as benchmark
from compactdet.config import strict
from compactdet.heads import with_batched_heads
from compactdet.mmdetection import MODELS
from compactdet.training.acceleration import fast_optimizer
from compactdet.training.loss_hook import LossHook

from tiny import REPO

# Operators whose result the CPU needs before it can go on.
SYNCHRONIZING = ('aten::_local_scalar_dense', 'aten::nonzero', 'aten::masked_select', 'aten::_unique2',
                 'aten::is_nonzero', 'aten::equal')  # fmt: skip
LEAVES = ('menet_frcnn_voc', 'condensenetv2_a_frcnn_fpn_coco', 'mobilenetv2_300m_retinanet_coco')


class Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[func._schema.name] += 1
        return func(*args, **(kwargs or {}))


def count(leaf: str, batch_size: int) -> Counter[str]:
    """The operators of a second training step with its log."""
    cfg = strict.load(REPO / f'det_configs/{leaf}.py')
    set_init(cfg.model, None)
    if 'rcnn' in cfg.model.train_cfg:  # fewer RoIs: as many operators, each on less
        cfg.model.train_cfg.rcnn.sampler.num = 8
    init_default_scope('mmdet')
    model = MODELS.build(with_batched_heads(cfg.model)).train()
    wrapper = build_optim_wrapper(model, fast_optimizer(cfg.optim_wrapper))
    classes = cfg.model.get('roi_head', cfg.model).bbox_head.num_classes
    batch = benchmark.make_batch(batch_size, classes, 'cpu')
    hook = LossHook()
    runner = SimpleNamespace(iter=0, optim_wrapper=wrapper, message_hub=None)
    with Counting() as mode:
        for step in range(2):
            mode.counts.clear()
            runner.iter = step
            hook.after_train_iter(runner, step, batch, model.train_step(benchmark.copy_of(batch), wrapper))
    return mode.counts


@pytest.mark.parametrize('leaf', LEAVES)
def test_a_step_of_many_images_has_as_many_operators(leaf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, 'HEIGHT', 64)
    monkeypatch.setattr(benchmark, 'WIDTH', 96)
    few, many = count(leaf, 2), count(leaf, 16)
    assert many.total() <= 1.2 * few.total()
    waits = {name: many[name] for name in SYNCHRONIZING if many[name]}
    assert sum(waits.values()) <= 10, waits
