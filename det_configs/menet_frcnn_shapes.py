"""MENet (108-MENet-8x1, g = 3) in Faster R-CNN C4 on the embedded shapes, from random weights.

Command: python tools/train.py det_configs/menet_frcnn_shapes.py
Control, with the backbone frozen at random weights: `--cfg-options model.backbone.frozen_stages=2`.
Expect: see work_dirs_template/results.md; about 6 minutes on two CPU cores, with drawing and evaluation.
"""

_base_ = [
    '_base_/detectors/frcnn_c4_shapes.py',
    '_base_/datasets/shapes.py',
    '_base_/schedules/shapes.py',
    '_base_/runtime.py',
]

from backbones.wiring import frcnn_c4

model = frcnn_c4('menet_108_8x1_g3', num_classes=8, init=None)
