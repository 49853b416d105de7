"""The formats of published weights files, one row per format.

A row states how a file is recognized, the families of its networks, the suite's name of each layer, and how
the weights were trained.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from backbones import Arch, Conventions, Preprocessing
from backbones.networks.shufflenetv2 import RAW_BGR
from backbones.weights.file import IMAGENET
from compactdet.weights import author_layer_names, layer_names
from compactdet.weights.rearrange import (
    TENSORFLOW_EPS,
    indices_by_channel,
    masks_by_group,
    reversed_channels,
    unfold_bn,
    with_bias,
)

NOT_STATED = 'not stated'
HALVES = Preprocessing('rgb', (127.5, 127.5, 127.5), (127.5, 127.5, 127.5))
TENSORFLOW = Conventions(padding='same', bn_eps=TENSORFLOW_EPS)
EPS = Conventions(bn_eps=TENSORFLOW_EPS)

Rearrange = Callable[[dict[str, Tensor], Arch], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Format:
    """A published file format.

    Attributes:
        families: Registered classes of its networks.
        marker: Regular expression for the start of entries that only this format has, among the formats
            of its families.
        layers: Function from a network to ``{their name: ours}``. None: the entries have the order of the
            suite's network, with any names.
        source: Source of such weights, in one line.
        recipe: Recipe of the training, if known.
        preprocessing: Preprocessing of the training.
        conventions: Conventions of the training.
        other_conventions: Conventions of single networks, by name.
        prepare: Function that rearranges the entries under their names, if necessary.
        finish: Function that rearranges the entries under the suite's names, if necessary.
        trunk_only: Whether the files have no classifier.
        num_classes: Number of classes of such a file, if it is fixed.
        data: Data set of the training.
    """

    families: tuple[str, ...]
    marker: str
    layers: layer_names.Layers | None
    source: str
    recipe: str | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    conventions: Conventions = field(default_factory=Conventions)
    other_conventions: dict[str, Conventions] = field(default_factory=dict)
    prepare: Rearrange | None = None
    finish: Rearrange | None = None
    trunk_only: bool = False
    num_classes: int | None = None
    data: str = IMAGENET

    def conventions_of(self, arch: Arch) -> Conventions:
        """Return the conventions of the network for the weights of such a file."""
        return self.other_conventions.get(arch.name, self.conventions)


FORMATS = {
    "the MENet authors' PyTorch files": Format(
        families=('MENet',),
        marker=r'features\.stage_\d_\d\.s_merge\.',
        layers=author_layer_names.menet,
        source="the MENet authors' format (clavichord93/MENet, arXiv:1803.09127)",
        recipe='as published: SGD, 120 epochs, batch 256, rate 0.1, divided by 10 each 30, decay 4e-5',
    ),
    # Keras omits TensorFlow's class 0, the background; a classifier of 1001 classes is an error.
    "Keras' MobileNet as a PyTorch file": Format(
        families=('MobileNet',),
        marker=r'features\.conv_dw_\d+\.conv\.',
        layers=author_layer_names.keras_mobilenet,
        source="Keras' MobileNet v1 (TensorFlow), converted to PyTorch (arXiv:1704.04861)",
        preprocessing=HALVES,
        conventions=Conventions(padding='same', activation='relu6', bn_eps=TENSORFLOW_EPS),
        num_classes=1000,
    ),
    "TensorFlow Lite's MobileNetV2 as a PyTorch file": Format(
        families=('MobileNetV2',),
        marker=r'MobilenetV2\.Conv\.Conv2D_Fold;',
        layers=author_layer_names.tflite_mobilenetv2,
        source='MobileNetV2 of TensorFlow Lite, dequantised, BN folded (arXiv:1801.04381)',
        preprocessing=HALVES,
        conventions=TENSORFLOW,
        prepare=unfold_bn,
        num_classes=1000,
    ),
    "the ShuffleNet authors' PyTorch files": Format(
        families=('ShuffleNet',),
        marker=r'features\.\d+\.branch_main_1\.0\.weight',
        layers=author_layer_names.megvii_shufflenet,
        source="the ShuffleNet authors' later code (megvii-model/ShuffleNet-Series, arXiv:1707.01083)",
        preprocessing=RAW_BGR,
        finish=functools.partial(reversed_channels, inverse_shuffle=True),
    ),
    "the ShuffleNetV2 authors' PyTorch files": Format(
        families=('ShuffleNetV2',),
        marker=r'features\.\d+\.branch_main\.0\.weight',
        layers=author_layer_names.megvii_shufflenetv2,
        source="the ShuffleNetV2 authors' format (megvii-model/ShuffleNet-Series, arXiv:1807.11164)",
        preprocessing=RAW_BGR,
    ),
    'trunks of ShuffleNetV2 with numbered stages': Format(
        families=('ShuffleNetV2',),
        marker=r'stage2\.0\.branch_main\.0\.weight',
        layers=author_layer_names.shufflenetv2_trunk,
        source='a ShuffleNetV2 trunk without classifier',
        preprocessing=Preprocessing('bgr', (0, 0, 0), (255, 255, 255)),
        trunk_only=True,
        data=NOT_STATED,  # not stated, and not measurable without a classifier
    ),
    "the ShuffleNetV2+ authors' PyTorch files": Format(
        families=('ShuffleNetV2Plus',),
        marker=r'LastSE\.SE_opr\.',
        layers=author_layer_names.megvii_shufflenetv2plus,
        source="the ShuffleNetV2+ authors' format (megvii-model/ShuffleNet-Series)",
        preprocessing=RAW_BGR,
    ),
    "the CondenseNet authors' files (both papers), training form": Format(
        families=('CondenseNet', 'CondenseNetV2'),
        marker=r'features\.denseblock_1\.denselayer_1\.conv_1\._mask',
        layers=author_layer_names.condensenet,
        source="the authors' format (ShichenLiu/CondenseNet, jianghaojun/CondenseNetV2), training form",
        prepare=masks_by_group,
    ),
    "the CondenseNet authors' files (both papers), test-time form": Format(
        families=('CondenseNet', 'CondenseNetV2'),
        marker=r'features\.denseblock_1\.denselayer_1\.conv_1\.index',
        layers=lambda arch: author_layer_names.condensenet(arch) | {'choice': 'head'},
        source="the authors' format (ShichenLiu/CondenseNet, jianghaojun/CondenseNetV2), test-time form",
        conventions=Conventions(sparsity='converted'),
        prepare=indices_by_channel,
    ),
    "the GhostNet authors' and timm's files": Format(
        families=('GhostNet',),
        marker=r'blocks\.0\.0\.ghost1\.primary_conv\.0\.weight',
        layers=author_layer_names.ghostnet,
        source="the GhostNet authors' format (huawei-noah/Efficient-AI-Backbones, arXiv:1911.11907)",
    ),
    "torchvision's MobileNetV2": Format(
        families=('MobileNetV2',),
        marker=r'features\.1\.conv\.0\.0\.weight',
        layers=layer_names.torchvision_mobilenetv2,
        source="torchvision's mobilenet_v2",
    ),
    "torchvision's MobileNetV3": Format(
        families=('MobileNetV3',),
        marker=r'features\.1\.block\.0\.0\.weight',
        layers=layer_names.torchvision_mobilenetv3,
        source="torchvision's mobilenet_v3",
        conventions=EPS,
    ),
    "torchvision's EfficientNet": Format(
        families=('EfficientNet',),
        marker=r'features\.1\.0\.block\.0\.0\.weight',
        layers=layer_names.torchvision_efficientnet,
        source="torchvision's efficientnet",
        other_conventions={f'efficientnet_b{i}': EPS for i in (5, 6, 7)},
    ),
    "timm's MobileNet": Format(
        families=('MobileNet',),
        marker=r'blocks\.0\.0\.conv_dw\.weight',
        layers=layer_names.timm_efficientnet,
        source="timm's mobilenetv1",
        preprocessing=HALVES,
        conventions=Conventions(activation='relu6'),
    ),
    "timm's MobileNetV2, MobileNetV3, EfficientNet": Format(
        families=('MobileNetV2', 'MobileNetV3', 'EfficientNet'),
        marker=r'blocks\.0\.0\.conv_dw\.weight',
        layers=layer_names.timm_efficientnet,
        source="timm's format",
    ),
    "mmpretrain's MobileNetV2": Format(
        families=('MobileNetV2',),
        marker=r'backbone\.layer1\.0\.conv\.0\.conv\.weight',
        layers=layer_names.openmmlab_mobilenetv2,
        source="mmpretrain's MobileNetV2",
    ),
    "mmpretrain's MobileNetV3": Format(
        families=('MobileNetV3',),
        marker=r'backbone\.layer1\.depthwise_conv\.conv\.weight',
        layers=layer_names.openmmlab_mobilenetv3,
        source="mmpretrain's MobileNetV3",
        conventions=EPS,
    ),
    "mmpretrain's EfficientNet": Format(
        families=('EfficientNet',),
        marker=r'backbone\.layers\.1\.0\.depthwise_conv\.conv\.weight',
        layers=layer_names.openmmlab_efficientnet,
        source="mmpretrain's EfficientNet",
        conventions=TENSORFLOW,
    ),
    "mmpretrain's ShuffleNet": Format(
        families=('ShuffleNet',),
        marker=r'backbone\.layers\.0\.0\.g_conv_1x1_compress\.conv\.weight',
        layers=layer_names.openmmlab_shufflenet,
        source="mmpretrain's ShuffleNetV1",
        finish=functools.partial(reversed_channels, inverse_shuffle=False),
    ),
    "pytorchcv's files": Format(
        families=('MENet', 'ShuffleNet', 'MobileNet', 'MobileNetV2', 'IGCV3', 'CondenseNet'),
        marker=r'features\.init_block\.',
        layers=None,
        source="pytorchcv's format",
        other_conventions={'condensenet_c': Conventions(sparsity='converted')},
        finish=with_bias,
    ),
}
