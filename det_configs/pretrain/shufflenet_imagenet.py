"""ShuffleNet 1x (g=3) on ImageNet: 32.6 % top-1 error (arXiv:1707.01083, Table 2).

    python tools/pretrain.py det_configs/pretrain/shufflenet_imagenet.py --data-root imagenet

1024 images per step on four GPUs: `torchrun --nproc-per-node 4 ... --launcher pytorch --cfg-options
train_dataloader.batch_size=256`. Not run yet.
"""

_base_ = ['../_base_/recipes/shufflenet.py', '../_base_/pretraining.py']

from compactdet.pretraining.config import pretraining

model, train_dataloader, test_dataloader, test_evaluator, custom_hooks = pretraining(
    'shufflenet_1x_g3', 'imagenet', _base_.recipe
)
