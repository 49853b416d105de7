"""Runtime settings of a pretraining: as for a detector, with parts of MMPretrain."""

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
visualizer = dict(_delete_=True, type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
