"""The network families, one file each. Importing this package registers them."""

from backbones.networks.condensenet import CondenseNet
from backbones.networks.condensenetv2 import CondenseNetV2
from backbones.networks.efficientnet import EfficientNet
from backbones.networks.espnetv2 import ESPNetV2
from backbones.networks.ghostnet import GhostNet
from backbones.networks.gmnet import GMNet
from backbones.networks.igcv3 import IGCV3
from backbones.networks.menet import MENet
from backbones.networks.mobilenet import MobileNet
from backbones.networks.mobilenetv2 import MobileNetV2
from backbones.networks.mobilenetv3 import MobileNetV3
from backbones.networks.mobilenext import MobileNeXt
from backbones.networks.shufflenet import ShuffleNet
from backbones.networks.shufflenetv2 import ShuffleNetV2
from backbones.networks.shufflenetv2plus import ShuffleNetV2Plus
from backbones.networks.skeleton import SkeletonNet

__all__ = [
    'IGCV3',
    'CondenseNet',
    'CondenseNetV2',
    'ESPNetV2',
    'EfficientNet',
    'GMNet',
    'GhostNet',
    'MENet',
    'MobileNeXt',
    'MobileNet',
    'MobileNetV2',
    'MobileNetV3',
    'ShuffleNet',
    'ShuffleNetV2',
    'ShuffleNetV2Plus',
    'SkeletonNet',
]
