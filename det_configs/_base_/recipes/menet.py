"""MENet's training (Qin et al. 2018, section IV-A; Nesterov momentum from the authors' README).

120 epochs at 256 images per step, lr 0.1 divided by 10 every 30 epochs, weight decay 4e-5, "less aggressive
multi-scale
data augmentation", no color jitter. The paper gives no numbers for the augmentation; here a crop has at
least a quarter
of the image (Inception: 8 %).
"""

recipe = dict(name='menet', batch_size=256, crop_area=(0.25, 1))
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=120)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, nesterov=True, weight_decay=4e-5),
)
param_scheduler = [
    dict(
        type='MultiStepLR',
        by_epoch=True,
        begin=0,
        end=120,
        milestones=[30, 60, 90],
        gamma=0.1,
        convert_to_iter_based=True,
    )
]
auto_scale_lr = dict(enable=True, base_batch_size=256)
