"""0.5x MobileNet-224 in Faster R-CNN C4 on PASCAL VOC 2007, trainval -> test.

Command: python tools/train.py det_configs/mobilenet_frcnn_voc.py
Initial weights: weights/mobilenet_0.5x.safetensors (tools/README.md), or --init FILE|none
Paper: mAP 54.8 % (Qin et al. 2018, arXiv:1803.09127, Table VIII), one run, ImageNet weights.
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

model = frcnn_c4('mobilenet_0.5x', num_classes=20, frozen_stride=4)
