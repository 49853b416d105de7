"""Networks with learned sparsity in both forms, and their comparison."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from backbones import build_classifier, list_archs
from backbones.base import Classifier
from backbones.sparsity import converted_state_dict, masked_convs

from peers import randomize_bn

CONVERTED = {'sparsity': 'converted'}

SPARSE = [*list_archs('condensenet*'), *list_archs('sfr_*')]


def masked(name: str, seed: int = 0, *, bn: bool = True) -> Classifier:
    """A condensed network in evaluation mode, with random BN statistics and affines where ``bn``."""
    torch.manual_seed(seed)
    model = build_classifier(name, num_classes=10)
    if bn:
        randomize_bn(model, seed)
    for layer in masked_convs(model).values():
        layer.condense(layer.factor - 1)
    return model.eval()


def converted(model: Classifier) -> Classifier:
    form = build_classifier(model.arch, num_classes=10, conventions=CONVERTED)
    form.load_state_dict(converted_state_dict(model.state_dict()))
    return form.eval()


def image(size: int = 64) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def assert_same(
    one: nn.Module, other: nn.Module, tolerance: float = 1e-12, dtype: Any = torch.double
) -> None:
    """To a part of the largest output.

    In float64: depth and random BN statistics amplify float32's rounding, up to a ten-thousandth of the
    outputs if a network runs with its own weights in another memory format.
    """
    x = image(32 if one.arch.input_size == 32 else 64).to(dtype)
    with torch.no_grad():
        given, expected = (copy.deepcopy(model).to(dtype)(x) for model in (one, other))
    torch.testing.assert_close(given, expected, rtol=0, atol=tolerance * expected.abs().max().item())
