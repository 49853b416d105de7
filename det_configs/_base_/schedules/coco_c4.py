"""py-faster-rcnn's end-to-end schedule on COCO: 490,000 steps at lr 0.001, lr / 10 after 350,000.

A step has two images (`iter_size: 2` in its solver), so with the 118,287 images of trainval35k this is 8.28
epochs with the step at 5.92. Deviation: whole epochs, 8 (3.4 % fewer steps) with the step at 6 (1.4 %
more), so that the number of images does not depend on the number of processes. Also from it: weight decay
5e-4, momentum 0.9, biases at twice the rate and without weight decay, no warm-up, no clipping of gradients.
"""

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=8)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.001, momentum=0.9, weight_decay=5e-4),
    paramwise_cfg=dict(bias_lr_mult=2, bias_decay_mult=0),
)
param_scheduler = [
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=8, milestones=[6], gamma=0.1),
]
# 0.001 is for two images per step; more images scale it.
auto_scale_lr = dict(enable=True, base_batch_size=2)
