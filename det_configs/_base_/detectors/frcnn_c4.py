"""Faster R-CNN C4 as in the MENet paper (arXiv:1803.09127, section IV-B).

From the paper: the last stage with stride 1 as R-CNN subnet, RoIAlign, 300 proposals at test. BN is frozen,
statistics and affine parameters, as usual for C4: two images per step are too few to estimate statistics.
Otherwise as in py-faster-rcnn, the C4 code of that time: RPN of 512 channels with 9 anchors, smooth L1
losses, 128 RoIs sampled per image, NMS at 0.3 on detections. RoI maps are 7x7, the size in py-faster-rcnn,
which a subnet with stride 1 keeps. Three deviations besides those of faster_rcnn.py: RoIAlign samples 2x2
points per bin without the half-pixel offset of its first version; the RPN has one score and a sigmoid for
each anchor, and anchors are at the corner of their cell, as in MMDetection (py-faster-rcnn: softmax over
two scores, center). det_configs/settings.md compares every setting.
"""

_base_ = ['faster_rcnn.py']

model = dict(
    rpn_head=dict(
        feat_channels=512,
        anchor_generator=dict(scales=[8, 16, 32], strides=[16]),
        bbox_coder=dict(clip_border=True),
        loss_bbox=dict(type='SmoothL1Loss', beta=1 / 9, loss_weight=1.0),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=dict(sampling_ratio=2), featmap_strides=[16]),
        bbox_head=dict(
            type='BBoxHead',
            with_avg_pool=True,
            loss_bbox=dict(type='SmoothL1Loss', beta=1.0, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=12000, max_per_img=2000),
        rcnn=dict(sampler=dict(num=128)),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=6000, max_per_img=300),
        rcnn=dict(nms=dict(iou_threshold=0.3)),
    ),
)
