"""Faster R-CNN on a feature pyramid (Lin et al. 2017, arXiv:1612.03144), with MMDetection's settings.

From the paper: 256 channels on every level; one anchor scale per level, 32 to 512 pixels on strides 4 to
64, the last a
subsampled copy only for the RPN; 512 RoIs sampled per image; two hidden layers of 1,024 on 7x7 RoI maps.
From
MMDetection: RoIAlign instead of RoIPool, L1 losses on boxes, and the deviations of faster_rcnn.py.
"""

_base_ = ['faster_rcnn.py']

model = dict(
    neck=dict(type='FPN', out_channels=256, num_outs=5),
    rpn_head=dict(
        in_channels=256,
        feat_channels=256,
        anchor_generator=dict(scales=[8], strides=[4, 8, 16, 32, 64]),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(
            roi_layer=dict(sampling_ratio=0), out_channels=256, featmap_strides=[4, 8, 16, 32]
        ),
        bbox_head=dict(
            type='Shared2FCBBoxHead',
            in_channels=256,
            fc_out_channels=1024,
            loss_bbox=dict(type='L1Loss', loss_weight=1.0),
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=2000, max_per_img=1000),
        rcnn=dict(sampler=dict(num=512)),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=1000, max_per_img=1000),
        rcnn=dict(nms=dict(iou_threshold=0.5)),
    ),
)
