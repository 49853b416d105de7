"""ShuffleNet 2x (g = 3) in Faster R-CNN C4 on COCO, trainval35k -> minival2014, shorter side 300.

Command: python tools/train.py det_configs/shufflenet_2x_frcnn_coco_300.py
Initial weights: weights/shufflenet_2x_g3.safetensors (tools/README.md), or --init FILE|none
Paper: mAP 18.7 % (Zhang et al. 2017, arXiv:1707.01083, Table 7, 300x), one run, ImageNet weights.
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

model = frcnn_c4('shufflenet_2x_g3', num_classes=80, frozen_stride=4)
