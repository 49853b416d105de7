"""CondenseNetV2's training on CIFAR-10 and CIFAR-100 (arXiv:2104.04382, section 4.3).

300 epochs at 64 images per step, lr 0.1, cosine; the rest "the same as the experiments on ImageNet":
Nesterov momentum, weight decay 4e-5, condensing. Augmentation as in DenseNet: pad by 4, crop, mirror.
"""

recipe = dict(name='condensenetv2_cifar', batch_size=64)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=300)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=4e-5),
)
param_scheduler = [
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=300, T_max=300, convert_to_iter_based=True)
]
auto_scale_lr = dict(enable=True, base_batch_size=64)
