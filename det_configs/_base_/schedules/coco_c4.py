"""py-faster-rcnn's end-to-end schedule on COCO: 490,000 steps at lr 0.001, lr / 10 after 350,000.

A step has two images (`iter_size: 2` in its solver), so with the 118,287 images of trainval35k this is 8
epochs, with
the step at 6 (490,000 steps are 8.28 epochs). Weight decay 5e-4 and momentum 0.9 are also from it.
"""

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=8)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.001, momentum=0.9, weight_decay=5e-4),
    # The heads start from random weights: early gradients are large.
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=8, milestones=[6], gamma=0.1),
]
# 0.001 is for two images per step; more images scale it.
auto_scale_lr = dict(enable=True, base_batch_size=2)
