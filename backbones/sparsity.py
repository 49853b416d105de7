"""Learned sparsity: learned group convolution (LGC) and sparse feature reactivation (SFR).

Sources: Huang et al. 2018 (CondenseNet, arXiv:1711.09224, section 3) and Yang et al. 2021
(CondenseNetV2, arXiv:2104.04382, section 3.1).

A layer has two forms; ``Conventions.sparsity`` says which one per network has:

* 'masked', for training: a full weight times a mask that starts with ones. LGC's outputs, or SFR's inputs,
  are dealt to G groups in turn: channel r to group r mod G. At each of C-1 drops every group loses that 1/C
  of its connections which has the smallest L1 norm, so it ends with 1/C of the inputs (LGC) or outputs
  (SFR). Masks and the number of drops are buffers: a checkpoint has them.
* 'converted', for use: LGC selects its groups' inputs by index and is a standard group convolution and
  a shuffle; SFR is a standard group convolution whose outputs are added up by index. The same function
  as the masked form in evaluation mode, at 1/C of its cost.

Both forms have their parts under the same names, so a detector's halves start from a classifier's weights
in either; both can be trained further.

What the sources leave open or contradict: the CondenseNetV2 paper writes SFR as convolution, BN, ReLU; the
authors' code is BN, activation, convolution, so that an increment can be negative, and so is this. SFR's
BN starts with weight 1 (the authors' constructor writes 0, which their initialization then overwrites).
For kernels larger than 1x1 an input counts with the largest magnitude in its window (footnote 2).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import Tensor, nn

from backbones.layers import ACTIVATIONS, channel_shuffle
from backbones.weights.safe_files import WeightsError

FORMS = ('masked', 'converted')


class CondensingError(WeightsError):
    """A network that cannot be condensed, or weights that cannot be converted; gives the reason."""


class MaskedConv2d(nn.Conv2d):
    """A full convolution times a mask that loses connections, a drop at a time.

    (N, C, H, W) -> (N, C_out, H, W). A dropped connection is zero and gets no gradient, whatever the
    optimizer does to the number under the mask.

    Subclasses say what a connection is: between a group and a *candidate*, an input or an output.

    Attributes:
        mask: (G, candidates), what each group still has.
        drops: The number of drops made, and that of all.
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
        """(G, candidates)."""
        return getattr(self, self.mask_name)

    def dealt(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return the weight with the groups in a dimension of their own, and the mask to multiply it by."""
        raise NotImplementedError

    def strengths(self, order: float) -> Tensor:
        """Return the norm of each connection's remaining weights: (G, candidates)."""
        raise NotImplementedError

    def masked_weight(self) -> Tensor:
        """Return the weight that the convolution uses: (C_out, C_in, k, k)."""
        weight, mask = self.dealt(self.weight)
        return (weight * mask).reshape(self.weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        """Convolves with what is left of the weight."""
        return self._conv_forward(x, self.masked_weight(), None)

    @torch.no_grad()
    def condense(self, num_drops: int) -> None:
        """Make those of the first ``num_drops`` that are not made yet.

        A drop does not change the strength of what stays, so several take the weakest all at once.
        """
        missing = min(num_drops, self.factor - 1) - int(self.drops[0])
        if missing > 0:
            order = self.strengths(1).masked_fill(~self.mask, torch.inf).argsort(dim=1, stable=True)
            self.mask.scatter_(1, order[:, : missing * self.mask.shape[1] // self.factor], False)
            self.drops[0] += missing


class InputMaskedConv2d(MaskedConv2d):
    """1x1; output r is in group r mod G, and a group keeps some inputs."""

    mask_name = 'input_mask'

    def dealt(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(C_out / G, G, C_in), (G, C_in)."""
        return weight.reshape(-1, self.num_groups, self.in_channels), self.mask

    def strengths(self, order: float) -> Tensor:
        """Over the group's outputs."""
        return torch.linalg.vector_norm(self.dealt(self.masked_weight())[0], order, 0)


class OutputMaskedConv2d(MaskedConv2d):
    """k x k; input j is in group j mod G, and a group keeps some outputs."""

    mask_name = 'output_mask'

    def dealt(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(C_out, C_in / G, G, k, k), (C_out, 1, G, 1, 1)."""
        shape = (self.out_channels, -1, self.num_groups, *self.kernel_size)
        return weight.reshape(shape), self.mask.T[:, None, :, None, None]

    def strengths(self, order: float) -> Tensor:
        """Over the group's inputs, each with the largest magnitude in its window."""
        largest = self.dealt(self.masked_weight())[0].abs().amax((3, 4))
        return torch.linalg.vector_norm(largest, order, 1).T


class LearnedGroupConv(nn.Module):
    """BN, activation, 1x1 convolution that learns which inputs each of its groups needs.

    (N, C, H, W) -> (N, C_out, H, W).

    Args:
        in_channels: C.
        out_channels: C_out.
        groups: G.
        factor: The condense factor: a group ends with 1 / factor of the inputs.
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
            # until weights are loaded, every input reaches a group or more
            self.register_buffer('index', _spread(in_channels, groups, factor))
            self.bn = nn.BatchNorm2d(len(self.index))
            self.conv = nn.Conv2d(len(self.index), out_channels, 1, groups=groups, bias=False)
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
    """BN, activation, convolution that learns which old features each group of new ones updates.

    New features (N, C, H, W) -> what to add to the old ones (N, C_out, H, W).

    Args:
        in_channels: C.
        out_channels: C_out, the channels of the old features.
        groups: G; with ``groups=in_channels`` each new feature is its own.
        factor: The sparse factor: a group ends with 1 / factor of the outputs.
        kernel_size: Odd; the map's size is kept.
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
        """The converted form gathers each group's channels and adds up what has the same index."""
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
    """Candidates g, g + factor, ... for group g (modulo factor), group after group."""
    return torch.cat([torch.arange(g % factor, candidates, factor) for g in range(groups)])


def masked_convs(network: nn.Module) -> dict[str, MaskedConv2d]:
    """Return every layer of a network, or of a detector with one, that condenses: ``{name: layer}``."""
    return {name: m for name, m in network.named_modules() if isinstance(m, MaskedConv2d)}


def converted_state_dict(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the converted form from those of the masked form.

    The entries say themselves what they are: those of a classifier, of one of its halves or of a whole
    detector all serve. Load the result into the same network, built with
    ``conventions=dict(sparsity='converted')``.

    Raises:
        CondensingError: No layer is in the masked form, or one has drops to make yet.
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
        kept = mask.nonzero()[:, 1].view(groups, -1)  # ascending in each group
        if cls is InputMaskedConv2d:
            parts = [weight[g::groups, kept[g]] for g in range(groups)]
            for key, value in state_dict.items():
                if key.startswith(f'{name}bn.') and value.dim():  # not its counter
                    converted[key] = value[kept.flatten()]
        else:
            parts = [weight[kept[g], g::groups] for g in range(groups)]
        converted[f'{name}conv.weight'] = torch.cat(parts)
        converted[f'{name}index'] = kept.flatten()
    return converted


def group_lasso(network: nn.Module) -> Tensor:
    """Return the penalty that makes the weak inputs of learned group convolutions weaker: a scalar.

    The sum over layers, groups and inputs of the L2 norm of the weights from that input to the group's
    outputs (CondenseNet, section 3.3). A layer that has made all its drops has nothing to choose and adds
    nothing.
    """
    total = next(network.parameters()).new_zeros(())
    for layer in masked_convs(network).values():
        if isinstance(layer, InputMaskedConv2d) and layer.drops[0] < layer.drops[1]:
            total = total + layer.strengths(2).sum()
    return total


def drops_due(factor: int, done: int, total: int) -> int:
    """How many of a layer's factor - 1 drops belong to the first ``done`` of ``total`` iterations.

    They are spread evenly over the first half; in integers, so that none comes late by rounding.
    """
    return min(2 * done * (factor - 1) // total, factor - 1)


@HOOKS.register_module()
class CondensingHook(Hook):
    """Makes each drop when it is due: ``custom_hooks=[dict(type='CondensingHook')]``.

    Drop s of C-1 is due when s / (2 (C-1)) of the training is over; the second half trains what is left.
    The hook goes by ``iter / max_iters``, so serves loops by epoch and by iteration, and makes all drops
    that are due: after the last iteration none is missing, however few there were. A resumed training goes
    on from the drops in the checkpoint. The layers may be anywhere in the model, frozen stages included.

    Args:
        group_lasso: Weight of ``group_lasso`` in the loss (CondenseNet's ImageNet training: 1e-5). It is
            added to the losses that the model returns, as ``loss_group_lasso``.
    """

    priority = 'HIGH'  # before the moving average copies the masks and the checkpoint is written

    def __init__(self, group_lasso: float = 0.0):
        self.group_lasso = group_lasso
        self._layers: dict[str, MaskedConv2d] = {}
        self._made: dict[str, int] = {}
        self._handle: Any = None

    def before_train(self, runner: Any) -> None:
        """Find the layers and how far they are.

        Raises:
            CondensingError: There is none.
        """
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        self._layers = masked_convs(model)
        if not self._layers:
            raise CondensingError(
                'CondensingHook: the model has no layer with learned sparsity in the masked form; '
                'take the hook out of custom_hooks'
            )
        self._made = {name: int(layer.drops[0]) for name, layer in self._layers.items()}
        if self.group_lasso:
            self._handle = model.register_forward_hook(self._add_penalty, with_kwargs=True)

    def _add_penalty(self, model: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        if kwargs.get('mode') != 'loss':
            return output
        return {**output, 'loss_group_lasso': self.group_lasso * group_lasso(model)}

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Make the drops that are due."""
        changed = 0
        for name, layer in self._layers.items():
            due = drops_due(layer.factor, runner.iter + 1, runner.max_iters)
            if due > self._made[name]:
                layer.condense(due)
                self._made[name] = due
                changed += 1
        if changed:
            left = sum(layer.factor - 1 - self._made[name] for name, layer in self._layers.items())
            runner.logger.info(f'condensing: drops in {changed} layers, {left} drops to come in all')

    def after_train(self, runner: Any) -> None:
        """Take the penalty out of the model's losses again."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
