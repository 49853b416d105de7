"""Random samples of boxes for training, for all images of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Sample(NamedTuple):
    """A sample of S boxes of each image; positives come first.

    Attributes:
        indices: (N, S), numbers of the boxes.
        positive: (N, S), True if an object is assigned to the box.
        valid: (N, S), False where an image has fewer boxes to sample; ``indices`` have no meaning there.
    """

    indices: Tensor
    positive: Tensor
    valid: Tensor


def sample(assigned: Tensor, rule: Mapping[str, Any]) -> Sample:
    """Sample positives and negatives at random, without replacement, as MMDetection's ``RandomSampler``.

    At most ``pos_fraction`` of the sample is positive; negatives fill it. Every subset of an allowed size
    is equally likely.

    Args:
        assigned: (N, B), from ``assign``.
        rule: Parameters of ``RandomSampler``.
    """
    size = min(rule['num'], assigned.shape[1])
    most_positives = min(int(rule['num'] * rule['pos_fraction']), assigned.shape[1])
    draws = torch.rand(assigned.shape, device=assigned.device)
    ranked = torch.where(assigned > 0, draws, -1).topk(most_positives, 1)
    chosen = torch.full_like(draws, -1).scatter_(1, ranked.indices, ranked.values) >= 0
    keys = torch.where(chosen, draws + 1, torch.where(assigned == 0, draws, -1))
    keys, index = keys.topk(size, 1)
    positive, valid = keys >= 1, keys >= 0
    limit = rule.get('neg_pos_ub', -1)
    if limit >= 0:  # most negatives for each positive
        count = positive.sum(1, keepdim=True)
        rank = torch.arange(size, device=keys.device) - count
        valid &= rank < (count.clamp(min=1) * limit).floor()
    return Sample(index, positive, valid)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Return ``values[n, index[n, s]]``: (N, B, ...) or (1, B, ...), and (N, S) -> (N, S, ...)."""
    values = values.expand(len(index), *values.shape[1:])
    if values.dim() == 2:
        return values.gather(1, index)
    return values.gather(1, index[..., None].expand(*index.shape, values.shape[-1]))


def encode_matched(coder: Any, boxes: Tensor, objects: Tensor, positive: Tensor) -> Tensor:
    """Return the regression targets of boxes, (N, S, 4); zeros where ``positive`` is False.

    Args:
        coder: A box coder of MMDetection.
        boxes: (N, S, 4).
        objects: (N, S, 4), the object assigned to each; any box where there is none.
        positive: (N, S).
    """
    where = positive[..., None]
    # A padded object has no area, and its logarithm would be infinite.
    targets = coder.encode(boxes.reshape(-1, 4), torch.where(where, objects, boxes).reshape(-1, 4))
    return torch.where(where, targets.view(*positive.shape, 4), 0)


def mean_loss(loss: Tensor, weight: Tensor, count: Tensor) -> Tensor:
    """Return the weighted sum of losses over a count, as MMDetection's ``weight_reduce_loss``."""
    return (loss * weight).sum() / (count + torch.finfo(torch.float32).eps)
