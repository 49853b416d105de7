"""Train and evaluate one network in one detector for one step, without a data set."""

from itertools import product
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from networks import cheapest_of_each_family
from torch import nn

from backbones import list_archs
from backbones.wiring import TAPS
from compactdet.config.choice import DetectorChoice
from compactdet.config.compose import compose_config
from compactdet.mmdetection import MODELS

SIDE, CLASSES = 96, 8

FORWARD_ONLY = tuple(f'efficientnet_b{i}' for i in (4, 5, 6, 7))  # each minutes of training on two cores

PAIRS = [*product(list_archs(), TAPS)]
CHEAPEST = set(cheapest_of_each_family().values())


def images(count: int) -> list[torch.Tensor]:
    """The first of eight images of colored tiles, which differ in brightness, as photographs do."""
    rng = np.random.default_rng(0)
    tiles = rng.uniform(0, 256, (8, 3, 6, 6)) * rng.uniform(0.2, 1, (8, 3, 1, 1))
    tiles = tiles[:count]
    return [*torch.from_numpy(np.kron(tiles, np.ones((SIDE // 6, SIDE // 6))).astype(np.uint8))]


def batch() -> dict[str, Any]:
    """Two images with one object each, as a data loader gives them."""
    samples = []
    for label in (0, CLASSES - 1):
        size = (SIDE, SIDE)
        sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1, 1)))
        boxes = torch.tensor([[8.0, 16, 80, 88]])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([label]))
        samples.append(sample)
    return dict(inputs=images(2), data_samples=samples)


def check_pair(arch: str, detector: str) -> None:
    torch.manual_seed(0)
    cfg = compose_config(DetectorChoice(arch, detector, 'shapes')).model
    cfg.test_cfg.get('rcnn', cfg.test_cfg).score_thr = 0.0  # nothing has learned yet
    model = MODELS.build(cfg).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # one batch must do for the statistics that prediction takes
    data = model.data_preprocessor(batch(), training=True)
    train = arch not in FORWARD_ONLY
    with torch.set_grad_enabled(train):
        loss, figures = model.parse_losses(model(**data, mode='loss'))
    assert loss.isfinite(), figures
    if train:
        loss.backward()
        learning = dict(model.named_parameters())
        assert all(p.requires_grad for p in learning.values())
        assert [n for n, p in learning.items() if p.grad is None or not p.grad.isfinite().all()] == []
    with torch.no_grad():  # squeeze-and-excitation gives its BN one value an image: two are too few
        model.backbone(model.data_preprocessor({'inputs': images(8)})['inputs'])
    model.eval()
    with torch.no_grad():
        found = model.test_step(batch())
    for sample in found:
        boxes, scores, labels = (sample.pred_instances[key] for key in ('bboxes', 'scores', 'labels'))
        assert 0 < len(boxes) == len(scores) == len(labels) <= 100
        assert boxes.isfinite().all()
        assert scores.isfinite().all()
        assert boxes.min() >= 0
        assert boxes.max() <= SIDE
        assert labels.max() < CLASSES
