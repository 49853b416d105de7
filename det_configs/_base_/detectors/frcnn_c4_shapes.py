"""Faster R-CNN C4 for the embedded shapes: anchors of their sizes, small enough for a CPU."""

_base_ = ['frcnn_c4.py']

model = dict(
    # 48 and 96 pixels: objects are 53 to 134 on the longer side at the network's input. The RPN tells two
    # kinds of thing apart, for which 64 channels do.
    rpn_head=dict(feat_channels=64, anchor_generator=dict(scales=[3, 6])),
    # Four objects an image at the most: more RoIs would show the network the same objects again, and the
    # subnet, which runs on each, is most of a step's cost.
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=100),
        rcnn=dict(sampler=dict(num=8, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=30)),
)
