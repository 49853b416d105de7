"""SFR-ShuffleNetV2 1.5x in Faster R-CNN FPN on COCO, trainval35k -> minival2014, shorter side 800.

Command: python tools/train.py det_configs/sfr_shufflenetv2_306m_frcnn_fpn_coco.py
Initial weights: weights/sfr_shufflenetv2_1.5x.safetensors (tools/README.md), or --init FILE|none
Paper: mAP 30.7 % (Yang et al. 2021, arXiv:2104.04382, Table 7), one run, ImageNet weights.
The table's layout puts "RetinaNet" on this row; it stands above the row of CondenseNetV2-C with 31.4 %,
    which the authors' README has under Faster R-CNN.
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

model = frcnn_fpn('sfr_shufflenetv2_1.5x', num_classes=80, frozen_stride=4)
