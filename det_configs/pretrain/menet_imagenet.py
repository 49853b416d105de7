"""228-MENet-12x1 (g=3) on ImageNet: 66.43 / 86.72 % top-1 / top-5 (arXiv:1803.09127, Table IV).

    python tools/pretrain.py det_configs/pretrain/menet_imagenet.py --data-root imagenet

The recipe (section IV-A) is that of every MENet of Tables II to VII, and of its ShuffleNets there:
`--arch menet_108_8x1_g3 --dataset imagenet --recipe menet`. Not run yet.
"""

_base_ = ['../_base_/recipes/menet.py', '../_base_/pretraining.py']

from compactdet.pretraining.config import pretraining

model, train_dataloader, test_dataloader, test_evaluator, custom_hooks = pretraining(
    'menet_228_12x1_g3', 'imagenet', _base_.recipe
)
