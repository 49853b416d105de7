"""RetinaNet (Lin et al. 2017, arXiv:1708.02002), with MMDetection's settings.

From the paper: five levels of 256 channels at strides 8 to 128, nine anchors per position (three octave
scales from 4
times the stride, three ratios), two towers of four convolutions, focal loss with alpha 0.25 and gamma 2,
anchors
positive from IoU 0.5 and negative below 0.4. Two deviations: L1 loss on boxes, as in MMDetection; and the
two extra
levels are computed from the last level of the pyramid instead of the last map of the network, whose width
differs
between networks and would add a network-dependent convolution to the detector.
"""

model = dict(
    type='RetinaNet',
    neck=dict(type='FPN', out_channels=256, start_level=0, add_extra_convs='on_output', num_outs=5),
    bbox_head=dict(
        type='RetinaHead',
        in_channels=256,
        feat_channels=256,
        stacked_convs=4,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_means=[0.0] * 4, target_stds=[1.0] * 4),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1
        ),
        sampler=dict(type='PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=100,
    ),
)
