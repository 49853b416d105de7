"""The ground truth of a batch as padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class GroundTruth:
    """Ground truth of N images with at most G objects and I ignored regions each.

    Attributes:
        boxes: (N, G, 4), x1 y1 x2 y2 in pixels of the network's input; padded with zeros.
        labels: (N, G), class indices; padded with zeros.
        valid: (N, G), False where a row is padding.
        ignored: (N, I, 4), boxes of ignored regions.
        ignored_valid: (N, I), False where a row is padding.
        image_sizes: (N, 2), height and width of each image without padding.
        pad_sizes: (N, 2), height and width of each image, rounded up to the divisor of the padding.
        same_size: Whether every image fills the padded batch.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    ignored: Tensor
    ignored_valid: Tensor
    image_sizes: Tensor
    pad_sizes: Tensor
    same_size: bool


class PackedSamples(list):
    """The data samples of a batch, unchanged, with their ground truth on the device of the model."""

    ground_truth: GroundTruth


def pack(samples: Sequence[Any], device: torch.device | str) -> GroundTruth:
    """Return the ground truth of data samples as padded tensors on a device.

    The tensors are copied to the device in two transfers, whatever the number of images.

    Args:
        samples: ``DetDataSample`` of each image, with ``img_shape``, ``pad_shape`` and
            ``batch_input_shape``.
        device: Device of the tensors.
    """
    boxes, present = _pad([_boxes(sample.gt_instances) for sample in samples], at_least=1)
    ignored, ignored_present = _pad([_boxes(sample.get('ignored_instances')) for sample in samples])
    num_images, num_objects, num_ignored = len(samples), boxes.shape[1], ignored.shape[1]
    labels: np.ndarray = np.zeros((num_images, num_objects), np.int64)
    for row, sample in zip(labels, samples, strict=True):
        found = sample.gt_instances.labels
        row[: len(found)] = found.cpu().numpy()
    sizes = np.array([[*sample.img_shape[:2], *sample.pad_shape[:2]] for sample in samples], np.int64)
    whole = np.concatenate([labels, present, ignored_present, sizes], 1)
    ends = np.cumsum([num_objects, num_objects, num_ignored, 2, 2])
    # A copy from pageable memory would wait for the GPU.
    floats = _to(torch.from_numpy(np.concatenate([boxes, ignored], 1)), device)
    integers = _to(torch.from_numpy(whole), device)
    labels_, valid, ignored_valid, image_sizes, pad_sizes = integers.tensor_split(ends[:-1].tolist(), 1)
    return GroundTruth(
        boxes=floats[:, :num_objects],
        labels=labels_,
        valid=valid.bool(),
        ignored=floats[:, num_objects:],
        ignored_valid=ignored_valid.bool(),
        image_sizes=image_sizes,
        pad_sizes=pad_sizes,
        same_size=all(tuple(sample.pad_shape[:2]) == sample.batch_input_shape for sample in samples),
    )


def _boxes(instances: Any) -> np.ndarray:
    """Return the boxes of instances, (K, 4)."""
    if instances is None or 'bboxes' not in instances:
        return np.zeros((0, 4), np.float32)
    boxes = instances.bboxes
    return getattr(boxes, 'tensor', boxes).detach().cpu().numpy().reshape(-1, 4)


def _pad(rows: Sequence[np.ndarray], at_least: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes of all images as (N, K, 4), padded with zeros, and which rows are boxes, (N, K)."""
    longest = max(at_least, *(len(row) for row in rows))
    dtype = np.result_type(*rows)
    padded: np.ndarray = np.zeros((len(rows), longest, 4), dtype)
    present: np.ndarray = np.zeros((len(rows), longest), np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
        present[index, : len(row)] = 1
    return padded, present


def _to(tensor: Tensor, device: torch.device | str) -> Tensor:
    if torch.device(device).type == 'cuda':
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
