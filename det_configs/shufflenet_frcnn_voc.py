"""ShuffleNet 1x (g = 3) in Faster R-CNN C4 on PASCAL VOC 2007, trainval -> test.

Command: python tools/train.py det_configs/shufflenet_frcnn_voc.py
Initial weights: weights/shufflenet_1x_g3.safetensors (tools/README.md), or --init FILE|none
Paper: mAP 56.6 % (Qin et al. 2018, arXiv:1803.09127, Table VIII), one run, ImageNet weights.
Setting: as the paper states (section IV-B), otherwise as in py-faster-rcnn (det_configs/settings.md).
Expect: not run here yet; the published value is the target.
"""

_base_ = [
    '_base_/detectors/frcnn_c4.py',
    '_base_/datasets/voc07.py',
    '_base_/schedules/voc07.py',
    '_base_/runtime.py',
]

from backbones.wiring import frcnn_c4

model = frcnn_c4('shufflenet_1x_g3', num_classes=20, frozen_stride=4)
