"""GM-Net's training on SVHN: 200 epochs on its 73,257 training digits, without augmentation."""

_base_ = './gmnet.py'

recipe = dict(name='gmnet_svhn')
train_cfg = dict(max_epochs=200)
param_scheduler = [
    dict(
        type='MultiStepLR',
        by_epoch=True,
        begin=0,
        end=200,
        milestones=[100, 150],
        gamma=0.1,
        convert_to_iter_based=True,
    )
]
