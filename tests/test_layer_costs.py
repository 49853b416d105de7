"""The counter of layers counts unusual operators with weights, and names those that it does not know."""

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import DeformConv2d, roi_align

from compactdet.errors import UserError
from compactdet.layer_costs import count


class Wrapped(nn.Module):
    """A network of one function, with a parameter for it."""

    def __init__(self, function, *shape: int) -> None:
        super().__init__()
        self.function, self.weight = function, nn.Parameter(torch.zeros(shape))

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self.weight, *inputs)


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, device='meta')


def test_a_deformable_convolution_is_counted_as_a_convolution() -> None:
    layer = DeformConv2d(8, 6, 3, padding=1, groups=2)
    counted = count(layer, meta(1, 8, 5, 7), meta(1, 18, 5, 7), meta(1, 9, 5, 7))
    assert counted.macs == 5 * 7 * 6 * 4 * 9


def test_a_batched_product_with_a_parameter_is_a_layer_and_one_of_two_maps_is_not() -> None:
    grouped = Wrapped(lambda w, x: torch.einsum('bgi,goi->bgo', x, w), 3, 5, 4)
    assert count(grouped, meta(2, 3, 4)).macs == 2 * 3 * 5 * 4
    attention = Wrapped(lambda w, x: x @ x.transpose(1, 2), 1)
    assert count(attention, meta(2, 3, 4)).macs == 0


def test_a_fully_connected_layer_of_one_vector() -> None:
    assert count(nn.Sequential(nn.Linear(4, 3)), meta(4)).macs == 12
    assert count(Wrapped(lambda w, x: w @ x, 3, 4), meta(4)).macs == 12


def test_operators_without_weights_cost_nothing() -> None:
    pool = Wrapped(lambda w, x, boxes: roi_align(x, boxes, 7), 1)
    assert count(pool, meta(1, 4, 8, 8), meta(2, 5)).macs == 0


@torch.library.custom_op('compactdet_tests::scaled', mutates_args=())
def scaled(x: Tensor, weight: Tensor) -> Tensor:
    return x * weight


@scaled.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_an_unknown_operator_is_an_error() -> None:
    with pytest.raises(UserError, match=r'^the multiply-adds of compactdet_tests::scaled are not known$'):
        count(Wrapped(lambda w, x: scaled(x, w), 4), meta(2, 4))
