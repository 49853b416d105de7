"""MENet (108-MENet-8x1, g = 3) in Faster R-CNN C4 on the embedded shapes, from random weights.

Command: python tools/train.py det_configs/menet_frcnn_shapes.py
Control: the same with `--cfg-options model.backbone.frozen_stages=2`: the backbone stays at random weights.
Expect: see the README's results; on two CPU cores minutes, drawing and evaluation included.
"""

_base_ = [
    '_base_/detectors/frcnn_c4.py',
    '_base_/datasets/shapes.py',
    '_base_/schedules/shapes.py',
    '_base_/runtime.py',
]

from backbones.wiring import frcnn_c4

model = frcnn_c4('menet_108_8x1_g3', num_classes=8, init=None)
# 48 and 96 pixels: objects are 53 to 134 on the longer side at the network's input. The RPN tells two kinds
# of thing apart, for which 64 channels do.
model['rpn_head'].update(feat_channels=64, anchor_generator=dict(scales=[3, 6]))
# Four objects an image at the most: more RoIs would show the network the same objects again, and the
# subnet, which runs on each, is most of a step's cost.
model['train_cfg'] = dict(
    rpn_proposal=dict(nms_pre=500, max_per_img=100),
    rcnn=dict(sampler=dict(num=8, pos_fraction=0.5)),
)
model['test_cfg'] = dict(rpn=dict(nms_pre=500, max_per_img=30))
