"""Faster R-CNN C4 for the embedded shapes: anchors of their sizes, small enough for a CPU."""

_base_ = ['frcnn_c4.py']

model = dict(
    # 48 and 96 pixels: the longer side of objects is 53 to 134 pixels at the network's input. 64 channels
    # suffice for the two classes of the RPN.
    rpn_head=dict(feat_channels=64, anchor_generator=dict(scales=[3, 6])),
    # At most four objects per image: more RoIs would repeat the same objects, and the stage head, which
    # runs on each RoI, is most of the cost of a step.
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=100),
        rcnn=dict(sampler=dict(num=8, pos_fraction=0.5)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=500, max_per_img=30)),
)
