"""What of published weights has to be computed, not only renamed: BN, masks, the order of channels."""

import torch
from torch import Tensor

from backbones import Arch
from backbones.layers import channel_shuffle
from backbones.networks.condensenet import CondenseNetArch
from backbones.networks.condensenetv2 import CondenseNetV2Arch
from backbones.networks.shufflenet import ShuffleNetArch
from compactdet.errors import UserError

TENSORFLOW_EPS = 1e-3  # of its batch normalization


def unfold_bn(theirs: dict[str, Tensor], arch: Arch) -> dict[str, Tensor]:
    """A TFLite file's entries, whose convolutions hold their BN, as a network that has BN.

    The BN passes on what it gets and adds the bias: its scale undoes its epsilon. An operation's name
    there is two names, ``FUSED;LAYER``. The logits are a 1x1 convolution with a class 0, the background.
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
    """CondenseNet's training form: a mask of a weight's size becomes one of a row for each group.

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
        elif leaf not in ('_count', '_stage'):  # the mask says it all
            entries[name] = value
    return entries


def indices_by_channel(theirs: dict[str, Tensor], arch: Arch) -> dict[str, Tensor]:
    """CondenseNet's test-time form: a 0/1 matrix that adds channels up becomes an index.

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
    """ShuffleNet whose downsampling units give [pooled, residual], as one that gives [residual, pooled].

    All channels in reverse: a concatenation then has the other order, the blocks that group convolutions
    work on stay blocks, and a shuffle stays a shuffle. What is left is the shuffle itself, which is here
    before the depthwise convolution and there after it: within what one group made and one group takes,
    channels may change places.

    Args:
        state_dict: Entries under this suite's names.
        arch: The network.
        inverse_shuffle: Theirs reads its channels as (channels / groups, groups), not the reverse.

    Raises:
        UserError: The network has no shuffle; or (4 and 8 groups, whose channels are no multiple of them,
            with the inverse shuffle) its groups share channels in other numbers.
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
    """A classifier without bias as one whose bias is zero."""
    if 'head.fc.weight' not in state_dict:
        return state_dict
    return {'head.fc.bias': torch.zeros(len(state_dict['head.fc.weight'])), **state_dict}


def _move_shuffle(entries: dict[str, Tensor], unit: str, groups: int, inverse: bool) -> None:
    """Changes one unit's entries from a shuffle after the depthwise convolution to one before it."""
    weight = entries[f'{unit}.expand.conv.weight']
    width = len(entries[f'{unit}.reduce.conv.weight'])
    if width % groups or weight.shape[1] * groups != width or len(weight) % groups:
        return  # of another size than the network's, which the check of shapes says better
    block = width // groups
    ungrouped = unit == 'stage8.0'  # the network's first pointwise convolution
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
