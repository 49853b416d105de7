"""Names of layers in the authors' weights files: ``{their name: ours}`` for each format."""

from backbones import Arch
from compactdet.weights.layer_names import NUMBERS, own_layers, pairs, units_of

# Layers of an ME module: the authors' names and the suite's.
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
    """Names ``features.stage_S_N``, both counted from 1."""
    layers = {'features.init.conv': 'stem.0.conv', 'features.init.bn': 'stem.0.bn'}
    for number, stage in enumerate(arch.stages, 1):
        for i in range(stage.depth):
            for theirs, ours in ME_MODULE.items():
                layers[f'features.stage_{number}_{i + 1}.{theirs}'] = f'stage{stage.stride}.{i}.{ours}'
    return layers | {'classifier': 'head.fc'}


def keras_mobilenet(arch: Arch) -> dict[str, str]:
    """Names of Keras, with blocks 1 to 13."""
    layers = pairs('features.conv1', 'stem') | {'fc': 'head.fc'}
    for number, unit in enumerate(units_of(arch), 1):
        layers |= pairs(f'features.conv_dw_{number}', f'{unit}.depthwise')
        layers |= pairs(f'features.conv_pw_{number}', f'{unit}.pointwise')
    return layers


def tflite_mobilenetv2(arch: Arch) -> dict[str, str]:
    """TensorFlow's names; blocks count from 0, and the 0 is omitted."""
    blocks = {'Conv': 'stem', 'Conv_1': 'head.conv'}
    for number, unit in enumerate(units_of(arch)):
        for part in ('expand', 'depthwise', 'project')[number == 0 :]:
            blocks[f'expanded_conv_{number}.{part}'.replace('_0.', '.')] = f'{unit}.{part}'
    layers = {'MobilenetV2.Logits.Conv2d_1c_1x1': 'head.fc'}
    for theirs, ours in blocks.items():
        layers |= pairs(f'MobilenetV2.{theirs}', ours)
    return layers


# Numbers of the convolutions and BN in a branch of ShuffleNetV2's authors.
MEGVII_MAIN = {'reduce': ('0', '1'), 'depthwise': ('3', '4'), 'expand': ('5', '6')}
MEGVII_PROJ = {'depthwise': ('0', '1'), 'pointwise': ('2', '3')}
MEGVII_XCEPTION = {
    f'{i}.{part}': (str(5 * i + at), str(5 * i + at + 1))
    for i in range(3)
    for part, at in (('depthwise', 0), ('pointwise', 2))
}
MEGVII_SE = {'1': 'reduce', '2': 'bn', '4': 'expand'}


def _megvii_units(arch: Arch, blocks: list[str]) -> dict[str, str]:
    """Names of units that are given in order."""
    layers: dict[str, str] = {}
    own = own_layers(arch)
    for block, unit in zip(blocks, units_of(arch), strict=True):
        xception = f'{unit}.main.0.depthwise.conv' in own
        for part, numbers in (MEGVII_XCEPTION if xception else MEGVII_MAIN).items():
            layers |= pairs(f'{block}.branch_main', f'{unit}.main.{part}', numbers)
        for part, numbers in MEGVII_PROJ.items():
            layers |= pairs(f'{block}.branch_proj', f'{unit}.proj.{part}', numbers)
        for number, part in MEGVII_SE.items():
            layers[f'{block}.branch_main.{15 if xception else 8}.SE_opr.{number}'] = f'{unit}.se.{part}'
    return layers


def megvii_shufflenetv2(arch: Arch) -> dict[str, str]:
    """Names with all units counted from 0."""
    layers = pairs('first_conv', 'stem.0', NUMBERS) | pairs('conv_last', 'head.conv', NUMBERS)
    blocks = [f'features.{i}' for i in range(len(units_of(arch)))]
    return layers | _megvii_units(arch, blocks) | {'classifier.0': 'head.fc'}


def shufflenetv2_trunk(arch: Arch) -> dict[str, str]:
    """Names of a backbone without classifier, with units in stage2 to stage4."""
    blocks = [f'stage{n}.{i}' for n, stage in enumerate(arch.stages, 2) for i in range(stage.depth)]
    return pairs('first_conv', 'stem.0', NUMBERS) | _megvii_units(arch, blocks)


def megvii_shufflenetv2plus(arch: Arch) -> dict[str, str]:
    """Names as of ShuffleNetV2; a branch may be an Xception branch, and there are two more attentions."""
    layers = pairs('first_conv', 'stem', NUMBERS) | pairs('conv_last', 'head.conv', NUMBERS)
    layers |= {f'LastSE.SE_opr.{number}': f'head.se.{part}' for number, part in MEGVII_SE.items()}
    layers |= {'fc.0': 'head.hidden', 'classifier.0': 'head.fc'}
    return layers | _megvii_units(arch, [f'features.{i}' for i in range(len(units_of(arch)))])


def megvii_shufflenet(arch: Arch) -> dict[str, str]:
    """Names of ShuffleNet v1: a branch in two parts with the shuffle between them."""
    layers = pairs('first_conv', 'stem.0', NUMBERS) | {'classifier.0': 'head.fc'}
    for i, unit in enumerate(units_of(arch)):
        layers |= pairs(f'features.{i}.branch_main_1', f'{unit}.reduce', ('0', '1'))
        layers |= pairs(f'features.{i}.branch_main_1', f'{unit}.depthwise', ('3', '4'))
        layers |= pairs(f'features.{i}.branch_main_2', f'{unit}.expand', ('0', '1'))
    return layers


def ghostnet(arch: Arch) -> dict[str, str]:
    """Names ``blocks.GROUP.N``; the first unit of a stage is a separate group. timm uses the same names."""
    layers = pairs('', 'stem', ('conv_stem', 'bn1')) | {
        'conv_head': 'head.hidden',
        'classifier': 'head.fc',
    }
    group = -1
    for stage in arch.stages:
        for i in range(stage.depth):
            group += i < 2
            unit, block = f'stage{stage.stride}.{i}', f'blocks.{group}.{max(i - 1, 0)}'
            for theirs, ours in {'ghost1': 'expand', 'ghost2': 'project'}.items():
                layers |= pairs(f'{block}.{theirs}.primary_conv', f'{unit}.{ours}.primary', NUMBERS)
                layers |= pairs(f'{block}.{theirs}.cheap_operation', f'{unit}.{ours}.cheap', NUMBERS)
            layers |= pairs(block, f'{unit}.depthwise', ('conv_dw', 'bn_dw'))
            for leaf in ('reduce', 'expand'):
                layers[f'{block}.se.conv_{leaf}'] = f'{unit}.se.{leaf}'
            layers |= pairs(f'{block}.shortcut', f'{unit}.shortcut.0', NUMBERS)
            layers |= pairs(f'{block}.shortcut', f'{unit}.shortcut.1', ('2', '3'))
    return layers | pairs(f'blocks.{group + 1}.0', 'head.conv', ('conv', 'bn1'))


def condensenet(arch: Arch) -> dict[str, str]:
    """Names ``features.denseblock_B.denselayer_N``, both counted from 1, of both papers and both forms."""
    last = f'stage{arch.stages[-1].stride}'
    layers = {'features.init_conv': 'stem', 'features.norm_last': f'{last}.norm.bn'}
    for number, stage in enumerate(arch.stages, 1):
        for i in range(stage.depth):
            layer, unit = f'features.denseblock_{number}.denselayer_{i + 1}', f'stage{stage.stride}.{i}'
            for theirs, ours in {'conv_1': 'lgc', 'conv_2': 'conv', 'sfr': 'sfr'}.items():
                layers |= {f'{layer}.{theirs}': f'{unit}.{ours}'}  # its index
                layers |= pairs(f'{layer}.{theirs}', f'{unit}.{ours}', ('conv', 'norm'))
            layers |= {f'{layer}.se.fc.0': f'{unit}.se.reduce', f'{layer}.se.fc.2': f'{unit}.se.expand'}
    layers |= {'features.se_last.fc.0': 'head.se.reduce', 'features.se_last.fc.2': 'head.se.expand'}
    layers |= {'fc': 'head.hidden', 'classifier': 'head.fc', 'classifier.linear': 'head.fc'}
    return layers
