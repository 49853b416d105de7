"""CondenseNetV2-A on ImageNet: 35.6 / 15.8 % top-1 / top-5 error (arXiv:2104.04382, Table 5).

    python tools/pretrain.py det_configs/pretrain/condensenetv2_imagenet.py --data-root imagenet
    python tools/convert_sparse.py work_dirs/condensenetv2_imagenet/weights.safetensors --out a.safetensors

The second command makes the test-time form, which computes the same function. Not run yet.
"""

_base_ = ['../_base_/recipes/condensenetv2.py', '../_base_/pretraining.py']

from compactdet.pretraining.config import pretraining

model, train_dataloader, test_dataloader, test_evaluator, custom_hooks = pretraining(
    'condensenetv2_a', 'imagenet', _base_.recipe
)
