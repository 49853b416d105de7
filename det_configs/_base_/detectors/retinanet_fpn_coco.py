"""RetinaNet for COCO: the extra levels from the last map of the network, as in MMDetection and the paper.

The CondenseNetV2 paper replaces only the backbone of MMDetection's RetinaNet.
"""

_base_ = ['retinanet_fpn.py']

model = dict(neck=dict(add_extra_convs='on_input'))
