"""Learned sparsity: masks, drops, schedule, penalty, conversion, each layer by itself."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from backbones.sparsity import (
    CondensingError,
    InputMaskedConv2d,
    LearnedGroupConv,
    OutputMaskedConv2d,
    SparseFeatureReactivation,
    converted_state_dict,
)

from peers import randomize_bn

# Drops


def input_masked(weight: list[list[float]], groups: int, factor: int) -> InputMaskedConv2d:
    values = torch.tensor(weight)
    layer = InputMaskedConv2d(values.shape[1], len(values), num_groups=groups, factor=factor)
    layer.weight.data = values[:, :, None, None]
    return layer


def test_a_group_loses_its_weakest_inputs() -> None:
    # Rows 0 and 2 are group 0, rows 1 and 3 group 1. Sums of |w| by input:
    # group 0: 5, 4, 9, 1; group 1: 2, 6, 3, 7.
    rows = [[-4.0, 1, 8, 0], [1, -6, 1, 3], [1, -3, 1, 1], [1, 0, 2, -4]]
    layer = input_masked(rows, groups=2, factor=4)
    x = torch.eye(4)[:, :, None, None]  # image i is input i alone
    torch.testing.assert_close(layer(x)[..., 0, 0].T, torch.tensor(rows))
    layer.condense(1)
    assert layer.mask.tolist() == [[True, True, True, False], [False, True, True, True]]
    layer.condense(1)  # made already
    assert layer.drops.tolist() == [1, 3]
    layer.condense(9)  # the two that are left, at once
    assert layer.mask.tolist() == [[False, False, True, False], [False, False, False, True]]
    assert layer.drops.tolist() == [3, 3]
    left = torch.tensor([[0.0, 0, 8, 0], [0, 0, 0, 3], [0, 0, 1, 0], [0, 0, 0, -4]])
    torch.testing.assert_close(layer(x)[..., 0, 0].T, left)


def test_a_group_loses_its_weakest_outputs() -> None:
    # Columns 0 and 2 are group 0, columns 1 and 3 group 1. Sums of |w| by output:
    # group 0: 3, 9, 5, 4; group 1: 8, 1, 2, 6.
    rows = [[1.0, -4, 2, 4], [9, 1, 0, 0], [-5, 1, 0, 1], [0, 6, 4, 0]]
    layer = OutputMaskedConv2d(4, 4, num_groups=2, factor=2)
    layer.weight.data = torch.tensor(rows)[:, :, None, None]
    layer.condense(1)
    assert layer.mask.tolist() == [[False, True, True, False], [True, False, False, True]]
    left = torch.tensor([[0.0, -4, 0, 4], [9, 0, 0, 0], [-5, 0, 0, 0], [0, 6, 0, 0]])
    torch.testing.assert_close(layer.masked_weight()[..., 0, 0], left)


def test_a_window_counts_with_its_largest_magnitude() -> None:
    layer = OutputMaskedConv2d(1, 2, 3, num_groups=1, factor=2)
    layer.weight.data = torch.stack([torch.full((1, 3, 3), 1.0), torch.zeros(1, 3, 3)])
    layer.weight.data[1, 0, 0, 2] = -2  # sums to less, but is the largest
    layer.condense(1)
    assert layer.mask.tolist() == [[False, True]]


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    groups=st.integers(1, 5),
    factor=st.integers(1, 6),
    widths=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel_size=st.sampled_from([1, 3]),
)
def test_every_drop_takes_the_same_share_of_every_group(
    seed: int, groups: int, factor: int, widths: tuple[int, int], kernel_size: int
) -> None:
    torch.manual_seed(seed)
    layers = [
        InputMaskedConv2d(factor * widths[0], groups * widths[1], num_groups=groups, factor=factor),
        OutputMaskedConv2d(
            groups * widths[0], factor * widths[1], kernel_size, num_groups=groups, factor=factor
        ),
    ]
    for layer in layers:
        before, candidates = layer.mask.clone(), layer.mask.shape[1]
        for made in range(factor):
            layer.condense(made)
            assert not (layer.mask & ~before).any()  # nothing comes back
            assert layer.mask.sum(1).tolist() == [candidates * (factor - made) // factor] * groups
            density = (layer.masked_weight() != 0).float().mean().item()
            assert density == pytest.approx((factor - made) / factor)
            before = layer.mask.clone()
        assert layer.drops[0] == layer.drops[1]


def test_what_is_dropped_stays_zero_and_gets_no_gradient() -> None:
    torch.manual_seed(0)
    layer = LearnedGroupConv(8, 8, groups=2, factor=4)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    x = torch.randn(4, 8, 3, 3)

    def step() -> None:
        optimizer.zero_grad()
        layer(x).square().sum().backward()
        optimizer.step()

    step()  # fills the momentum
    layer.conv.condense(3)
    dropped = layer.conv.masked_weight() == 0
    assert dropped.float().mean() == 0.75
    for _ in range(3):
        step()
        assert (layer.conv.weight.grad[dropped] == 0).all()
        assert torch.equal(layer.conv.masked_weight() == 0, dropped)
    assert (layer.conv.weight[dropped] != 0).any()  # momentum and decay moved the number, not the weight


# Conversion


def converted(layer: nn.Module, **kwargs: Any) -> nn.Module:
    twin = type(layer)(**kwargs, sparsity='converted')
    twin.load_state_dict(converted_state_dict(layer.state_dict()))
    return twin.eval()


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    groups=st.integers(1, 5),
    factor=st.integers(1, 6),
    widths=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel_size=st.sampled_from([1, 3]),
    act=st.sampled_from(['relu', 'hswish']),
)
@torch.no_grad()
def test_both_forms_are_one_function(
    seed: int, groups: int, factor: int, widths: tuple[int, int], kernel_size: int, act: str
) -> None:
    torch.manual_seed(seed)
    shared = dict(groups=groups, factor=factor, act=act)
    a, b = factor * widths[0], groups * widths[1]
    for cls, kwargs in (
        (LearnedGroupConv, shared | dict(in_channels=a, out_channels=b)),
        (
            SparseFeatureReactivation,
            shared | dict(in_channels=b, out_channels=a, kernel_size=kernel_size),
        ),
    ):
        layer = cls(**kwargs).eval()
        randomize_bn(layer, seed)
        layer.conv.condense(factor - 1)
        x = torch.randn(2, kwargs['in_channels'], 4, 5)
        expected, given_ = layer(x), converted(layer, **kwargs)(x)
        assert given_.shape == expected.shape == (2, kwargs['out_channels'], 4, 5)
        torch.testing.assert_close(given_, expected, rtol=0, atol=1e-6 * max(1, expected.abs().max()))


def test_the_converted_form_has_a_cth_of_the_weights_and_learns_from_scratch() -> None:
    for cls, widths in ((LearnedGroupConv, (12, 8)), (SparseFeatureReactivation, (8, 12))):
        masked = cls(*widths, groups=4, factor=3)
        form = cls(*widths, groups=4, factor=3, sparsity='converted')
        assert form.conv.weight.numel() * 3 == masked.conv.weight.numel()
        out = form(torch.randn(2, widths[0], 4, 4))
        assert (out.abs().amax((0, 2, 3)) > 0).all()  # a fresh index reaches every output
        out.square().sum().backward()
        assert all(p.grad.any() for p in form.parameters())


def test_unfinished_condensing_is_not_converted() -> None:
    network = nn.ModuleDict(
        dict(
            a=LearnedGroupConv(8, 8, groups=2, factor=8),
            b=LearnedGroupConv(8, 8, groups=2, factor=4),
            c=SparseFeatureReactivation(8, 8, groups=2, factor=4),
        )
    )
    network['a'].conv.condense(3)
    network['b'].conv.condense(3)
    with pytest.raises(
        CondensingError, match=r'unfinished: a: 3 of 7 drops made \(and 1 layers more\); train on'
    ):
        converted_state_dict(network.state_dict())
    network['a'].conv.condense(7)
    with pytest.raises(CondensingError, match=r'unfinished: c: 0 of 3 drops made; train on'):
        converted_state_dict(network.state_dict())
    network['c'].conv.condense(3)
    done = converted_state_dict(network.state_dict())
    with pytest.raises(CondensingError, match='no layer with a mask'):
        converted_state_dict(done)


def test_a_damaged_mask_is_not_converted() -> None:
    layer = LearnedGroupConv(8, 8, groups=2, factor=4)
    layer.conv.condense(3)
    layer.conv.mask[1] = True
    with pytest.raises(CondensingError, match='its mask does not have the same share'):
        converted_state_dict(nn.ModuleDict(dict(lgc=layer)).state_dict())


def test_widths_that_groups_do_not_divide_are_named() -> None:
    with pytest.raises(ValueError, match='LearnedGroupConv: in_channels=10 is no multiple of 4'):
        LearnedGroupConv(10, 8, groups=2, factor=4)
    with pytest.raises(ValueError, match='LearnedGroupConv: out_channels=9 is no multiple of 2'):
        LearnedGroupConv(8, 9, groups=2, factor=4)
    with pytest.raises(
        ValueError, match='SparseFeatureReactivation: out_channels=213 is no multiple of 208'
    ):
        SparseFeatureReactivation(208, 213, groups=208, factor=208)
    with pytest.raises(ValueError, match=r"sparsity='dense'; it is one of \('masked', 'converted'\)"):
        LearnedGroupConv(8, 8, groups=2, factor=4, sparsity='dense')
