"""Names of layers in the weights files of the networks' authors.

Each function returns ``{published layer name: the suite's}`` for a network.
"""

from backbones import Arch
from compactdet.weights.layer_names import NUMBERS, conv_bn_names, own_layers, unit_names

# Layers of MENet's ME module: the authors' names and the suite's.
ME_MODULE = {
    'compress': 'reduce.conv',
    'bn_compress': 'reduce.bn',
    'depthwise': 'depthwise.conv',
    'bn_depthwise': 'depthwise.bn',
    'expand': 'expand.conv',
    'bn_expand': 'expand.bn',
    's_merge': 'merge.conv',
    's_bn_merge': 'merge.bn',
    's_conv': 'evolve.conv',
    's_bn_conv': 'evolve.bn',
    's_evolve': 'match.conv',
    's_bn_evolve': 'match.bn',
}


def menet(arch: Arch) -> dict[str, str]:
    """Return the MENet authors' names ``features.stage_S_N``, both counted from 1."""
    layers = {'features.init.conv': 'stem.0.conv', 'features.init.bn': 'stem.0.bn'}
    for number, stage in enumerate(arch.stages, 1):
        for i in range(stage.depth):
            for published, ours in ME_MODULE.items():
                layers[f'features.stage_{number}_{i + 1}.{published}'] = f'stage{stage.stride}.{i}.{ours}'
    return layers | {'classifier': 'head.fc'}


def keras_mobilenet(arch: Arch) -> dict[str, str]:
    """Return the names of Keras, with blocks 1 to 13."""
    layers = conv_bn_names('features.conv1', 'stem') | {'fc': 'head.fc'}
    for number, unit in enumerate(unit_names(arch), 1):
        layers |= conv_bn_names(f'features.conv_dw_{number}', f'{unit}.depthwise')
        layers |= conv_bn_names(f'features.conv_pw_{number}', f'{unit}.pointwise')
    return layers


def tflite_mobilenetv2(arch: Arch) -> dict[str, str]:
    """Return the names of TensorFlow Lite: blocks are counted from 0, and the 0 is omitted."""
    blocks = {'Conv': 'stem', 'Conv_1': 'head.conv'}
    for number, unit in enumerate(unit_names(arch)):
        for part in ('expand', 'depthwise', 'project')[number == 0 :]:
            blocks[f'expanded_conv_{number}.{part}'.replace('_0.', '.')] = f'{unit}.{part}'
    layers = {'MobilenetV2.Logits.Conv2d_1c_1x1': 'head.fc'}
    for published, ours in blocks.items():
        layers |= conv_bn_names(f'MobilenetV2.{published}', ours)
    return layers


# Numbers of the convolutions and their BN in the branches of the ShuffleNetV2 authors' units.
MEGVII_MAIN = {'reduce': ('0', '1'), 'depthwise': ('3', '4'), 'expand': ('5', '6')}
MEGVII_PROJ = {'depthwise': ('0', '1'), 'pointwise': ('2', '3')}
MEGVII_XCEPTION = {
    f'{i}.{part}': (str(5 * i + at), str(5 * i + at + 1))
    for i in range(3)
    for part, at in (('depthwise', 0), ('pointwise', 2))
}
MEGVII_SE = {'1': 'reduce', '2': 'bn', '4': 'expand'}


def _megvii_units(arch: Arch, blocks: list[str]) -> dict[str, str]:
    """Return the names in units; ``blocks`` are the published names of the units, in order."""
    layers: dict[str, str] = {}
    own = own_layers(arch)
    for block, unit in zip(blocks, unit_names(arch), strict=True):
        xception = f'{unit}.main.0.depthwise.conv' in own
        for part, numbers in (MEGVII_XCEPTION if xception else MEGVII_MAIN).items():
            layers |= conv_bn_names(f'{block}.branch_main', f'{unit}.main.{part}', numbers)
        for part, numbers in MEGVII_PROJ.items():
            layers |= conv_bn_names(f'{block}.branch_proj', f'{unit}.proj.{part}', numbers)
        for number, part in MEGVII_SE.items():
            layers[f'{block}.branch_main.{15 if xception else 8}.SE_opr.{number}'] = f'{unit}.se.{part}'
    return layers


def megvii_shufflenetv2(arch: Arch) -> dict[str, str]:
    """Return the ShuffleNetV2 authors' names; all units are counted from 0."""
    layers = conv_bn_names('first_conv', 'stem.0', NUMBERS) | conv_bn_names(
        'conv_last', 'head.conv', NUMBERS
    )
    blocks = [f'features.{i}' for i in range(len(unit_names(arch)))]
    return layers | _megvii_units(arch, blocks) | {'classifier.0': 'head.fc'}


def megvii_shufflenetv2_backbone(arch: Arch) -> dict[str, str]:
    """Return the names of a backbone without classifier, with the units in stage2 to stage4."""
    blocks = [f'stage{n}.{i}' for n, stage in enumerate(arch.stages, 2) for i in range(stage.depth)]
    return conv_bn_names('first_conv', 'stem.0', NUMBERS) | _megvii_units(arch, blocks)


def megvii_shufflenetv2plus(arch: Arch) -> dict[str, str]:
    """Return the ShuffleNetV2+ authors' names.

    They are those of ShuffleNetV2, with Xception branches and squeeze-and-excitation.
    """
    layers = conv_bn_names('first_conv', 'stem', NUMBERS) | conv_bn_names('conv_last', 'head.conv', NUMBERS)
    layers |= {f'LastSE.SE_opr.{number}': f'head.se.{part}' for number, part in MEGVII_SE.items()}
    layers |= {'fc.0': 'head.hidden', 'classifier.0': 'head.fc'}
    return layers | _megvii_units(arch, [f'features.{i}' for i in range(len(unit_names(arch)))])


def megvii_shufflenet(arch: Arch) -> dict[str, str]:
    """Return the ShuffleNet authors' names: a branch has two parts, with the shuffle between them."""
    layers = conv_bn_names('first_conv', 'stem.0', NUMBERS) | {'classifier.0': 'head.fc'}
    for i, unit in enumerate(unit_names(arch)):
        layers |= conv_bn_names(f'features.{i}.branch_main_1', f'{unit}.reduce', ('0', '1'))
        layers |= conv_bn_names(f'features.{i}.branch_main_1', f'{unit}.depthwise', ('3', '4'))
        layers |= conv_bn_names(f'features.{i}.branch_main_2', f'{unit}.expand', ('0', '1'))
    return layers


def ghostnet(arch: Arch) -> dict[str, str]:
    """Return the GhostNet authors' and timm's names ``blocks.GROUP.N``.

    The first unit of a stage is a separate group.
    """
    layers = conv_bn_names('', 'stem', ('conv_stem', 'bn1')) | {
        'conv_head': 'head.hidden',
        'classifier': 'head.fc',
    }
    group = -1
    for stage in arch.stages:
        for i in range(stage.depth):
            group += i < 2
            unit, block = f'stage{stage.stride}.{i}', f'blocks.{group}.{max(i - 1, 0)}'
            for published, ours in {'ghost1': 'expand', 'ghost2': 'project'}.items():
                layers |= conv_bn_names(
                    f'{block}.{published}.primary_conv', f'{unit}.{ours}.primary', NUMBERS
                )
                layers |= conv_bn_names(
                    f'{block}.{published}.cheap_operation', f'{unit}.{ours}.cheap', NUMBERS
                )
            layers |= conv_bn_names(block, f'{unit}.depthwise', ('conv_dw', 'bn_dw'))
            for leaf in ('reduce', 'expand'):
                layers[f'{block}.se.conv_{leaf}'] = f'{unit}.se.{leaf}'
            layers |= conv_bn_names(f'{block}.shortcut', f'{unit}.shortcut.0', NUMBERS)
            layers |= conv_bn_names(f'{block}.shortcut', f'{unit}.shortcut.1', ('2', '3'))
    return layers | conv_bn_names(f'blocks.{group + 1}.0', 'head.conv', ('conv', 'bn1'))


def condensenet(arch: Arch) -> dict[str, str]:
    """Return the authors' names ``features.denseblock_B.denselayer_N``, both counted from 1.

    They are the same in CondenseNet and CondenseNetV2, in the training form and in the test-time form.
    """
    last = f'stage{arch.stages[-1].stride}'
    layers = {'features.init_conv': 'stem', 'features.norm_last': f'{last}.norm.bn'}
    for number, stage in enumerate(arch.stages, 1):
        for i in range(stage.depth):
            layer, unit = f'features.denseblock_{number}.denselayer_{i + 1}', f'stage{stage.stride}.{i}'
            for published, ours in {'conv_1': 'lgc', 'conv_2': 'conv', 'sfr': 'sfr'}.items():
                layers |= {f'{layer}.{published}': f'{unit}.{ours}'}  # for its index
                layers |= conv_bn_names(f'{layer}.{published}', f'{unit}.{ours}', ('conv', 'norm'))
            layers |= {f'{layer}.se.fc.0': f'{unit}.se.reduce', f'{layer}.se.fc.2': f'{unit}.se.expand'}
    layers |= {'features.se_last.fc.0': 'head.se.reduce', 'features.se_last.fc.2': 'head.se.expand'}
    layers |= {'fc': 'head.hidden', 'classifier': 'head.fc', 'classifier.linear': 'head.fc'}
    return layers
