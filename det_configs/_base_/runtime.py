"""Runtime settings of a run, which do not affect results."""

# Loading this config, also by MMDetection's own tools, registers the networks, the data sets and the
# metric, and provides mmcv's operators.
custom_imports = dict(
    imports=[
        'backbones',
        'compactdet.data.voc',
        'compactdet.data.coco',
        'compactdet.data.shapes',
        'compactdet.evaluation.metric',
        'compactdet.training.runner',
    ],
    allow_failed_imports=False,
)
runner_type = 'SafeRunner'  # executes no code from checkpoints
default_scope = 'mmdet'
randomness = dict(seed=0)
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='SafeCheckpointHook', interval=1, max_keep_ckpts=1, minutes=10),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
custom_hooks = [dict(type='PreprocessingCheck'), dict(type='ProgressHook')]
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=True)
log_level = 'INFO'
# MMDetection's DetInferencer draws with it; without a name, each run of a process has its own.
visualizer = dict(type='DetLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')])
load_from = None
resume = False
work_dir = None
