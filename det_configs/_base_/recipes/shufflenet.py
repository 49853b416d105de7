"""ShuffleNet's training (Zhang et al. 2018, arXiv:1707.01083, section 4).

lr from 0.5 to 0, linear per step; 1024 images per step; weight decay 4e-5; "slightly less aggressive scale
augmentation", without numbers: that of MENet. The paper's 3 x 10^5 steps are 239.8 epochs of ImageNet, here
240.
Momentum 0.9 is that of the training that it follows (ResNeXt).
"""

recipe = dict(name='shufflenet', batch_size=1024, crop_area=(0.25, 1))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=240)
optim_wrapper = dict(
    type='OptimWrapper', optimizer=dict(type='SGD', lr=0.5, momentum=0.9, weight_decay=4e-5)
)
param_scheduler = [
    dict(
        type='PolyLR', power=1, eta_min=0, by_epoch=True, begin=0, end=240, convert_to_iter_based=True,
    )
]  # fmt: skip
auto_scale_lr = dict(enable=True, base_batch_size=1024)
