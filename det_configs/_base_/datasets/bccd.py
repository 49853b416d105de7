"""BCCD: 364 microscope images of blood, three classes, 640x480, train / val / test."""

dataset_type = 'VOCFormatDataset'
data_root = 'data/BCCD'
metainfo = dict(name='BCCD', classes=('RBC', 'WBC', 'Platelets'))
# Each has one box with xmin == xmax and ymin == ymax, which is dropped, counted and recorded.
known_defects = ('BloodImage_00338', 'BloodImage_00343')
how_to_get = (
    'Get it with: python tools/data.py get bccd. '
    'Or get the BCCD data set (MIT licence; https://github.com/Shenggan/BCCD_Dataset) and point '
    '--data-root at its folder BCCD, which holds Annotations, JPEGImages and ImageSets (default: '
    'data/BCCD). det_configs/menet_frcnn_shapes.py needs no download.'
)

train_pipeline = [
    # Pixels as stored, as in VOC's development kit; MMDetection's default applies the EXIF orientation.
    dict(type='LoadImageFromFile', color_type='color_ignore_orientation'),
    dict(type='LoadAnnotations', with_bbox=True),
    # Unchanged size: the stage head costs most, independent of the image size.
    dict(type='Resize', scale=(640, 480), keep_ratio=True),
    # Microscope images have no orientation: all four flips, equally likely.
    dict(type='RandomFlip', prob=[0.25] * 3, direction=['horizontal', 'vertical', 'diagonal']),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', color_type='color_ignore_orientation'),
    # Unchanged size: the stage head costs most, independent of the image size.
    dict(type='Resize', scale=(640, 480), keep_ratio=True),
    # After Resize, so that boxes keep the coordinates of the original image.
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

# The images are small: loading them in the training process leaves the cores to the network.
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='ImageSets/Main/train.txt',
        metainfo=metainfo,
        known_defects=known_defects,
        how_to_get=how_to_get,
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
# Settings and epochs are chosen on val; test is only for the reported metric.
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='ImageSets/Main/val.txt',
        metainfo=metainfo,
        known_defects=known_defects,
        how_to_get=how_to_get,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='ImageSets/Main/test.txt',
        metainfo=metainfo,
        known_defects=known_defects,
        how_to_get=how_to_get,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)

val_evaluator = dict(type='DetectionMetric')
test_evaluator = val_evaluator
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
