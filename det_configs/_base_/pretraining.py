"""How a pretraining is driven and logged: as a detector's training, with MMPretrain's parts."""

_base_ = './runtime.py'

custom_imports = dict(
    imports=[
        'backbones',
        'compactdet.classification.dataset',
        'compactdet.pretraining.network',
        'compactdet.training.runner',
    ]
)
default_scope = 'mmpretrain'
env_cfg = dict(cudnn_benchmark=True)  # all images have one size
test_cfg = dict(type='TestLoop')
