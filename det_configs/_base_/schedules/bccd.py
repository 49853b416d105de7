"""Six epochs on BCCD's 205 training images; the best checkpoint on val is kept."""

train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=6, val_begin=4, val_interval=1)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=0.001, weight_decay=0.05),
    clip_grad=dict(max_norm=10, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=6, T_max=6, convert_to_iter_based=True),
]
