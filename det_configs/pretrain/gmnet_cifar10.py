"""GM-Net (BU A) on CIFAR-10 with standard augmentation, C10+: 5.15 % error (arXiv:1706.06792, Table 2).

    python tools/pretrain.py det_configs/pretrain/gmnet_cifar10.py

The other columns, by `--arch gmnet_a_cifar --dataset D --recipe R` (also gmnet_b_cifar and
gmnet_baseline_cifar): C10 6.81 cifar10 gmnet, C100 27.09 cifar100 gmnet, C100+ 24.97 cifar100
gmnet_augmented, SVHN 1.88 svhn gmnet_svhn, MNIST 0.21 mnist gmnet_mnist. Two of 300 epochs were
run for C10+ (tools/README.md, Pretraining), none of the others.
"""

_base_ = ['../_base_/recipes/gmnet_augmented.py', '../_base_/pretraining.py']

from compactdet.pretraining.config import pretraining

model, train_dataloader, test_dataloader, test_evaluator, custom_hooks = pretraining(
    'gmnet_a_cifar', 'cifar10', _base_.recipe
)
