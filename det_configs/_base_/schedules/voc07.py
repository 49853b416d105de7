"""py-faster-rcnn's end-to-end schedule on VOC07 trainval: 70,000 steps at lr 0.001, lr / 10 after 50,000.

A step of its VGG16 has two images (`iter_size: 2` in its solver), so this is 28 epochs of 5,011 images with
the step at
20. Weight decay 5e-4 and momentum 0.9 are also from it. The MENet paper states no schedule.
"""

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=28)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.001, momentum=0.9, weight_decay=5e-4),
    # The heads start from random weights: early gradients are large.
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=28, milestones=[20], gamma=0.1),
]
auto_scale_lr = dict(enable=False, base_batch_size=2)
