"""Faster R-CNN on BCCD's small feature pyramid, with the RoIs of C4 for shapes."""

_base_ = ['frcnn_fpn_bccd.py']

model = dict(
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=100),
        rcnn=dict(sampler=dict(num=8, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=30)),
)
