"""Formats of published weights files.

A format states how its files are recognized, the families of its networks, the suite's name of each layer,
and how the weights were trained.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from backbones import Arch, Conventions, Preprocessing
from backbones.networks.shufflenetv2 import RAW_BGR
from backbones.weights.file import IMAGENET
from compactdet.weights import author_layer_names, library_layer_names
from compactdet.weights.layer_names import LayerNames
from compactdet.weights.rearrange import (
    TENSORFLOW_EPS,
    add_zero_bias,
    channel_indices,
    group_masks,
    reverse_channels,
    unfold_batch_norm,
)

NOT_STATED = 'not stated'
MINUS_ONE_TO_ONE = Preprocessing('rgb', (127.5, 127.5, 127.5), (127.5, 127.5, 127.5))  # x / 127.5 - 1
TENSORFLOW = Conventions(padding='same', bn_eps=TENSORFLOW_EPS)
TENSORFLOW_EPS_ONLY = Conventions(bn_eps=TENSORFLOW_EPS)

Rearrange = Callable[[dict[str, Tensor], Arch], dict[str, Tensor]]


@dataclass(frozen=True)
class Format:
    """A published file format.

    Attributes:
        name: Name in messages.
        families: Families of its networks.
        marker: Regular expression that matches the start of an entry's name in every such file. Among the
            formats of a family, only this format has a matching entry.
        layer_names: Function from a network to ``{published layer name: the suite's}``. None if the entries
            are in the order of the suite's network, whatever their names are.
        source: Source of such weights for the metadata of a weights file, in one line.
        recipe: Recipe of the training, if known.
        preprocessing: Preprocessing of the training.
        conventions: Conventions of the training.
        other_conventions: Conventions of single networks, by arch.
        before_renaming: Function that changes the entries under their published names, if needed.
        after_renaming: Function that changes the entries under the suite's names, if needed.
        backbone_only: Whether the files have no classifier.
        num_classes: Number of classes of such a file, if it is fixed.
        data: Data set of the training.
    """

    name: str
    families: tuple[str, ...]
    marker: str
    layer_names: LayerNames | None
    source: str
    recipe: str | None = None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    conventions: Conventions = field(default_factory=Conventions)
    other_conventions: dict[str, Conventions] = field(default_factory=dict)
    before_renaming: Rearrange | None = None
    after_renaming: Rearrange | None = None
    backbone_only: bool = False
    num_classes: int | None = None
    data: str = IMAGENET

    def conventions_of(self, arch: Arch) -> Conventions:
        """Return the conventions of the network for the weights of such a file."""
        return self.other_conventions.get(arch.name, self.conventions)


FORMATS = (
    # Authors
    Format(
        "the MENet authors' PyTorch files",
        ('MENet',),
        r'features\.stage_\d_\d\.s_merge\.',
        author_layer_names.menet,
        "the MENet authors' format (clavichord93/MENet, arXiv:1803.09127)",
        recipe='as published: SGD, 120 epochs, batch 256, rate 0.1, divided by 10 each 30, decay 4e-5',
    ),
    # Keras omits TensorFlow's class 0, the background; a classifier of 1001 classes is an error.
    Format(
        "Keras' MobileNet as a PyTorch file",
        ('MobileNet',),
        r'features\.conv_dw_\d+\.conv\.',
        author_layer_names.keras_mobilenet,
        "Keras' MobileNet v1 (TensorFlow), converted to PyTorch (arXiv:1704.04861)",
        preprocessing=MINUS_ONE_TO_ONE,
        conventions=Conventions(padding='same', activation='relu6', bn_eps=TENSORFLOW_EPS),
        num_classes=1000,
    ),
    Format(
        "TensorFlow Lite's MobileNetV2 as a PyTorch file",
        ('MobileNetV2',),
        r'MobilenetV2\.Conv\.Conv2D_Fold;',
        author_layer_names.tflite_mobilenetv2,
        'MobileNetV2 of TensorFlow Lite, dequantised, BN folded (arXiv:1801.04381)',
        preprocessing=MINUS_ONE_TO_ONE,
        conventions=TENSORFLOW,
        before_renaming=unfold_batch_norm,
        num_classes=1000,
    ),
    Format(
        "the ShuffleNet authors' PyTorch files",
        ('ShuffleNet',),
        r'features\.\d+\.branch_main_1\.0\.weight',
        author_layer_names.megvii_shufflenet,
        "the ShuffleNet authors' later code (megvii-model/ShuffleNet-Series, arXiv:1707.01083)",
        preprocessing=RAW_BGR,
        after_renaming=functools.partial(reverse_channels, inverse_shuffle=True),
    ),
    Format(
        "the ShuffleNetV2 authors' PyTorch files",
        ('ShuffleNetV2',),
        r'features\.\d+\.branch_main\.0\.weight',
        author_layer_names.megvii_shufflenetv2,
        "the ShuffleNetV2 authors' format (megvii-model/ShuffleNet-Series, arXiv:1807.11164)",
        preprocessing=RAW_BGR,
    ),
    Format(
        'ShuffleNetV2 backbones with numbered stages',
        ('ShuffleNetV2',),
        r'stage2\.0\.branch_main\.0\.weight',
        author_layer_names.megvii_shufflenetv2_backbone,
        'a ShuffleNetV2 backbone without classifier',
        preprocessing=Preprocessing('bgr', (0, 0, 0), (255, 255, 255)),
        backbone_only=True,
        data=NOT_STATED,  # and it cannot be measured without a classifier
    ),
    Format(
        "the ShuffleNetV2+ authors' PyTorch files",
        ('ShuffleNetV2Plus',),
        r'LastSE\.SE_opr\.',
        author_layer_names.megvii_shufflenetv2plus,
        "the ShuffleNetV2+ authors' format (megvii-model/ShuffleNet-Series)",
        preprocessing=RAW_BGR,
    ),
    Format(
        "the CondenseNet authors' files (both papers), training form",
        ('CondenseNet', 'CondenseNetV2'),
        r'features\.denseblock_1\.denselayer_1\.conv_1\._mask',
        author_layer_names.condensenet,
        "the authors' format (ShichenLiu/CondenseNet, jianghaojun/CondenseNetV2), training form",
        before_renaming=group_masks,
    ),
    Format(
        "the CondenseNet authors' files (both papers), test-time form",
        ('CondenseNet', 'CondenseNetV2'),
        r'features\.denseblock_1\.denselayer_1\.conv_1\.index',
        lambda arch: author_layer_names.condensenet(arch) | {'choice': 'head'},
        "the authors' format (ShichenLiu/CondenseNet, jianghaojun/CondenseNetV2), test-time form",
        conventions=Conventions(sparsity='converted'),
        before_renaming=channel_indices,
    ),
    Format(
        "the GhostNet authors' and timm's files",
        ('GhostNet',),
        r'blocks\.0\.0\.ghost1\.primary_conv\.0\.weight',
        author_layer_names.ghostnet,
        "the GhostNet authors' format (huawei-noah/Efficient-AI-Backbones, arXiv:1911.11907)",
    ),
    # Libraries
    Format(
        "torchvision's MobileNetV2",
        ('MobileNetV2',),
        r'features\.1\.conv\.0\.0\.weight',
        library_layer_names.torchvision_mobilenetv2,
        "torchvision's mobilenet_v2",
    ),
    Format(
        "torchvision's MobileNetV3",
        ('MobileNetV3',),
        r'features\.1\.block\.0\.0\.weight',
        library_layer_names.torchvision_mobilenetv3,
        "torchvision's mobilenet_v3",
        conventions=TENSORFLOW_EPS_ONLY,
    ),
    Format(
        "torchvision's EfficientNet",
        ('EfficientNet',),
        r'features\.1\.0\.block\.0\.0\.weight',
        library_layer_names.torchvision_efficientnet,
        "torchvision's efficientnet",
        other_conventions={f'efficientnet_b{i}': TENSORFLOW_EPS_ONLY for i in (5, 6, 7)},
    ),
    Format(
        "timm's MobileNet",
        ('MobileNet',),
        r'blocks\.0\.0\.conv_dw\.weight',
        library_layer_names.timm_efficientnet,
        "timm's mobilenetv1",
        preprocessing=MINUS_ONE_TO_ONE,
        conventions=Conventions(activation='relu6'),
    ),
    Format(
        "timm's MobileNetV2, MobileNetV3, EfficientNet",
        ('MobileNetV2', 'MobileNetV3', 'EfficientNet'),
        r'blocks\.0\.0\.conv_dw\.weight',
        library_layer_names.timm_efficientnet,
        "timm's format",
    ),
    Format(
        "mmpretrain's MobileNetV2",
        ('MobileNetV2',),
        r'backbone\.layer1\.0\.conv\.0\.conv\.weight',
        library_layer_names.openmmlab_mobilenetv2,
        "mmpretrain's MobileNetV2",
    ),
    Format(
        "mmpretrain's MobileNetV3",
        ('MobileNetV3',),
        r'backbone\.layer1\.depthwise_conv\.conv\.weight',
        library_layer_names.openmmlab_mobilenetv3,
        "mmpretrain's MobileNetV3",
        conventions=TENSORFLOW_EPS_ONLY,
    ),
    Format(
        "mmpretrain's EfficientNet",
        ('EfficientNet',),
        r'backbone\.layers\.1\.0\.depthwise_conv\.conv\.weight',
        library_layer_names.openmmlab_efficientnet,
        "mmpretrain's EfficientNet",
        conventions=TENSORFLOW,
    ),
    Format(
        "mmpretrain's ShuffleNet",
        ('ShuffleNet',),
        r'backbone\.layers\.0\.0\.g_conv_1x1_compress\.conv\.weight',
        library_layer_names.openmmlab_shufflenet,
        "mmpretrain's ShuffleNetV1",
        after_renaming=functools.partial(reverse_channels, inverse_shuffle=False),
    ),
    Format(
        "pytorchcv's files",
        ('MENet', 'ShuffleNet', 'MobileNet', 'MobileNetV2', 'IGCV3', 'CondenseNet'),
        r'features\.init_block\.',
        None,
        "pytorchcv's format",
        other_conventions={'condensenet_c': Conventions(sparsity='converted')},
        after_renaming=add_zero_bias,
    ),
)
