"""py-faster-rcnn's end-to-end schedule on COCO: 490,000 steps at lr 0.001, lr / 10 after 350,000.

A step is two images (`iter_size: 2` in its solver), so on the 118,287 images of trainval35k that is 8
epochs with the step at 6. Weight decay 5e-4 and momentum 0.9 are its own.
"""

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=8)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.001, momentum=0.9, weight_decay=5e-4),
    # Heads start from random weights beside pretrained halves: early gradients are large.
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=8, milestones=[6], gamma=0.1),
]
# More images per step, more rate: 0.001 is for two.
auto_scale_lr = dict(enable=True, base_batch_size=2)
