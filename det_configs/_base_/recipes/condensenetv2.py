"""CondenseNetV2's training on ImageNet (Yang et al. 2021, arXiv:2104.04382, section 4.1 and appendix C).

SGD with Nesterov momentum, lr 0.4, cosine, 1024 images per step, weight decay 4e-5. Where the paper refers
to
MobileNetV3's setting, this is the command in the authors' README: 350 epochs, 5 of them from lr 0.1,
RandAugment
(magnitude 9, sd 0.5), random erasing (0.2, with noise). Masked layers condense as in section 3.1; the hook
is added for
networks that have some.
"""

recipe = dict(
    name='condensenetv2',
    batch_size=1024,
    crop_area=(0.08, 1),
    also=[
        dict(
            type='mmpretrain.RandAugment',
            policies='timm_increasing',
            num_policies=2,
            total_level=10,
            magnitude_level=9,
            magnitude_std=0.5,
        ),
        dict(
            type='mmpretrain.RandomErasing',
            erase_prob=0.2,
            mode='rand',
            min_area_ratio=0.02,
            max_area_ratio=1 / 3,
            fill_color=[103.53, 116.28, 123.675],
            fill_std=[57.375, 57.12, 58.395],
        ),
    ],
)
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=350)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.4, momentum=0.9, nesterov=True, weight_decay=4e-5),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.25, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=5, end=350, T_max=345, convert_to_iter_based=True),
]
auto_scale_lr = dict(enable=True, base_batch_size=1024)
