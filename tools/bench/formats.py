"""The formats of published weights files: a row each.

A row says how a file is recognised, whose networks it holds, the name of each of its layers in this
suite, and what its weights were trained with.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from backbones import Arch, Conventions, Preprocessing
from backbones.shufflenetv2 import RAW_BGR

IMAGENET = 'ImageNet (ILSVRC 2012)'
TENSORFLOW_EPS = 1e-3  # of its batch normalisation

# Layers of an ME module: the authors' names and ours.
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


def menet_layers(arch: Arch) -> dict[str, str]:
    """Every layer of a MENet: ``{the authors' name: ours}``."""
    layers = {'features.init.conv': 'stem.0.conv', 'features.init.bn': 'stem.0.bn'}
    for number, stage in enumerate(arch.stages, 1):
        for i in range(stage.depth):
            for theirs, ours in ME_MODULE.items():
                layers[f'features.stage_{number}_{i + 1}.{theirs}'] = f'stage{stage.stride}.{i}.{ours}'
    return layers | {'classifier': 'head.fc'}


def keras_mobilenet_layers(arch: Arch) -> dict[str, str]:
    """Every layer of a MobileNet: ``{Keras' name: ours}``; Keras counts the blocks from 1 to 13."""
    units = [f'stage{stage.stride}.{i}' for stage in arch.stages for i in range(stage.depth)]
    blocks = {'features.conv1': 'stem'}
    for number, unit in enumerate(units, 1):
        blocks[f'features.conv_dw_{number}'] = f'{unit}.depthwise'
        blocks[f'features.conv_pw_{number}'] = f'{unit}.pointwise'
    layers = {
        f'{theirs}.{leaf}': f'{ours}.{leaf}' for theirs, ours in blocks.items() for leaf in ('conv', 'bn')
    }
    return layers | {'fc': 'head.fc'}


def tflite_mobilenetv2_layers(arch: Arch) -> dict[str, str]:
    """Every layer of a MobileNetV2: ``{TensorFlow's name: ours}``; blocks count from 0, unnumbered."""
    units = [f'stage{stage.stride}.{i}' for stage in arch.stages for i in range(stage.depth)]
    blocks = {'Conv': 'stem', 'Conv_1': 'head.conv'}
    for number, unit in enumerate(units):
        for part in ('expand', 'depthwise', 'project')[number == 0 :]:
            blocks[f'expanded_conv_{number}.{part}'.replace('_0.', '.')] = f'{unit}.{part}'
    layers = {
        f'MobilenetV2.{theirs}.{leaf}': f'{ours}.{leaf}'
        for theirs, ours in blocks.items()
        for leaf in ('conv', 'bn')
    }
    return layers | {'MobilenetV2.Logits.Conv2d_1c_1x1': 'head.fc'}


def unfold_bn(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """A TFLite file's entries, whose convolutions hold their BN, as a network that has BN.

    The BN passes on what it gets and adds the bias: its scale undoes its epsilon. An operation's name
    there is two names, ``FUSED;LAYER``. The logits are a 1x1 convolution with a class 0, the background.
    """
    entries = {}
    for key, value in theirs.items():
        layer, _, leaf = key.rpartition(';')[2].rpartition('.')
        if '.Logits.' in layer:
            entries[f'{layer}.{leaf}'] = value.flatten(1)[1:] if leaf == 'weight' else value[1:]
        elif leaf == 'weight':
            entries[f'{layer}.conv.weight'] = value
        else:
            entries[f'{layer}.bn.weight'] = torch.full_like(value, (1 + TENSORFLOW_EPS) ** 0.5)
            entries[f'{layer}.bn.bias'] = value
            entries[f'{layer}.bn.running_mean'] = torch.zeros_like(value)
            entries[f'{layer}.bn.running_var'] = torch.ones_like(value)
    return entries


# Layers of a unit of ShuffleNetV2's: the authors' names and ours.
SHUFFLEV2_UNIT = {
    'branch_main.0': 'main.reduce.conv',
    'branch_main.1': 'main.reduce.bn',
    'branch_main.3': 'main.depthwise.conv',
    'branch_main.4': 'main.depthwise.bn',
    'branch_main.5': 'main.expand.conv',
    'branch_main.6': 'main.expand.bn',
    'branch_proj.0': 'proj.depthwise.conv',
    'branch_proj.1': 'proj.depthwise.bn',
    'branch_proj.2': 'proj.pointwise.conv',
    'branch_proj.3': 'proj.pointwise.bn',
}


def _shufflenetv2_layers(arch: Arch, blocks: list[str]) -> dict[str, str]:
    """Stem and units, whose names there are given in order."""
    layers = {'first_conv.0': 'stem.0.conv', 'first_conv.1': 'stem.0.bn'}
    units = [(stage.stride, i) for stage in arch.stages for i in range(stage.depth)]
    for block, (stride, i) in zip(blocks, units, strict=True):
        for theirs, ours in SHUFFLEV2_UNIT.items():
            if i == 0 or theirs.startswith('branch_main'):
                layers[f'{block}.{theirs}'] = f'stage{stride}.{i}.{ours}'
    return layers


def megvii_shufflenetv2_layers(arch: Arch) -> dict[str, str]:
    """Every layer of a ShuffleNetV2: ``{the authors' name: ours}``; they count units from 0 to 15."""
    depth = sum(stage.depth for stage in arch.stages)
    head = {'conv_last.0': 'head.conv.conv', 'conv_last.1': 'head.conv.bn', 'classifier.0': 'head.fc'}
    return _shufflenetv2_layers(arch, [f'features.{i}' for i in range(depth)]) | head


def shufflenetv2_trunk_layers(arch: Arch) -> dict[str, str]:
    """The same of a file that has a trunk alone, its units under stage2 to stage4."""
    blocks = [f'stage{n}.{i}' for n, stage in enumerate(arch.stages, 2) for i in range(stage.depth)]
    return _shufflenetv2_layers(arch, blocks)


@dataclass(frozen=True, kw_only=True)
class Format:
    """A published file format.

    Attributes:
        family: The registered class that builds its networks.
        marker: Regular expression for the beginning of entries that only this format has.
        layers: Every layer of a network: ``{their name: ours}``.
        source: Where such weights come from, in a line.
        recipe: How they were trained, where it is known.
        preprocessing: What they were trained with.
        conventions: The same.
        prepare: Makes such a file's entries those of a network with batch normalisation and 1000 classes,
            where they are not.
        trunk_only: The files have no classifier.
        data: What the weights were trained on.
    """

    family: str
    marker: str
    layers: Callable[[Arch], dict[str, str]]
    source: str
    recipe: str | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    conventions: Conventions = field(default_factory=Conventions)
    prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    trunk_only: bool = False
    data: str = IMAGENET


FORMATS = {
    "the MENet authors' PyTorch files": Format(
        family='MENet',
        marker=r'features\.stage_\d_\d\.s_merge\.',
        layers=menet_layers,
        source="the MENet authors' format (clavichord93/MENet, arXiv:1803.09127)",
        recipe='as published: SGD, 120 epochs, batch 256, rate 0.1, divided by 10 each 30, decay 4e-5',
    ),
    # Keras left out TensorFlow's class 0, the background; a classifier of 1001 classes is refused.
    "Keras' MobileNet as a PyTorch file": Format(
        family='MobileNet',
        marker=r'features\.conv_dw_\d+\.conv\.',
        layers=keras_mobilenet_layers,
        source="Keras' MobileNet v1 (TensorFlow), converted to PyTorch (arXiv:1704.04861)",
        preprocessing=Preprocessing('rgb', (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        conventions=Conventions(padding='same', activation='relu6', bn_eps=TENSORFLOW_EPS),
    ),
    "TensorFlow Lite's MobileNetV2 as a PyTorch file": Format(
        family='MobileNetV2',
        marker=r'MobilenetV2\.Conv\.Conv2D_Fold;',
        layers=tflite_mobilenetv2_layers,
        source='MobileNetV2 of TensorFlow Lite, dequantised, BN folded (arXiv:1801.04381)',
        preprocessing=Preprocessing('rgb', (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
        conventions=Conventions(padding='same', bn_eps=TENSORFLOW_EPS),
        prepare=unfold_bn,
    ),
    "the ShuffleNetV2 authors' PyTorch files": Format(
        family='ShuffleNetV2',
        marker=r'features\.\d+\.branch_main\.0\.weight',
        layers=megvii_shufflenetv2_layers,
        source="the ShuffleNetV2 authors' format (megvii-model/ShuffleNet-Series, arXiv:1807.11164)",
        preprocessing=RAW_BGR,
    ),
    'trunks of ShuffleNetV2 with numbered stages': Format(
        family='ShuffleNetV2',
        marker=r'stage2\.0\.branch_main\.0\.weight',
        layers=shufflenetv2_trunk_layers,
        source='a ShuffleNetV2 trunk without classifier',
        preprocessing=Preprocessing('bgr', (0, 0, 0), (255, 255, 255)),
        trunk_only=True,
        data='not stated',  # such files do not say, and without a classifier nobody can measure
    ),
}
