"""Compact CNNs as MMDetection backbones. Importing it registers every network.

>>> from backbones import build_backbone
>>> maps = build_backbone('menet_228_12x1_g3', out_strides=(8, 16, 32))(images)
"""

from backbones import mmcv_ops

mmcv_ops.install()  # before anything imports mmdet.models, which needs mmcv's compiled ops

import backbones.weights  # noqa: E402, F401  registers the initialiser and the check that configs name
from backbones.adapter import AdaptedNetwork  # noqa: E402
from backbones.base import CompactBackbone, StageHead, build_backbone, build_classifier  # noqa: E402
from backbones.condensenet import CondenseNet  # noqa: E402
from backbones.condensenetv2 import CondenseNetV2  # noqa: E402
from backbones.efficientnet import EfficientNet  # noqa: E402
from backbones.espnetv2 import ESPNetV2  # noqa: E402
from backbones.ghostnet import GhostNet  # noqa: E402
from backbones.gmnet import GMNet  # noqa: E402
from backbones.igcv3 import IGCV3  # noqa: E402
from backbones.menet import MENet  # noqa: E402
from backbones.mobilenet import MobileNet  # noqa: E402
from backbones.mobilenetv2 import MobileNetV2  # noqa: E402
from backbones.mobilenetv3 import MobileNetV3  # noqa: E402
from backbones.mobilenext import MobileNeXt  # noqa: E402
from backbones.shufflenet import ShuffleNet  # noqa: E402
from backbones.shufflenetv2 import ShuffleNetV2  # noqa: E402
from backbones.shufflenetv2plus import ShuffleNetV2Plus  # noqa: E402
from backbones.skeleton import SkeletonNet  # noqa: E402
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
