"""1x MobileNet-224 in Faster R-CNN C4 on COCO, trainval35k -> minival2014, shorter side 300.

Command: python tools/train.py det_configs/mobilenet_1x_frcnn_coco_300.py
Initial weights: weights/mobilenet_1x.safetensors (tools/README.md), or --init FILE|none
Paper: mAP 14.9 %, retrained by ShuffleNet's authors (Zhang et al. 2017, arXiv:1707.01083, Table 7,
    300x), one run, ImageNet weights; the table also quotes 16.4 %, the value of MobileNet's authors.
Setting: the defaults of py-faster-rcnn, as the paper says; the split of the network is not stated
    (det_configs/settings.md).
Expect: not run here yet; the published value is the target.
"""

_base_ = [
    '_base_/detectors/frcnn_c4_coco.py',
    '_base_/datasets/coco_300.py',
    '_base_/schedules/coco_c4.py',
    '_base_/runtime.py',
]

from backbones.wiring import frcnn_c4

model = frcnn_c4('mobilenet_1x', num_classes=80, frozen_stride=4)
