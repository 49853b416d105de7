"""Names of layers in the weights files of libraries.

Each function returns ``{published layer name: the suite's}`` for a network. One function per library serves
several families: it uses the layers of the suite's own network (``unit_parts``).
"""

from backbones import Arch
from compactdet.weights.layer_names import (
    NUMBERS,
    conv_bn_names,
    grouped_units,
    own_layers,
    unit_parts,
)


def torchvision_mobilenetv2(arch: Arch) -> dict[str, str]:
    """Return the names ``features.N.conv.M``; the last of the three parts of a unit is not a submodule."""
    layers = conv_bn_names('features.0', 'stem', NUMBERS) | {'classifier.1': 'head.fc'}
    for number, (unit, parts) in enumerate(unit_parts(arch).items(), 1):
        last = len(parts) - 1
        for i, part in enumerate(parts[:-1]):
            layers |= conv_bn_names(f'features.{number}.conv.{i}', f'{unit}.{part}', NUMBERS)
        layers |= conv_bn_names(
            f'features.{number}.conv', f'{unit}.{parts[-1]}', (str(last), str(last + 1))
        )
    return layers | conv_bn_names(f'features.{number + 1}', 'head.conv', NUMBERS)


def _torchvision_block(block: str, unit: str, parts: list[str]) -> dict[str, str]:
    layers: dict[str, str] = {}
    for i, part in enumerate(parts):
        if part == 'se':
            layers |= {
                f'{block}.{i}.fc1': f'{unit}.se.reduce',
                f'{block}.{i}.fc2': f'{unit}.se.expand',
            }
        else:
            layers |= conv_bn_names(f'{block}.{i}', f'{unit}.{part}', NUMBERS)
    return layers


def torchvision_mobilenetv3(arch: Arch) -> dict[str, str]:
    """Return the names ``features.N.block.M``."""
    layers = conv_bn_names('features.0', 'stem', NUMBERS)
    for number, (unit, parts) in enumerate(unit_parts(arch).items(), 1):
        layers |= _torchvision_block(f'features.{number}.block', unit, parts)
    layers |= conv_bn_names(f'features.{number + 1}', 'head.conv', NUMBERS)
    return layers | {'classifier.0': 'head.hidden', 'classifier.3': 'head.fc'}


def torchvision_efficientnet(arch: Arch) -> dict[str, str]:
    """Return the names ``features.GROUP.N.block.M``."""
    layers, parts = conv_bn_names('features.0', 'stem', NUMBERS), unit_parts(arch)
    for unit, group, i in grouped_units(arch):
        layers |= _torchvision_block(f'features.{group + 1}.{i}.block', unit, parts[unit])
    layers |= conv_bn_names(f'features.{group + 2}', 'head.conv', NUMBERS)
    return layers | {'classifier.1': 'head.fc'}


def timm_efficientnet(arch: Arch) -> dict[str, str]:
    """Return the names ``blocks.GROUP.N`` of MobileNet V1, V2, V3 and EfficientNet."""
    layers = {'conv_stem': 'stem.conv', 'bn1': 'stem.bn', 'classifier': 'head.fc'}
    own, unit_of_parts = own_layers(arch), unit_parts(arch)
    for unit, group, i in grouped_units(arch):
        block, parts = f'blocks.{group}.{i}', [p for p in unit_of_parts[unit] if p != 'se']
        names = ('conv_pw', 'conv_dw', 'conv_pwl') if len(parts) == 3 else ('conv_dw', 'conv_pw')
        for number, (name, part) in enumerate(zip(names, parts, strict=True), 1):
            layers |= conv_bn_names(block, f'{unit}.{part}', (name, f'bn{number}'))
        for leaf in ('reduce', 'expand'):
            layers[f'{block}.se.conv_{leaf}'] = f'{unit}.se.{leaf}'
    if 'head.hidden' in own:
        layers |= conv_bn_names(f'blocks.{group + 1}.0', 'head.conv', ('conv', 'bn1'))
        layers['conv_head'] = 'head.hidden'
    elif 'head.conv.conv' in own:
        layers |= conv_bn_names('', 'head.conv', ('conv_head', 'bn2'))
    return layers


def _openmmlab_unit(block: str, unit: str, parts: list[str]) -> dict[str, str]:
    names = {'expand': 'expand_conv', 'depthwise': 'depthwise_conv', 'project': 'linear_conv'}
    layers: dict[str, str] = {}
    for part in parts:
        if part == 'se':
            layers |= {f'{block}.se.conv1.conv': f'{unit}.se.reduce'}
            layers |= {f'{block}.se.conv2.conv': f'{unit}.se.expand'}
        else:
            layers |= conv_bn_names(f'{block}.{names[part]}', f'{unit}.{part}')
    return layers


def openmmlab_mobilenetv2(arch: Arch) -> dict[str, str]:
    """Return the names ``backbone.layerGROUP.N.conv.M``."""
    layers = conv_bn_names('backbone.conv1', 'stem') | conv_bn_names('backbone.conv2', 'head.conv')
    parts = unit_parts(arch)
    for unit, group, i in grouped_units(arch):
        for number, part in enumerate(parts[unit]):
            layers |= conv_bn_names(f'backbone.layer{group + 1}.{i}.conv.{number}', f'{unit}.{part}')
    return layers | {'head.fc': 'head.fc'}


def openmmlab_mobilenetv3(arch: Arch) -> dict[str, str]:
    """Return the names ``backbone.layerN``."""
    layers = conv_bn_names('backbone.layer0', 'stem')
    for number, (unit, parts) in enumerate(unit_parts(arch).items(), 1):
        layers |= _openmmlab_unit(f'backbone.layer{number}', unit, parts)
    layers |= conv_bn_names(f'backbone.layer{number + 1}', 'head.conv')
    return layers | {'head.layers.0.fc': 'head.hidden', 'head.layers.1.fc': 'head.fc'}


def openmmlab_efficientnet(arch: Arch) -> dict[str, str]:
    """Return the names ``backbone.layers.STAGE.N``."""
    layers, parts = conv_bn_names('backbone.layers.0', 'stem'), unit_parts(arch)
    for number, stage in enumerate(arch.stages, 1):
        for i in range(stage.depth):
            unit = f'stage{stage.stride}.{i}'
            layers |= _openmmlab_unit(f'backbone.layers.{number}.{i}', unit, parts[unit])
    return layers | conv_bn_names(f'backbone.layers.{number + 1}', 'head.conv') | {'head.fc': 'head.fc'}


def openmmlab_shufflenet(arch: Arch) -> dict[str, str]:
    """Return the names ``backbone.layers.STAGE.N``."""
    names = {
        'g_conv_1x1_compress': 'reduce',
        'depthwise_conv3x3_bn': 'depthwise',
        'g_conv_1x1_expand': 'expand',
    }
    layers = conv_bn_names('backbone.conv1', 'stem.0') | {'head.fc': 'head.fc'}
    for number, stage in enumerate(arch.stages):
        for i in range(stage.depth):
            for published, ours in names.items():
                layers |= conv_bn_names(
                    f'backbone.layers.{number}.{i}.{published}', f'stage{stage.stride}.{i}.{ours}'
                )
    return layers
