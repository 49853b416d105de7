"""MMDetection's 1x schedule: 12 epochs, lr / 10 after 8 and 11; SGD at 0.02 for 16 images per step."""

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=12)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=1e-4)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
# For 16 images per step; other numbers of images or processes scale it.
auto_scale_lr = dict(enable=True, base_batch_size=16)
