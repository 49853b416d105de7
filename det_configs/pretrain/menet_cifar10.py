"""108-MENet-8x1 on CIFAR-10 in minutes on a CPU, as initial weights of a detector; no published value.

    python tools/pretrain.py det_configs/pretrain/menet_cifar10.py

Any network: `--arch NAME --dataset cifar10`.
"""

_base_ = ['../_base_/recipes/short.py', '../_base_/pretraining.py']

from compactdet.pretraining.config import pretraining

model, train_dataloader, test_dataloader, test_evaluator, custom_hooks = pretraining(
    'menet_108_8x1_g3', 'cifar10', _base_.recipe
)
