"""CondenseNetV2-C in RetinaNet on COCO, trainval35k -> minival2014, shorter side 800.

Command: python tools/train.py det_configs/condensenetv2_c_retinanet_coco.py
Initial weights: weights/condensenetv2_c.safetensors (tools/README.md), or --init FILE|none
Paper: mAP 31.7 % (Yang et al. 2021, arXiv:2104.04382, Table 7), one run, ImageNet weights.
Setting: as the paper states (section 4.4), otherwise as in MMDetection (det_configs/settings.md).
Expect: not run here yet; the published value is the target.
"""

_base_ = [
    '_base_/detectors/retinanet_fpn_coco.py',
    '_base_/datasets/coco.py',
    '_base_/schedules/1x_retinanet_fpn.py',
    '_base_/runtime.py',
]

from backbones.wiring import retinanet_fpn

model = retinanet_fpn('condensenetv2_c', num_classes=80, frozen_stride=4)
