"""CondenseNetV2-110 on CIFAR-10: 4.65 % error (arXiv:2104.04382, Table 6; CIFAR-100: 23.94 %).

    python tools/pretrain.py det_configs/pretrain/condensenetv2_cifar10.py

CIFAR-100: `--arch condensenetv2_110_cifar --dataset cifar100 --recipe condensenetv2_cifar`. For CIFAR-10,
two of 300 epochs were run (tools/README.md, Pretraining).
"""

_base_ = ['../_base_/recipes/condensenetv2_cifar.py', '../_base_/pretraining.py']

from compactdet.pretraining.config import pretraining

model, train_dataloader, test_dataloader, test_evaluator, custom_hooks = pretraining(
    'condensenetv2_110_cifar', 'cifar10', _base_.recipe
)
