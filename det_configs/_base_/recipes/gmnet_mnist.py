"""GM-Net's training on MNIST: 200 epochs from lr 0.01, without augmentation."""

_base_ = './gmnet_svhn.py'

recipe = dict(name='gmnet_mnist')
optim_wrapper = dict(optimizer=dict(lr=0.01))
