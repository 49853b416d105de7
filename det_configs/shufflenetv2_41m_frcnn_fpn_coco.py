"""ShuffleNetV2 0.5x in Faster R-CNN FPN on COCO, trainval35k -> minival2014, shorter side 800.

Command: python tools/train.py det_configs/shufflenetv2_41m_frcnn_fpn_coco.py
Initial weights: weights/shufflenetv2_0.5x.safetensors (tools/README.md), or --init FILE|none
Paper: mAP 22.1 % (Yang et al. 2021, arXiv:2104.04382, Table 7), one run, ImageNet weights.
Setting: as the paper states (section 4.4), otherwise as in MMDetection (det_configs/settings.md).
Expect: not run here yet; the published value is the target.
"""

_base_ = [
    '_base_/detectors/frcnn_fpn.py',
    '_base_/datasets/coco.py',
    '_base_/schedules/1x.py',
    '_base_/runtime.py',
]

from backbones.wiring import frcnn_fpn

model = frcnn_fpn('shufflenetv2_0.5x', num_classes=80, frozen_stride=4)
