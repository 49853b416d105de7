"""Weights formats of the networks in ``backbones.libraries``: the library's own, and mmpretrain's."""

import re

from torch import Tensor

from backbones import Arch
from backbones.libraries.adapter import AdaptedArch, adapted_entries
from compactdet.weights.formats import Format

# In VGG-16, mmpretrain counts a convolution and its ReLU as one module, torchvision as two.
_VGG_POOLS = (2, 5, 9, 13)
_VGG_NUMBERS = {i: 2 * i - sum(pool < i for pool in _VGG_POOLS) for i in range(17) if i not in _VGG_POOLS}
# Substitutions from the layer names of mmpretrain and MMDetection to those of the library.
OPENMMLAB: dict[str, tuple[tuple[str, str], ...]] = {
    'torchvision:resnet101': ((r'^backbone\.', ''), (r'^head\.fc\.', 'fc.')),
    'torchvision:vgg16': (
        *((rf'^backbone\.features\.{i}\.conv\.', f'features.{j}.') for i, j in _VGG_NUMBERS.items()),
        (r'^backbone\.classifier\.', 'classifier.'),
    ),
    **dict.fromkeys(
        ('timm:regnetx_002', 'timm:regnetx_004'),
        (
            (r'^backbone\.conv1\.', 'stem.conv.'),
            (r'^backbone\.bn1\.', 'stem.bn.'),
            (r'\.downsample\.0\.', '.downsample.conv.'),
            (r'\.downsample\.1\.', '.downsample.bn.'),
            (r'\.conv(\d)\.', r'.conv\1.conv.'),
            (r'\.bn(\d)\.', r'.conv\1.bn.'),
        ),
    ),
}


def _block_from_one(name: str) -> str:
    """Return a RegNet block's number in timm (from 1) for that in mmpretrain (from 0)."""
    return re.sub(r'^backbone\.layer(\d)\.(\d+)\.', lambda m: f's{m[1]}.b{int(m[2]) + 1}.', name)


def library_format(arch: AdaptedArch, theirs: dict[str, Tensor]) -> tuple[str, Format]:
    """Return the format for a network of a library: the library's own state dict, or mmpretrain's."""
    entries = adapted_entries(arch)
    library, _, name = arch.source.partition(':')
    openmmlab = arch.source in OPENMMLAB and any(key.startswith('backbone.') for key in theirs)

    def prepare(theirs: dict[str, Tensor], _: Arch) -> dict[str, Tensor]:
        if openmmlab:
            theirs = {_librarys_name(key, arch.source): value for key, value in theirs.items()}
        return {
            entries.get(key) or key: value
            for key, value in theirs.items()
            if entries.get(key, key) is not None
        }

    layers = {ours.rpartition('.')[0] for ours in entries.values() if ours}
    fmt = Format(
        families=(arch.family,),
        marker='',
        layers=lambda _: {layer: layer for layer in layers},
        source=f"mmpretrain's format of {name}" if openmmlab else f"{library}'s {name}",
        preprocessing=arch.preprocessing,
        prepare=prepare,
    )
    return f"{'mmpretrain' if openmmlab else library}'s files", fmt


def _librarys_name(key: str, source: str) -> str:
    if source.startswith('timm:regnet'):
        key = _block_from_one(key)
    for pattern, name in OPENMMLAB[source]:
        key = re.sub(pattern, name, key)
    return key
