"""Faster R-CNN C4 for COCO, with the defaults of py-faster-rcnn, which ShuffleNet's Table 7 names.

Different from frcnn_c4.py: RoIPool; a fourth, smaller anchor scale (64 pixels); softmax over two scores in
the RPN; anchors at the center of their cell; anchors that cross the border of the image are not trained;
proposals below 16 pixels are removed. Three deviations: the limit of 16 pixels is at the network's input,
not in the original image; anchors have exactly the three ratios (the Caffe code rounds their sides); the
best anchor of an object is positive only from IoU 0.3. det_configs/settings.md compares every setting.

It runs MMDetection's heads: the batched ones (compactdet.heads) have no RoIPool and no softmax in the RPN.
"""

_base_ = ['frcnn_c4.py']

model = dict(
    rpn_head=dict(
        anchor_generator=dict(scales=[4, 8, 16, 32], center_offset=0.5),
        loss_cls=dict(use_sigmoid=False),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(_delete_=True, type='RoIPool', output_size=7)),
    ),
    train_cfg=dict(
        rpn=dict(allowed_border=0),
        rpn_proposal=dict(min_bbox_size=16),
    ),
    test_cfg=dict(rpn=dict(min_bbox_size=16)),
)
