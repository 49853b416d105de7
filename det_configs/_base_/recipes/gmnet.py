"""GM-Net's training without augmentation (Chen and Li 2017, arXiv:1706.06792, section 3.4): C10 and C100.

300 epochs, Nesterov momentum, lr 0.1 divided by 10 after half and three quarters of them. Dropout (keep
0.8) is part of
the network. Not stated in the paper: images per step (64) and weight decay (1e-4), both as in DenseNet,
whose schedule
this is.

Deviation: the paper subtracts the channel means of the data set; here images are preprocessed as in a
detector.
"""

recipe = dict(name='gmnet', batch_size=64, augmented=False)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
)
param_scheduler = [
    dict(
        type='MultiStepLR',
        by_epoch=True,
        begin=0,
        end=300,
        milestones=[150, 225],
        gamma=0.1,
        convert_to_iter_based=True,
    )
]
auto_scale_lr = dict(enable=True, base_batch_size=64)
