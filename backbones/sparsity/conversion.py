"""Conversion of weights from the training form of learned sparsity to the test-time form."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from backbones.sparsity.layers import (
    CondensingError,
    InputMaskedConv2d,
    MaskedConv2d,
    OutputMaskedConv2d,
)


def masked_convs(network: nn.Module) -> dict[str, MaskedConv2d]:
    """Return every layer with learned sparsity in the training form: ``{name: layer}``."""
    return {name: m for name, m in network.named_modules() if isinstance(m, MaskedConv2d)}


def converted_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the test-time form from those of the training form.

    The entries can be those of a classifier, of one of its halves or of a whole detector. The result fits
    the same network built with ``conventions=dict(sparsity='converted')``.

    Raises:
        CondensingError: No layer is in the training form, or a drop is not made yet.
    """
    converted = dict(state_dict)
    kinds = {f'conv.{cls.mask_name}': cls for cls in (InputMaskedConv2d, OutputMaskedConv2d)}
    layers = {key.removesuffix(k): cls for key in state_dict for k, cls in kinds.items() if key.endswith(k)}
    if not layers:
        raise CondensingError('no layer with a mask: there is nothing to convert')
    drops = {name: converted.pop(f'{name}conv.drops').tolist() for name in layers}
    unfinished = [f'{name[:-1]}: {made} of {of}' for name, (made, of) in drops.items() if made < of]
    if unfinished:
        others = f' (and {len(unfinished) - 1} layers more)' if len(unfinished) > 1 else ''
        raise CondensingError(
            f'condensing is unfinished: {unfinished[0]} drops made{others}; train on with CondensingHook'
        )
    for name, cls in layers.items():
        mask, weight = converted.pop(f'{name}conv.{cls.mask_name}'), converted[f'{name}conv.weight']
        groups, candidates = mask.shape
        if (mask.sum(1) * (drops[name][1] + 1) != candidates).any():
            raise CondensingError(f'{name[:-1]}: its mask does not have the same share in every group')
        kept = mask.nonzero()[:, 1].view(groups, -1)  # ascending within each group
        if cls is InputMaskedConv2d:
            parts = [weight[g::groups, kept[g]] for g in range(groups)]
            for key, value in state_dict.items():
                if key.startswith(f'{name}bn.') and value.dim():  # without its counter
                    converted[key] = value[kept.flatten()]
        else:
            parts = [weight[kept[g], g::groups] for g in range(groups)]
        converted[f'{name}conv.weight'] = torch.cat(parts)
        converted[f'{name}index'] = kept.flatten()
    return converted
