"""The gradient of RoIAlign on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor


def roi_align_gradient(
    grad: Tensor, rois: Tensor, shape: torch.Size, scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Return the gradient of RoIAlign by its input as matrix products, which use all threads.

    RoIAlign is linear and separable: a bin is the sum over rows and columns of the pixels times a weight of
    the row and one of the column. (torchvision's kernel for the CPU has one thread.)
    """
    bins_y, bins_x = grad.shape[2:]
    height, width = shape[2:]
    along_y = _bin_weights(rois[:, 2], rois[:, 4], bins_y, height, scale, sampling_ratio, aligned)
    along_x = _bin_weights(rois[:, 1], rois[:, 3], bins_x, width, scale, sampling_ratio, aligned)
    result = grad.new_zeros(shape)
    images = rois[:, 0].long()
    counts = torch.bincount(images, minlength=shape[0]).tolist()
    for image, of_image in enumerate(images.argsort(stable=True).split(counts)):
        if not len(of_image):
            continue
        # (K, H, bins_y) x (K, bins_y, C * bins_x), then (H * C, K * bins_x) x (K * bins_x, W)
        bins = grad[of_image].transpose(1, 2).reshape(len(of_image), bins_y, -1)
        rows = torch.bmm(along_y[of_image].transpose(1, 2), bins).view(len(of_image), height, -1, bins_x)
        rows = rows.permute(1, 2, 0, 3).reshape(height * shape[1], -1)
        pixels = rows @ along_x[of_image].reshape(-1, width)
        result[image] = pixels.view(height, shape[1], width).transpose(0, 1)
    return result


def _bin_weights(
    start: Tensor, end: Tensor, bins: int, size: int, scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    """Return the weight of each pixel of a row or column in the mean of each bin, (K, bins, size)."""
    start = start * scale - (0.5 if aligned else 0)
    length = end * scale - (0.5 if aligned else 0) - start
    if not aligned:
        length = length.clamp(min=1)
    bin_length = length / bins
    points = torch.full_like(length, sampling_ratio) if sampling_ratio > 0 else bin_length.ceil()
    most = sampling_ratio if sampling_ratio > 0 else int(points.max().clamp(min=1))
    number = torch.arange(most, device=start.device)
    first = start[:, None] + torch.arange(bins, device=start.device) * bin_length[:, None]
    step = bin_length / points.clamp(min=1)
    place = first[..., None] + (number + 0.5) * step[:, None, None]
    counts = (place >= -1) & (place <= size) & (number < points[:, None, None])
    place = place.clamp(0, size - 1)
    low = place.floor()
    share = (place - low) * counts / points.clamp(min=1)[:, None, None]
    rest = counts / points.clamp(min=1)[:, None, None] - share
    weights = start.new_zeros(len(start), bins, size)
    weights.scatter_add_(2, low.long(), rest)
    return weights.scatter_add_(2, (low.long() + 1).clamp(max=size - 1), share)
