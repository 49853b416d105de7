"""The leaves that the families share."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from backbones.layers import ConvBN, ConvHead, LinearHead, SameConv2d, SqueezeExcite, channel_shuffle
from backbones.spec import Conventions


def test_channel_shuffle_by_hand() -> None:
    x = torch.arange(6.0).view(1, 6, 1, 1)  # groups 0 1 2 | 3 4 5
    assert channel_shuffle(x, 2).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert channel_shuffle(x, 3).flatten().tolist() == [0, 2, 4, 1, 3, 5]


@given(groups=st.integers(1, 6), per_group=st.integers(1, 6), height=st.integers(1, 3))
def test_channel_shuffle_is_undone_by_its_counterpart(groups: int, per_group: int, height: int) -> None:
    x = torch.randn(2, groups * per_group, height, 2)
    shuffled = channel_shuffle(x, groups)
    assert torch.equal(channel_shuffle(shuffled, per_group), x)
    # each consecutive run of `groups` channels holds one channel of every group
    assert torch.equal(shuffled[:, :groups], x[:, ::per_group])


def test_channel_shuffle_refuses_a_remainder() -> None:
    with pytest.raises(ValueError, match='10 channels are no multiple of 3 groups'):
        channel_shuffle(torch.zeros(1, 10, 1, 1), 3)


def test_same_conv_pads_right_and_bottom_first() -> None:
    conv = SameConv2d(1, 1, 3, stride=2, bias=False)
    nn.init.ones_(conv.weight)
    # 4x4 ones, windows from rows 0 and 2: the second one hangs over the edge by one
    assert conv(torch.ones(1, 1, 4, 4)).flatten().tolist() == [9, 6, 6, 4]
    # 5x5: one row on each side
    assert conv(torch.ones(1, 1, 5, 5)).flatten().tolist() == [4, 6, 4, 6, 9, 6, 4, 6, 4]


@given(
    height=st.integers(1, 17),
    width=st.integers(1, 17),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
)
def test_same_conv_rounds_the_size_up(height: int, width: int, kernel: int, stride: int) -> None:
    out = SameConv2d(2, 4, kernel, stride=stride, groups=2)(torch.zeros(1, 2, height, width))
    assert out.shape == (1, 4, -(-height // stride), -(-width // stride))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(size=st.integers(1, 9), kernel=st.integers(1, 5), seed=st.integers(0, 9))
def test_same_conv_is_torchs_own_at_stride_1(size: int, kernel: int, seed: int) -> None:
    torch.manual_seed(seed)
    conv = SameConv2d(2, 3, kernel)
    x = torch.randn(1, 2, size, size + 1)
    expected = F.conv2d(x, conv.weight, conv.bias, padding='same')
    torch.testing.assert_close(conv(x), expected)


def test_conv_bn_is_conv_then_bn_then_relu() -> None:
    torch.manual_seed(0)
    layer = ConvBN(4, 6, 3, stride=2, groups=2).eval()
    nn.init.uniform_(layer.bn.running_mean, -1, 1)
    nn.init.uniform_(layer.bn.running_var, 0.5, 2)
    x = torch.randn(2, 4, 7, 8)
    y = F.conv2d(x, layer.conv.weight, stride=2, padding=1, groups=2)
    mean, var = (s.view(-1, 1, 1) for s in (layer.bn.running_mean, layer.bn.running_var))
    torch.testing.assert_close(layer(x), ((y - mean) / (var + 1e-5).sqrt()).relu())
    assert layer(x).shape == (2, 6, 4, 4)
    assert next(iter(layer.state_dict())) == 'conv.weight'
    assert layer.conv.bias is None


def test_conv_bn_without_activation() -> None:
    torch.manual_seed(0)
    assert ConvBN(3, 4, act=False)(torch.randn(2, 3, 5, 5)).min() < 0


def test_conv_bn_honours_conventions() -> None:
    layer = ConvBN(3, 4, 3, stride=2, conventions=Conventions('same', 'relu6', 1e-3)).eval()
    nn.init.constant_(layer.conv.weight, 10)
    assert layer.bn.eps == 1e-3
    assert layer(torch.ones(1, 3, 4, 4)).max() == 6  # relu6
    nn.init.constant_(layer.conv.weight, 1 / 27)
    out = layer(torch.ones(1, 3, 4, 4))[0, 0] * (1 + 1e-3) ** 0.5
    torch.testing.assert_close(out, torch.tensor([[9.0, 6.0], [6.0, 4.0]]) / 9)  # 'same'


def test_squeeze_excite_by_hand() -> None:
    layer = SqueezeExcite(2, 1)
    for value, parameter in zip((1, 0, 1, 0), layer.parameters(), strict=True):
        nn.init.constant_(parameter, value)
    x = torch.tensor([[[[1.0, 3.0]], [[2.0, 4.0]]]])  # means 2 and 3, so both gates are sigmoid(5)
    torch.testing.assert_close(layer(x), x * torch.sigmoid(torch.tensor(5.0)))


def test_squeeze_excite_cuts_negative_sums_off() -> None:
    layer = SqueezeExcite(2, 1)
    for parameter in layer.parameters():
        nn.init.ones_(parameter)
    x = torch.full((1, 2, 2, 2), -3.0)  # reduce gives -5, ReLU 0, expand its bias
    torch.testing.assert_close(layer(x), x * torch.sigmoid(torch.tensor(1.0)))


def test_linear_head_pools_then_classifies() -> None:
    torch.manual_seed(0)
    head = LinearHead(3, 5)
    x = torch.randn(2, 3, 4, 6)
    torch.testing.assert_close(head(x), F.linear(x.mean((2, 3)), head.fc.weight, head.fc.bias))


@torch.no_grad()
def test_conv_head_in_order() -> None:
    torch.manual_seed(0)
    head = ConvHead(3, 4, 5, hidden_channels=6, act='hswish', dropout=0.3).eval()
    x = torch.randn(2, 3, 7, 8)
    pooled = F.hardswish(F.conv2d(x, head.conv.conv.weight) / (1 + 1e-5) ** 0.5).mean((2, 3))
    hidden = F.hardswish(F.linear(pooled, head.hidden.weight, head.hidden.bias))
    torch.testing.assert_close(head(x), F.linear(hidden, head.fc.weight, head.fc.bias))
    assert [*dict(head.named_children())][-2:] == ['dropout', 'fc']
    assert head.dropout.p == 0.3


def test_conv_head_has_only_what_it_is_told() -> None:
    head = ConvHead(3, 4, 5, bias=False, conventions=Conventions(bn_eps=1e-3))
    assert [*dict(head.named_children())] == ['conv', 'pool', 'flatten', 'fc']
    assert head.fc.bias is None
    assert head.conv.bn.eps == 1e-3
    assert isinstance(head.conv.act, nn.ReLU)
