"""MMDetection's detectors with the batched heads, and the data preprocessor that they need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmdet.models.detectors import FasterRCNN, RetinaNet
from mmengine.dataset import pseudo_collate
from mmengine.registry import FUNCTIONS
from torch import Tensor

from compactdet.heads.ground_truth import GroundTruth, PackedSamples, pack
from compactdet.mmdetection import MODELS


def ground_truth_of(samples: Sequence[Any], device: torch.device) -> GroundTruth:
    """Return the ground truth of data samples on a device."""
    return samples.ground_truth if isinstance(samples, PackedSamples) else pack(samples, device)


@MODELS.register_module()
class BatchedFasterRCNN(FasterRCNN):
    """MMDetection's ``FasterRCNN`` with `BatchedRPNHead` and `BatchedRoIHead`."""

    def loss(self, batch_inputs: Tensor, batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Return the losses of a batch of images, (N, 3, H, W)."""
        truth = ground_truth_of(batch_data_samples, batch_inputs.device)
        features = self.extract_feat(batch_inputs)
        losses, proposals = self.rpn_head.batch_loss(features, truth, self.train_cfg.rpn_proposal)
        return losses | self.roi_head.batch_loss(features, proposals, truth)


@MODELS.register_module()
class BatchedRetinaNet(RetinaNet):
    """MMDetection's ``RetinaNet`` with `BatchedRetinaHead`."""

    def loss(self, batch_inputs: Tensor, batch_data_samples: Sequence[Any]) -> dict[str, Tensor]:
        """Return the losses of a batch of images, (N, 3, H, W)."""
        truth = ground_truth_of(batch_data_samples, batch_inputs.device)
        return self.bbox_head.batch_loss(self.extract_feat(batch_inputs), truth)


@MODELS.register_module()
class BatchedDataPreprocessor(DetDataPreprocessor):
    """MMDetection's ``DetDataPreprocessor`` that prepares all images of a training batch at once.

    Images are copied to the device as bytes, then normalized and padded there. The ground truth is copied
    as padded tensors; the data samples themselves stay on the CPU. Batches without training go through
    ``DetDataPreprocessor``.
    """

    def forward(self, data: dict[str, Any], training: bool = False) -> dict[str, Any]:
        """Return ``inputs`` (N, 3, H, W) and ``data_samples`` of a batch."""
        if not training or self.batch_augments is not None:
            return super().forward(data, training)
        images, samples = data['inputs'], PackedSamples(data['data_samples'])
        sizes = [tuple(sample.img_shape[:2]) for sample in samples]
        divisor = self.pad_size_divisor
        pad_sizes = [tuple(-(-side // divisor) * divisor for side in size) for size in sizes]
        whole = tuple(max(sides) for sides in zip(*pad_sizes, strict=True))
        for sample, pad_size in zip(samples, pad_sizes, strict=True):
            sample.set_metainfo({'batch_input_shape': whole, 'pad_shape': pad_size})
        if not isinstance(images, Tensor):
            images = stack_images(images)
        samples.ground_truth = pack(samples, self.device)
        return {'inputs': self._normalize(images, sizes, whole), 'data_samples': samples}

    def _normalize(self, images: Tensor, sizes: Sequence[Sequence[int]], whole: Sequence[int]) -> Tensor:
        """Return images, (N, 3, H, W) of bytes, on the device, normalized and padded to ``whole``."""
        if self.device.type == 'cuda' and not images.is_pinned():
            images = images.pin_memory()
        images = images.to(self.device, non_blocking=True)
        if self._channel_conversion:
            images = images.flip(1)
        images = images.float()
        if self._enable_normalize:
            images = (images - self.mean) / self.std
        height, width = images.shape[-2:]
        if any(tuple(size) != (height, width) for size in sizes):
            limits = torch.tensor(sizes)
            if self.device.type == 'cuda':
                limits = limits.pin_memory().to(self.device, non_blocking=True)
            rows = torch.arange(height, device=self.device) < limits[:, :1]
            columns = torch.arange(width, device=self.device) < limits[:, 1:]
            inside = (rows[:, :, None] & columns[:, None])[:, None]
            images = torch.where(inside, images, self.pad_value)
        return F.pad(images, (0, whole[1] - width, 0, whole[0] - height), value=self.pad_value)


@FUNCTIONS.register_module()
def stacked_collate(samples: Sequence[Any]) -> Any:
    """Return a batch as ``pseudo_collate`` does, with the images stacked by `stack_images`.

    Used in the worker processes of a training data loader, so that the process that trains copies one
    pinned tensor to the GPU. Only `BatchedDataPreprocessor` can read such a batch: it pads after
    normalization.
    """
    batch = pseudo_collate(samples)
    images = batch.get('inputs') if isinstance(batch, dict) else None
    if isinstance(images, list) and all(image.ndim == 3 for image in images):
        batch['inputs'] = stack_images(images)
    return batch


def stack_images(images: Sequence[Tensor]) -> Tensor:
    """Return images, each (3, H, W), as one tensor; smaller ones are padded below and on the right."""
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    if all(image.shape[1:] == (height, width) for image in images):
        return torch.stack(list(images))
    stacked = images[0].new_zeros(len(images), 3, height, width)
    array = stacked.numpy()
    for row, image in zip(array, images, strict=True):
        row[:, : image.shape[1], : image.shape[2]] = image.numpy()
    return stacked
