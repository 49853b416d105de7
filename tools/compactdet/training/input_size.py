"""Size of a network's input at test."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import pseudo_collate

from compactdet.mmdetection import MODELS
from compactdet.training.randomness import preserve_generators


def median_input_size(cfg: Config, dataset: Any) -> tuple[int, int]:
    """Return height and width in pixels of the network's input for a test image of the median size.

    A blank image goes through the test pipeline and the data preprocessor, with any resizing and padding.

    Args:
        cfg: The config of the detector.
        dataset: Its test split.

    Raises:
        Exception: A step of the pipeline does not accept a blank image.
    """
    entries = [dataset.get_data_info(index) for index in range(len(dataset))]
    sizes = [(entry['height'], entry['width']) for entry in entries]
    height, width = (int(side) for side in np.median(sizes, axis=0))
    size = {'height': height, 'width': width, 'img_shape': (height, width), 'ori_shape': (height, width)}
    sample = {**entries[0], **size, 'instances': [], 'img': np.zeros((height, width, 3), np.uint8)}
    preprocessor = MODELS.build(cfg.model.data_preprocessor)
    with preserve_generators():
        for transform in dataset.pipeline.transforms:
            if not type(transform).__name__.startswith('LoadImage'):
                sample = transform(sample)
        images = preprocessor(pseudo_collate([sample]), training=False)['inputs']
    return int(images.shape[-2]), int(images.shape[-1])
