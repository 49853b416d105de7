"""Names of layers in the weights files of libraries: ``{their name: ours}`` for each format.

One function per library serves several families, by the layers of the suite's own network (``unit_parts``).
"""

from collections.abc import Callable, Iterator

from backbones import Arch
from backbones.spec import UnitStage
from backbones.weights import classifier_shapes

Layers = Callable[[Arch], dict[str, str]]
CONV_BN = ('conv', 'bn')

# The suite's networks


def own_layers(arch: Arch) -> list[str]:
    """Return the names of the layers with entries, in the order of registration."""
    return [*dict.fromkeys(key.rpartition('.')[0] for key in classifier_shapes(arch))]


def units_of(arch: Arch) -> list[str]:
    """Return the names of the units in their order: ``stage8.0``."""
    return [f'stage{stage.stride}.{i}' for stage in arch.stages for i in range(stage.depth)]


def unit_parts(arch: Arch) -> dict[str, list[str]]:
    """Return the parts of each unit: ``{'stage4.0': ['expand', 'depthwise', 'se', 'project']}``."""
    parts: dict[str, dict[str, None]] = {unit: {} for unit in units_of(arch)}
    for layer in own_layers(arch):
        stage, *rest = layer.split('.')
        if stage.startswith('stage') and len(rest) > 1:
            parts[f'{stage}.{rest[0]}'][rest[1]] = None
    return {unit: [*names] for unit, names in parts.items()}


def grouped_units(arch: Arch) -> Iterator[tuple[str, int, int]]:
    """Return the units with their group number and number in the group; a group has one width."""
    units, before, group, index = iter(units_of(arch)), None, -1, 0
    for stage in arch.stages:
        widths = [u.channels for u in stage.units] if isinstance(stage, UnitStage) else None
        for width in widths or [stage.channels] * stage.depth:
            group, index = (group, index + 1) if width == before else (group + 1, 0)
            before = width
            yield next(units), group, index


def pairs(theirs: str, ours: str, leaves: tuple[str, str] = CONV_BN) -> dict[str, str]:
    """Return names of a convolution and its BN: ``{'theirs.0': 'ours.conv', 'theirs.1': 'ours.bn'}``."""
    return {
        f'{theirs}.{leaf}'.lstrip('.'): f'{ours}.{own}' for leaf, own in zip(leaves, CONV_BN, strict=True)
    }


NUMBERS = ('0', '1')

# Libraries


def torchvision_mobilenetv2(arch: Arch) -> dict[str, str]:
    """Names ``features.N.conv.M``; the last of the three parts of a unit has no module of its own."""
    layers = pairs('features.0', 'stem', NUMBERS) | {'classifier.1': 'head.fc'}
    for number, (unit, parts) in enumerate(unit_parts(arch).items(), 1):
        last = len(parts) - 1
        for i, part in enumerate(parts[:-1]):
            layers |= pairs(f'features.{number}.conv.{i}', f'{unit}.{part}', NUMBERS)
        layers |= pairs(f'features.{number}.conv', f'{unit}.{parts[-1]}', (str(last), str(last + 1)))
    return layers | pairs(f'features.{number + 1}', 'head.conv', NUMBERS)


def _torchvision_block(block: str, unit: str, parts: list[str]) -> dict[str, str]:
    layers: dict[str, str] = {}
    for i, part in enumerate(parts):
        if part == 'se':
            layers |= {
                f'{block}.{i}.fc1': f'{unit}.se.reduce',
                f'{block}.{i}.fc2': f'{unit}.se.expand',
            }
        else:
            layers |= pairs(f'{block}.{i}', f'{unit}.{part}', NUMBERS)
    return layers


def torchvision_mobilenetv3(arch: Arch) -> dict[str, str]:
    """Names ``features.N.block.M``."""
    layers = pairs('features.0', 'stem', NUMBERS)
    for number, (unit, parts) in enumerate(unit_parts(arch).items(), 1):
        layers |= _torchvision_block(f'features.{number}.block', unit, parts)
    layers |= pairs(f'features.{number + 1}', 'head.conv', NUMBERS)
    return layers | {'classifier.0': 'head.hidden', 'classifier.3': 'head.fc'}


def torchvision_efficientnet(arch: Arch) -> dict[str, str]:
    """Names ``features.GROUP.N.block.M``."""
    layers, parts = pairs('features.0', 'stem', NUMBERS), unit_parts(arch)
    for unit, group, i in grouped_units(arch):
        layers |= _torchvision_block(f'features.{group + 1}.{i}.block', unit, parts[unit])
    layers |= pairs(f'features.{group + 2}', 'head.conv', NUMBERS)
    return layers | {'classifier.1': 'head.fc'}


def timm_efficientnet(arch: Arch) -> dict[str, str]:
    """Names ``blocks.GROUP.N`` of MobileNet V1, V2, V3 and EfficientNet."""
    layers = {'conv_stem': 'stem.conv', 'bn1': 'stem.bn', 'classifier': 'head.fc'}
    own, unit_of_parts = own_layers(arch), unit_parts(arch)
    for unit, group, i in grouped_units(arch):
        block, parts = f'blocks.{group}.{i}', [p for p in unit_of_parts[unit] if p != 'se']
        names = ('conv_pw', 'conv_dw', 'conv_pwl') if len(parts) == 3 else ('conv_dw', 'conv_pw')
        for number, (name, part) in enumerate(zip(names, parts, strict=True), 1):
            layers |= pairs(block, f'{unit}.{part}', (name, f'bn{number}'))
        for leaf in ('reduce', 'expand'):
            layers[f'{block}.se.conv_{leaf}'] = f'{unit}.se.{leaf}'
    if 'head.hidden' in own:
        layers |= pairs(f'blocks.{group + 1}.0', 'head.conv', ('conv', 'bn1'))
        layers['conv_head'] = 'head.hidden'
    elif 'head.conv.conv' in own:
        layers |= pairs('', 'head.conv', ('conv_head', 'bn2'))
    return layers


def _openmmlab_unit(block: str, unit: str, parts: list[str]) -> dict[str, str]:
    names = {'expand': 'expand_conv', 'depthwise': 'depthwise_conv', 'project': 'linear_conv'}
    layers: dict[str, str] = {}
    for part in parts:
        if part == 'se':
            layers |= {f'{block}.se.conv1.conv': f'{unit}.se.reduce'}
            layers |= {f'{block}.se.conv2.conv': f'{unit}.se.expand'}
        else:
            layers |= pairs(f'{block}.{names[part]}', f'{unit}.{part}')
    return layers


def openmmlab_mobilenetv2(arch: Arch) -> dict[str, str]:
    """Names ``backbone.layerGROUP.N.conv.M``."""
    layers = pairs('backbone.conv1', 'stem') | pairs('backbone.conv2', 'head.conv')
    parts = unit_parts(arch)
    for unit, group, i in grouped_units(arch):
        for number, part in enumerate(parts[unit]):
            layers |= pairs(f'backbone.layer{group + 1}.{i}.conv.{number}', f'{unit}.{part}')
    return layers | {'head.fc': 'head.fc'}


def openmmlab_mobilenetv3(arch: Arch) -> dict[str, str]:
    """Names ``backbone.layerN``."""
    layers = pairs('backbone.layer0', 'stem')
    for number, (unit, parts) in enumerate(unit_parts(arch).items(), 1):
        layers |= _openmmlab_unit(f'backbone.layer{number}', unit, parts)
    layers |= pairs(f'backbone.layer{number + 1}', 'head.conv')
    return layers | {'head.layers.0.fc': 'head.hidden', 'head.layers.1.fc': 'head.fc'}


def openmmlab_efficientnet(arch: Arch) -> dict[str, str]:
    """Names ``backbone.layers.STAGE.N``."""
    layers, parts = pairs('backbone.layers.0', 'stem'), unit_parts(arch)
    for number, stage in enumerate(arch.stages, 1):
        for i in range(stage.depth):
            unit = f'stage{stage.stride}.{i}'
            layers |= _openmmlab_unit(f'backbone.layers.{number}.{i}', unit, parts[unit])
    return layers | pairs(f'backbone.layers.{number + 1}', 'head.conv') | {'head.fc': 'head.fc'}


def openmmlab_shufflenet(arch: Arch) -> dict[str, str]:
    """Names ``backbone.layers.STAGE.N``."""
    names = {
        'g_conv_1x1_compress': 'reduce',
        'depthwise_conv3x3_bn': 'depthwise',
        'g_conv_1x1_expand': 'expand',
    }
    layers = pairs('backbone.conv1', 'stem.0') | {'head.fc': 'head.fc'}
    for number, stage in enumerate(arch.stages):
        for i in range(stage.depth):
            for theirs, ours in names.items():
                layers |= pairs(f'backbone.layers.{number}.{i}.{theirs}', f'stage{stage.stride}.{i}.{ours}')
    return layers
