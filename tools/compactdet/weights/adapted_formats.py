"""File formats of adapted networks (``backbones.libraries``): the library's own and mmpretrain's."""

import re

from torch import Tensor

from backbones import Arch
from backbones.libraries.adapter import AdaptedArch, adapted_entries
from compactdet.weights.formats import Format

# In VGG-16, a convolution and its ReLU are one module of mmpretrain and two modules of torchvision.
_VGG_POOLS = (2, 5, 9, 13)
_VGG_NUMBERS = {i: 2 * i - sum(pool < i for pool in _VGG_POOLS) for i in range(17) if i not in _VGG_POOLS}
# Regular expressions that replace the layer names of mmpretrain and MMDetection by those of the library.
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


def _rename_regnet_block(name: str) -> str:
    """Return an entry's name with timm's number of its RegNet block; mmpretrain counts from 0."""
    return re.sub(r'^backbone\.layer(\d)\.(\d+)\.', lambda m: f's{m[1]}.b{int(m[2]) + 1}.', name)


def adapted_format(arch: AdaptedArch, published: dict[str, Tensor]) -> Format:
    """Return the format of published entries for an adapted network: the library's own or mmpretrain's."""
    suite_names = adapted_entries(arch)  # None for an entry that is not used
    library, _, name = arch.source.partition(':')
    openmmlab = arch.source in OPENMMLAB and any(key.startswith('backbone.') for key in published)

    def rename(published: dict[str, Tensor], _: Arch) -> dict[str, Tensor]:
        if openmmlab:
            published = {_library_name(key, arch.source): value for key, value in published.items()}
        return {
            suite_names.get(key) or key: value
            for key, value in published.items()
            if suite_names.get(key, key) is not None
        }

    layers = {ours.rpartition('.')[0] for ours in suite_names.values() if ours}
    return Format(
        f"{'mmpretrain' if openmmlab else library}'s files",
        families=(arch.family,),
        marker='',
        layer_names=lambda _: {layer: layer for layer in layers},
        source=f"mmpretrain's format of {name}" if openmmlab else f"{library}'s {name}",
        preprocessing=arch.preprocessing,
        before_renaming=rename,
    )


def _library_name(key: str, source: str) -> str:
    """Return the library's name of an entry for mmpretrain's."""
    if source.startswith('timm:regnet'):
        key = _rename_regnet_block(key)
    for pattern, name in OPENMMLAB[source]:
        key = re.sub(pattern, name, key)
    return key
