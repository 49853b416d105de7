"""MENet (108-MENet-8x1, g = 3) in Faster R-CNN C4 on BCCD: blood cells, three classes.

Command: python tools/train.py det_configs/menet_frcnn_bccd.py
Initial weights: weights/menet_108_8x1_g3.safetensors (tools/README.md), or --init none
Expect: see work_dirs_template/results.md, three seeds each; about ten minutes on one CPU core.
"""

_base_ = [
    '_base_/detectors/frcnn_c4_bccd.py',
    '_base_/datasets/bccd.py',
    '_base_/schedules/bccd.py',
    '_base_/runtime.py',
]

from backbones.wiring import frcnn_c4

# Four images of many cells a step are enough to measure BN, and blood is not what ImageNet shows.
model = frcnn_c4('menet_108_8x1_g3', num_classes=3, bn_policy='train')
# The checkpoint that is tested is the best on val.
default_hooks = dict(checkpoint=dict(save_best='voc/ap50_11point', rule='greater'))
