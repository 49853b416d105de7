"""A recipe of minutes on a CPU core, the same for every network: small images enlarged, few epochs.

At stride 32 a 32-pixel image has one position, so images are resized to 64 pixels. Five epochs of CIFAR-10
take 6 to 8
minutes with a network of 40 M multiply-adds (at 224 pixels).

The rate was chosen on images held out of train (--hold-out 5000), one for all networks: AdamW at 0.004 was
slightly
better than SGD at 0.05 (0.25x MobileNet after two epochs: 40.8 and 40.1 %).
"""

recipe = dict(name='short', batch_size=128, crop_area=(0.25, 1))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=5)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.004, weight_decay=0.05),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=1, end=5, T_max=4, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=True, base_batch_size=128)
