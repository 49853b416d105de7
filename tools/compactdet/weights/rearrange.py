"""Changes of published weights beyond renaming: folded BN, masks, indices, the order of channels.

Each function takes the entries of a file and the network, and returns the changed entries.
"""

import torch
from torch import Tensor

from backbones import Arch
from backbones.layers import channel_shuffle
from backbones.networks.condensenet import CondenseNetArch
from backbones.networks.condensenetv2 import CondenseNetV2Arch
from backbones.networks.shufflenet import ShuffleNetArch
from compactdet.errors import UserError

TENSORFLOW_EPS = 1e-3  # epsilon of batch normalization


def unfold_batch_norm(published: dict[str, Tensor], arch: Arch) -> dict[str, Tensor]:
    """Return the entries of a TensorFlow Lite file with folded BN for a network with BN.

    The added BN is the identity plus the bias: its scale compensates for epsilon. The name of an operation
    is ``FUSED;LAYER``. The logits are a 1x1 convolution with an additional class 0, the background.
    """
    entries = {}
    for name, value in published.items():
        layer, _, leaf = name.rpartition(';')[2].rpartition('.')
        if 'Logits' in layer:
            entries[f'{layer}.{leaf}'] = value[1:].flatten(1) if leaf == 'weight' else value[1:]
        elif leaf == 'weight':
            entries[f'{layer}.conv.weight'] = value
        else:
            entries[f'{layer}.bn.weight'] = torch.full_like(value, (1 + TENSORFLOW_EPS) ** 0.5)
            entries[f'{layer}.bn.bias'] = value
            entries[f'{layer}.bn.running_mean'] = torch.zeros_like(value)
            entries[f'{layer}.bn.running_var'] = torch.ones_like(value)
    return entries


def group_masks(published: dict[str, Tensor], arch: Arch) -> dict[str, Tensor]:
    """Return CondenseNet's training form with one row of masks per group.

    The authors' masks have the size of the weights.

    Raises:
        UserError: The weights of a group do not have the same mask.
    """
    assert isinstance(arch, CondenseNetArch | CondenseNetV2Arch)
    entries, groups = {}, arch.factor
    for name, value in published.items():
        layer, _, leaf = name.rpartition('.')
        if leaf == '_mask':
            mask = value.flatten(1) != 0  # (outputs, inputs)
            if layer.endswith('.sfr'):
                mask = mask.T
            by_group = mask.unflatten(0, (-1, groups)) if len(mask) % groups == 0 else mask[None]
            if (by_group != by_group[0]).any():
                raise UserError(f'{name}: the masks within a group of {groups} differ')
            leaf = 'output_mask' if layer.endswith('.sfr') else 'input_mask'
            entries[f'{layer}.conv.{leaf}'] = by_group[0]
            dropped = (~by_group[0]).sum(1).max() * groups // mask.shape[1]
            entries[f'{layer}.conv.drops'] = torch.tensor([int(dropped), groups - 1])
        elif leaf not in ('_count', '_stage'):  # the mask contains this information
            entries[name] = value
    return entries


def channel_indices(published: dict[str, Tensor], arch: Arch) -> dict[str, Tensor]:
    """Return CondenseNet's test-time form with indices instead of 0/1 matrices.

    Raises:
        UserError: A row of a matrix does not contain exactly one 1.
    """
    entries = {}
    for name, value in published.items():
        if name.endswith('.sfr.index'):
            if value.dim() != 2 or not ((value == 0) | (value == 1)).all() or (value.sum(1) != 1).any():
                raise UserError(f'{name}: a row does not select exactly one channel')
            entries[name] = value.argmax(1)
        else:
            entries['choice.index' if name == 'classifier.index' else name] = value
    return entries


def reverse_channels(
    state_dict: dict[str, Tensor], arch: Arch, *, inverse_shuffle: bool
) -> dict[str, Tensor]:
    """Return a ShuffleNet that concatenates [pooled, residual] as one that concatenates [residual, pooled].

    All channels are reversed. This swaps the parts of a concatenation, and keeps the groups of convolutions
    and the shuffle. The shuffle is also moved from after the depthwise convolution to before it, where
    channels that pass from the same group to the same group may be exchanged.

    Args:
        state_dict: Entries under the suite's names.
        arch: The network.
        inverse_shuffle: Whether the shuffle of the file's network is the inverse permutation: it reads the
            channels as (channels / groups, groups).

    Raises:
        UserError: The network has no shuffle, or the two shuffles pass different numbers of channels
            between groups (inverse shuffle if the channels of a group are not a multiple of the groups).
    """
    assert isinstance(arch, ShuffleNetArch)
    if not arch.shuffle:
        raise UserError(f'{arch.name} has no channel shuffle, but the network of the file has one')
    entries = dict(state_dict)
    if arch.groups > 1:
        for unit in [key.removesuffix('.reduce.conv.weight') for key in entries if '.reduce.conv' in key]:
            _move_shuffle(entries, unit, arch.groups, inverse_shuffle)
    for key, value in entries.items():
        if key.startswith('head.'):
            entries[key] = value.flip(1) if value.dim() > 1 else value
        elif value.dim() == 4:
            entries[key] = value.flip(0) if key.startswith('stem.') else value.flip(0, 1)
        elif value.dim() == 1:
            entries[key] = value.flip(0)
    return add_zero_bias(entries, arch)


def add_zero_bias(state_dict: dict[str, Tensor], arch: Arch) -> dict[str, Tensor]:
    """Return the entries with a zero bias of the classifier, if it has none."""
    if 'head.fc.weight' not in state_dict:
        return state_dict
    return {'head.fc.bias': torch.zeros(len(state_dict['head.fc.weight'])), **state_dict}


def _move_shuffle(entries: dict[str, Tensor], unit: str, groups: int, inverse: bool) -> None:
    """Rearrange the entries of a unit for a shuffle before, not after, the depthwise convolution."""
    weight = entries[f'{unit}.expand.conv.weight']
    width = len(entries[f'{unit}.reduce.conv.weight'])
    if width % groups or weight.shape[1] * groups != width or len(weight) % groups:
        return  # the check of shapes reports this
    block = width // groups
    ungrouped = unit == 'stage8.0'  # first pointwise convolution of the network
    ours = channel_shuffle(torch.arange(width).view(1, -1, 1, 1), groups).flatten()  # ours[target] = source
    published = ours.argsort() if inverse else ours

    def group_pairs(sources: Tensor) -> Tensor:
        """Return a number for the target group and the source group of each channel."""
        target_group = torch.arange(width) // block
        return target_group * groups + (0 if ungrouped else sources // block)

    new_order = group_pairs(ours).argsort(stable=True)
    old_order = group_pairs(published).argsort(stable=True)
    if (group_pairs(ours)[new_order] != group_pairs(published)[old_order]).any():
        raise UserError(
            f"{unit}: the file's network uses the inverse shuffle; with {groups} groups of {block} "
            "channels it passes other numbers of channels between groups than the paper's shuffle, so the "
            "suite's network cannot compute the same function"
        )
    for part, new, old in (
        ('reduce', ours[new_order], published[old_order]),
        ('depthwise', new_order, published[old_order]),
    ):
        for key in [key for key in entries if key.startswith(f'{unit}.{part}.') and entries[key].dim()]:
            moved = entries[key].clone()
            moved[new] = entries[key][old]
            entries[key] = moved
    grouped, moved = weight.unflatten(0, (groups, -1)), weight.clone().unflatten(0, (groups, -1))
    for target, source in zip(new_order.tolist(), old_order.tolist(), strict=True):
        moved[target // block, :, target % block] = grouped[source // block, :, source % block]
    entries[f'{unit}.expand.conv.weight'] = moved.flatten(0, 1)
