"""Faster R-CNN C4 for BCCD: anchors of its cells' sizes, small enough for a CPU."""

_base_ = ['frcnn_c4.py']

model = dict(
    rpn_head=dict(
        feat_channels=128,
        # 40, 96 and 192 pixels: about the median sides in train of platelets (38), red (102) and white
        # cells (189). py-faster-rcnn's smallest anchor, 128 pixels, is three platelets wide.
        anchor_generator=dict(scales=[2.5, 6, 12]),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=1000, max_per_img=300),
        rcnn=dict(sampler=dict(num=48)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=100)),
)
