"""A leaf config without a data set, and a batch for it."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData

from compactdet.config import strict

CONFIGS = Path(__file__).parents[2] / 'det_configs'


def detector_config(folder: Path, detector: str, wiring: str) -> Config:
    """A leaf config without a data set, read as our tools read one."""
    bases = [str(CONFIGS / f'_base_/{name}.py') for name in (f'detectors/{detector}', 'runtime')]
    name = wiring.partition('(')[0]
    text = f'_base_ = {bases}\n\nfrom backbones.wiring import {name}\n\nmodel = {wiring}\n'
    (folder / 'leaf.py').write_text(text)
    return strict.load(folder / 'leaf.py')


def batch(num_classes: int) -> dict[str, Any]:
    """Two noise images of 90x96 pixels with two objects each, as a data loader gives them."""
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(2):
        sample = DetDataSample(metainfo=dict(img_shape=(90, 96), ori_shape=(45, 48), scale_factor=(2, 2)))
        boxes = torch.tensor([[4.0, 8, 60, 80], [30.0, 20, 90, 88]])
        labels = torch.tensor([0, num_classes - 1])
        sample.gt_instances = InstanceData(bboxes=boxes, labels=labels)
        samples.append(sample)
    images = [torch.from_numpy(rng.integers(0, 256, (3, 90, 96), np.uint8)) for _ in samples]
    return dict(inputs=images, data_samples=samples)
