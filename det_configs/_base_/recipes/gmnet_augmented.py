"""GM-Net's training with standard augmentation (pad by 4, crop, mirror): C10+ and C100+."""

_base_ = './gmnet.py'

recipe = dict(name='gmnet_augmented', augmented=True)
