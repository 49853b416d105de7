"""Anchors of the levels of a batch, in one tensor."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from compactdet.heads.ground_truth import GroundTruth


def flatten_levels(maps: Sequence[Tensor], width: int) -> Tensor:
    """Return maps of all levels, each (N, anchors * width, H, W), as (N, A, width) in float32 or wider.

    Half precision is widened, since box coordinates and the order of scores need more than 8 or 11 bits.
    """
    flat = torch.cat([level.permute(0, 2, 3, 1).reshape(len(level), -1, width) for level in maps], 1)
    return flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat


class GridAnchors:
    """The anchors of an anchor generator of MMDetection; those of recent map sizes are kept."""

    def __init__(self, generator: Any):
        self.generator = generator
        self._of_sizes = lru_cache(maxsize=16)(self._make)

    def _make(self, sizes: tuple[tuple[int, int], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
        return torch.cat(self.generator.grid_priors(sizes, dtype=dtype, device=device))

    def counts(self, maps: Sequence[Tensor], anchors: int) -> list[int]:
        """Return the number of anchors of each level."""
        return [level.shape[-2] * level.shape[-1] * anchors for level in maps]

    def __call__(
        self, maps: Sequence[Tensor], truth: GroundTruth, allowed_border: float
    ) -> tuple[Tensor, Tensor | None]:
        """Return the anchors of all levels, (A, 4), and which are usable, (N, A); None if all are.

        An anchor is usable if its cell is inside the image, rounded up to the divisor of the padding, and,
        with ``allowed_border`` of at least 0, if it crosses the border of the image by at most that.
        """
        sizes = tuple((level.shape[-2], level.shape[-1]) for level in maps)
        anchors = self._of_sizes(sizes, truth.boxes.dtype, maps[0].device)
        usable = None if truth.same_size else self._in_padding(sizes, truth)
        if allowed_border >= 0:
            height, width = (truth.image_sizes + allowed_border).unsqueeze(1).unbind(-1)
            inside = (anchors[:, :2] >= -allowed_border).all(1)
            inside = inside & (anchors[:, 2] < width) & (anchors[:, 3] < height)
            usable = inside if usable is None else usable & inside
        return anchors, usable

    def _in_padding(self, sizes: Sequence[tuple[int, int]], truth: GroundTruth) -> Tensor:
        flags = []
        strides = zip(self.generator.strides, self.generator.num_base_priors, strict=True)
        for (height, width), ((stride_x, stride_y), anchors) in zip(sizes, strides, strict=True):
            pad_height, pad_width = truth.pad_sizes.unbind(1)
            rows = torch.arange(height, device=pad_height.device) < -(-pad_height[:, None] // stride_y)
            columns = torch.arange(width, device=pad_width.device) < -(-pad_width[:, None] // stride_x)
            cells = rows[:, :, None] & columns[:, None]
            flags.append(cells[..., None].expand(*cells.shape, anchors).flatten(1))
        return torch.cat(flags, 1)
