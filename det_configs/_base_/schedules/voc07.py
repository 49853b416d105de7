"""py-faster-rcnn's end-to-end schedule on VOC07 trainval: 70,000 steps at lr 0.001, lr / 10 after 50,000.

A step of its VGG16 has two images (`iter_size: 2` in its solver), so this is 28 epochs of 5,011 images with
the step at 20. Also from it: weight decay 5e-4, momentum 0.9, biases at twice the rate and without weight
decay, no warm-up, no clipping of gradients. The MENet paper states no schedule.
"""

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=28)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.001, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(bias_lr_mult=2, bias_decay_mult=0),
)
param_scheduler = [
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=28, milestones=[20], gamma=0.1),
]
# 0.001 is for two images per step; more images scale it.
auto_scale_lr = dict(enable=True, base_batch_size=2)
