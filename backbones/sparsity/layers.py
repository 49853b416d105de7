"""Learned sparsity: learned group convolution (LGC) and sparse feature reactivation (SFR).

Sources: Huang et al. 2018 (CondenseNet, arXiv:1711.09224, section 3) and Yang et al. 2021 (CondenseNetV2,
arXiv:2104.04382, section 3.1).

A layer has two forms; ``Conventions.sparsity`` states which one a network has:

* 'masked', the training form: a full weight times a mask of initial ones. LGC's outputs, or SFR's inputs,
are
  assigned to G groups in turn: channel r to group r mod G. There are C-1 drops, and in each every group
  loses the 1/C of its connections with the smallest L1 norm, so that 1/C of the inputs (LGC) or outputs
  (SFR) remain. Masks and the number of drops are buffers, and so part of a checkpoint.
* 'converted', the test-time form: LGC selects the inputs of its groups by index and is a standard group
convolution
  and a shuffle; SFR is a standard group convolution whose outputs are added by index. It computes the same
  function as the training form in evaluation mode, at 1/C of its cost.

Both forms use the same names, so the halves of a detector can start from a classifier's weights in either
form, and both can be trained further.

Where the sources leave something open: the CondenseNetV2 paper writes SFR as convolution, BN, ReLU; the
authors' code, followed here, is BN, activation, convolution, so that an increment can be negative. SFR's BN
starts with weight 1 (the authors' constructor writes 0, which their initialization then overwrites). For
kernels larger than 1x1 an input counts with the largest magnitude in its window (footnote 2).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from backbones.layers import ACTIVATIONS, GroupedConv1x1, channel_shuffle
from backbones.weights.safe_files import WeightsError

FORMS = ('masked', 'converted')


class CondensingError(WeightsError):
    """A network that cannot be condensed, or weights that cannot be converted."""


class MaskedConv2d(nn.Conv2d):
    """A full convolution times a mask from which connections are dropped step by step.

    (N, C, H, W) -> (N, C_out, H, W). A dropped connection is zero and gets no gradient, independent
    of the optimizer.

    Subclasses define connections: between a group and a *candidate*, an input or an output.

    Attributes:
        mask: (G, candidates), the remaining connections of each group.
        drops: Number of drops made, and of all drops.
    """

    mask_name: str
    drops: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, *, num_groups: int, factor: int
    ):
        super().__init__(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        candidates = in_channels if self.mask_name == 'input_mask' else out_channels
        self.num_groups = num_groups
        self.factor = factor
        self.register_buffer(self.mask_name, torch.ones(num_groups, candidates, dtype=torch.bool))
        self.register_buffer('drops', torch.tensor([0, factor - 1]))

    @property
    def mask(self) -> Tensor:
        """The mask, (G, candidates)."""
        return getattr(self, self.mask_name)

    def dealt(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight with a dimension of groups, and the mask for it."""
        raise NotImplementedError

    def strengths(self, order: float) -> Tensor:
        """Return the norm of the remaining weights of each connection: (G, candidates)."""
        raise NotImplementedError

    def masked_weight(self) -> Tensor:
        """Return the weight that the convolution uses: (C_out, C_in, k, k)."""
        weight, mask = self.dealt(self.weight)
        return (weight * mask).reshape(self.weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with the masked weight."""
        return self._conv_forward(x, self.masked_weight(), None)

    @torch.no_grad()
    def condense(self, num_drops: int) -> None:
        """Make all of the first ``num_drops`` drops that are not made yet.

        A drop does not change the strength of the remaining connections, so several drops are made at once.
        """
        missing = min(num_drops, self.factor - 1) - int(self.drops[0])
        if missing > 0:
            order = self.strengths(1).masked_fill(~self.mask, torch.inf).argsort(dim=1, stable=True)
            self.mask.scatter_(1, order[:, : missing * self.mask.shape[1] // self.factor], False)
            self.drops[0] += missing


class InputMaskedConv2d(MaskedConv2d):
    """1x1; output r is in group r mod G, and a group keeps some of the inputs."""

    mask_name = 'input_mask'

    def dealt(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight (C_out / G, G, C_in) and mask (G, C_in)."""
        return weight.reshape(-1, self.num_groups, self.in_channels), self.mask

    def strengths(self, order: float) -> Tensor:
        """Return the norm over the group's outputs."""
        return torch.linalg.vector_norm(self.dealt(self.masked_weight())[0], order, 0)


class OutputMaskedConv2d(MaskedConv2d):
    """k x k; input j is in group j mod G, and a group keeps some of the outputs."""

    mask_name = 'output_mask'

    def dealt(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight (C_out, C_in / G, G, k, k) and mask (C_out, 1, G, 1, 1)."""
        shape = (self.out_channels, -1, self.num_groups, *self.kernel_size)
        return weight.reshape(shape), self.mask.T[:, None, :, None, None]

    def strengths(self, order: float) -> Tensor:
        """Return the norm over the group's inputs, each with the largest magnitude in its window."""
        largest = self.dealt(self.masked_weight())[0].abs().amax((3, 4))
        return torch.linalg.vector_norm(largest, order, 1).T


class LearnedGroupConv(nn.Module):
    """BN, activation, 1x1 convolution that learns which inputs each of its groups needs.

    (N, C, H, W) -> (N, C_out, H, W).

    Args:
        in_channels: Input channels C.
        out_channels: Output channels C_out.
        groups: Number of groups G.
        factor: The condense factor: a group keeps 1 / factor of the inputs.
        act: A name from ``ACTIVATIONS``.
        sparsity: 'masked' or 'converted'.

    Raises:
        ValueError: ``factor`` does not divide the inputs, or ``groups`` the outputs.
    """

    index: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        factor: int,
        act: str = 'relu',
        sparsity: str = 'masked',
    ):
        super().__init__()
        _check(
            self, {'in_channels': (in_channels, factor), 'out_channels': (out_channels, groups)}, sparsity
        )
        self.groups = groups
        self.converted = sparsity == 'converted'
        if self.converted:
            # until weights are loaded, every input is used by at least one group
            self.register_buffer('index', _spread(in_channels, groups, factor))
            self.bn = nn.BatchNorm2d(len(self.index))
            self.conv: nn.Conv2d = GroupedConv1x1(
                len(self.index), out_channels, 1, groups=groups, bias=False
            )
        else:
            self.bn = nn.BatchNorm2d(in_channels)
            self.conv = InputMaskedConv2d(in_channels, out_channels, num_groups=groups, factor=factor)
        self.act = ACTIVATIONS[act](inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Return the masked form has no shuffle: its groups are dealt in turn."""
        if self.converted:
            x = x.index_select(1, self.index)
        x = self.conv(self.act(self.bn(x)))
        return channel_shuffle(x, self.groups) if self.converted else x


class SparseFeatureReactivation(nn.Module):
    """BN, activation, convolution that learns which old features each group of new features updates.

    New features (N, C, H, W) -> increments of the old ones (N, C_out, H, W).

    Args:
        in_channels: Input channels C.
        out_channels: C_out, the channels of the old features.
        groups: Number of groups G; with ``groups=in_channels`` each new feature is a group.
        factor: The sparse factor: a group keeps 1 / factor of the outputs.
        kernel_size: Odd kernel size; the map keeps its size.
        act: A name from ``ACTIVATIONS``.
        sparsity: 'masked' or 'converted'.

    Raises:
        ValueError: ``groups`` does not divide the inputs, or ``factor`` the outputs.
    """

    index: Tensor

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        groups: int,
        factor: int,
        kernel_size: int = 1,
        act: str = 'relu',
        sparsity: str = 'masked',
    ):
        super().__init__()
        _check(
            self, {'in_channels': (in_channels, groups), 'out_channels': (out_channels, factor)}, sparsity
        )
        self.out_channels = out_channels
        self.group_channels = in_channels // groups
        self.converted = sparsity == 'converted'
        self.bn = nn.BatchNorm2d(in_channels)
        self.act = ACTIVATIONS[act](inplace=True)
        if self.converted:
            self.register_buffer('index', _spread(out_channels, groups, factor))
            num_increments, padding = len(self.index), kernel_size // 2
            self.conv = nn.Conv2d(
                in_channels, num_increments, kernel_size, padding=padding, groups=groups, bias=False
            )
        else:
            self.conv = OutputMaskedConv2d(
                in_channels, out_channels, kernel_size, num_groups=groups, factor=factor
            )

    def forward(self, x: Tensor) -> Tensor:
        """Compute the increments; the converted form adds outputs with the same index."""
        x = self.act(self.bn(x))
        if not self.converted:
            return self.conv(x)
        if self.group_channels > 1:
            x = channel_shuffle(x, self.group_channels)
        x = self.conv(x)
        increments = x.new_zeros(x.shape[0], self.out_channels, *x.shape[2:])
        return increments.index_add(1, self.index, x)


def _check(layer: nn.Module, divisions: Mapping[str, tuple[int, int]], sparsity: str) -> None:
    name = type(layer).__name__
    for what, (channels, divisor) in divisions.items():
        if divisor < 1 or channels % divisor:
            raise ValueError(f'{name}: {what}={channels} is no multiple of {divisor}')
    if sparsity not in FORMS:
        raise ValueError(f'{name}: sparsity={sparsity!r}; it is one of {FORMS}')


def _spread(candidates: int, groups: int, factor: int) -> Tensor:
    """Return candidates g, g + factor, ... for group g (modulo factor), group after group."""
    return torch.cat([torch.arange(g % factor, candidates, factor) for g in range(groups)])
