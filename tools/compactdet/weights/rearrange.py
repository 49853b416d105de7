"""Rearrangement of published weights that cannot only be renamed: BN, masks, the order of channels."""

import torch
from torch import Tensor

from backbones import Arch
from backbones.layers import channel_shuffle
from backbones.networks.condensenet import CondenseNetArch
from backbones.networks.condensenetv2 import CondenseNetV2Arch
from backbones.networks.shufflenet import ShuffleNetArch
from compactdet.errors import UserError

TENSORFLOW_EPS = 1e-3  # of the batch normalization


def unfold_bn(theirs: dict[str, Tensor], arch: Arch) -> dict[str, Tensor]:
    """Return the entries of a TFLite file, with BN folded into convolutions, as those of a network with BN.

    The BN is the identity plus the bias: its scale compensates its epsilon. An operation has two names,
    ``FUSED;LAYER``. The logits are a 1x1 convolution with a class 0, the background.
    """
    entries = {}
    for name, value in theirs.items():
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


def masks_by_group(theirs: dict[str, Tensor], arch: Arch) -> dict[str, Tensor]:
    """Return CondenseNet's training form with masks of one row per group instead of the size of the
    weights.

    Raises:
        UserError: The rows of a group do not have the same mask.
    """
    assert isinstance(arch, CondenseNetArch | CondenseNetV2Arch)
    entries, groups = {}, arch.factor
    for name, value in theirs.items():
        layer, _, leaf = name.rpartition('.')
        if leaf == '_mask':
            mask = value.flatten(1) != 0  # (outputs, inputs)
            if layer.endswith('.sfr'):
                mask = mask.T
            dealt = mask.unflatten(0, (-1, groups)) if len(mask) % groups == 0 else mask[None]
            if (dealt != dealt[0]).any():
                raise UserError(f'{name}: the mask differs inside of a group of {groups}')
            leaf = 'output_mask' if layer.endswith('.sfr') else 'input_mask'
            entries[f'{layer}.conv.{leaf}'] = dealt[0]
            dropped = (~dealt[0]).sum(1).max() * groups // mask.shape[1]
            entries[f'{layer}.conv.drops'] = torch.tensor([int(dropped), groups - 1])
        elif leaf not in ('_count', '_stage'):  # the mask is sufficient
            entries[name] = value
    return entries


def indices_by_channel(theirs: dict[str, Tensor], arch: Arch) -> dict[str, Tensor]:
    """Return CondenseNet's test-time form with an index instead of a 0/1 matrix.

    Raises:
        UserError: A row of a matrix is not one 1 among 0.
    """
    entries = {}
    for name, value in theirs.items():
        if name.endswith('.sfr.index'):
            if value.dim() != 2 or not ((value == 0) | (value == 1)).all() or (value.sum(1) != 1).any():
                raise UserError(f'{name}: its rows do not choose one channel each')
            entries[name] = value.argmax(1)
        else:
            entries['choice.index' if name == 'classifier.index' else name] = value
    return entries


def reversed_channels(
    state_dict: dict[str, Tensor], arch: Arch, *, inverse_shuffle: bool
) -> dict[str, Tensor]:
    """Return a ShuffleNet whose downsampling units give [pooled, residual] as one that gives [residual,
    pooled].

    All channels are reversed: a concatenation then has the other order, the blocks of group convolutions
    stay blocks, and a shuffle stays a shuffle. The shuffle itself must also move, from after the depthwise
    convolution to before it: channels from one group to one group may be exchanged.

    Args:
        state_dict: Entries under the suite's names.
        arch: The network.
        inverse_shuffle: Whether their shuffle reads channels as (channels / groups, groups).

    Raises:
        UserError: The network has no shuffle, or its groups share channels in other numbers (4 and 8 groups
            with the inverse shuffle, whose channels are not multiples of them).
    """
    assert isinstance(arch, ShuffleNetArch)
    if not arch.shuffle:
        raise UserError(f'{arch.name} has no shuffle; the network of the file has one')
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
    return with_bias(entries, arch)


def with_bias(state_dict: dict[str, Tensor], arch: Arch) -> dict[str, Tensor]:
    """Return a classifier without bias as one with zero bias."""
    if 'head.fc.weight' not in state_dict:
        return state_dict
    return {'head.fc.bias': torch.zeros(len(state_dict['head.fc.weight'])), **state_dict}


def _move_shuffle(entries: dict[str, Tensor], unit: str, groups: int, inverse: bool) -> None:
    """Move the shuffle of a unit's entries from after the depthwise convolution to before it."""
    weight = entries[f'{unit}.expand.conv.weight']
    width = len(entries[f'{unit}.reduce.conv.weight'])
    if width % groups or weight.shape[1] * groups != width or len(weight) % groups:
        return  # another size than the network's, which the check of shapes reports
    block = width // groups
    ungrouped = unit == 'stage8.0'  # first pointwise convolution of the network
    ours = channel_shuffle(torch.arange(width).view(1, -1, 1, 1), groups).flatten()  # [place] = source
    theirs = ours.argsort() if inverse else ours

    def cells(sources: Tensor) -> Tensor:
        taken_by = torch.arange(width) // block
        return taken_by * groups + (0 if ungrouped else sources // block)

    to, of = cells(ours).argsort(stable=True), cells(theirs).argsort(stable=True)
    if (cells(ours)[to] != cells(theirs)[of]).any():
        raise UserError(
            f"{unit}: the file's network shuffles by the inverse permutation; with {block} channels in "
            f'each of {groups} groups that hands on other numbers of channels between them than the '
            "paper's shuffle, so this network cannot compute the same"
        )
    for part, new, old in (('reduce', ours[to], theirs[of]), ('depthwise', to, theirs[of])):
        for key in [key for key in entries if key.startswith(f'{unit}.{part}.') and entries[key].dim()]:
            moved = entries[key].clone()
            moved[new] = entries[key][old]
            entries[key] = moved
    grouped, moved = weight.unflatten(0, (groups, -1)), weight.clone().unflatten(0, (groups, -1))
    for place, source in zip(to.tolist(), of.tolist(), strict=True):
        moved[place // block, :, place % block] = grouped[source // block, :, source % block]
    entries[f'{unit}.expand.conv.weight'] = moved.flatten(0, 1)
