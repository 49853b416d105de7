"""Compact CNNs as MMDetection backbones. Importing this package registers every network.

>>> from backbones import build_backbone
>>> maps = build_backbone('menet_228_12x1_g3', out_strides=(8, 16, 32))(images)
"""

from backbones import mmcv_ops

mmcv_ops.install()  # before anything imports mmdet.models, which needs mmcv's compiled ops

import backbones.weights  # noqa: E402, F401  registers the initializer and the check that configs name
from backbones.base import CompactBackbone, StageHead, build_classifier  # noqa: E402
from backbones.libraries.adapter import AdaptedNetwork  # noqa: E402
from backbones.libraries.pretrained import build_backbone  # noqa: E402
from backbones.networks import (  # noqa: E402
    IGCV3,
    CondenseNet,
    CondenseNetV2,
    EfficientNet,
    ESPNetV2,
    GhostNet,
    GMNet,
    MENet,
    MobileNet,
    MobileNetV2,
    MobileNetV3,
    MobileNeXt,
    ShuffleNet,
    ShuffleNetV2,
    ShuffleNetV2Plus,
    SkeletonNet,
)
from backbones.spec import Arch, Conventions, Preprocessing, Stage, get_arch, list_archs  # noqa: E402

__all__ = [
    'IGCV3',
    'AdaptedNetwork',
    'Arch',
    'CompactBackbone',
    'CondenseNet',
    'CondenseNetV2',
    'Conventions',
    'ESPNetV2',
    'EfficientNet',
    'GMNet',
    'GhostNet',
    'MENet',
    'MobileNeXt',
    'MobileNet',
    'MobileNetV2',
    'MobileNetV3',
    'Preprocessing',
    'ShuffleNet',
    'ShuffleNetV2',
    'ShuffleNetV2Plus',
    'SkeletonNet',
    'Stage',
    'StageHead',
    'build_backbone',
    'build_classifier',
    'get_arch',
    'list_archs',
]
