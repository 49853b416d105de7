"""Images that the data loader's workers stack, against a list of images."""

from typing import Any

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.registry import FUNCTIONS
from mmengine.structures import InstanceData

from compactdet.heads.detectors import BatchedDataPreprocessor


def samples(*sizes: tuple[int, int]) -> list[dict[str, Any]]:
    """Random images of the given heights and widths, without objects."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for height, width in sizes:
        sample = DetDataSample(metainfo={'img_shape': (height, width)})
        sample.gt_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        image = torch.randint(256, (3, height, width), generator=generator, dtype=torch.uint8)
        made.append({'inputs': image, 'data_samples': sample})
    return made


@pytest.mark.parametrize('sizes', [((20, 30), (20, 30)), ((20, 30), (24, 17)), ((31, 9),)])
def test_stacked_images_train_as_a_list_does(sizes: tuple[tuple[int, int], ...]) -> None:
    preprocessor = BatchedDataPreprocessor(
        mean=[120.0, 110.0, 100.0], std=[60.0, 50.0, 40.0], bgr_to_rgb=True, pad_size_divisor=32
    )
    stacked = FUNCTIONS.get('stacked_collate')(samples(*sizes))
    listed = FUNCTIONS.get('pseudo_collate')(samples(*sizes))
    assert isinstance(stacked['inputs'], torch.Tensor)
    assert isinstance(listed['inputs'], list)
    found, expected = (preprocessor(batch, training=True) for batch in (stacked, listed))
    assert torch.equal(found['inputs'], expected['inputs'])
    for one, other in zip(found['data_samples'], expected['data_samples'], strict=True):
        assert one.metainfo == other.metainfo
