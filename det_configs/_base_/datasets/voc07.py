"""PASCAL VOC 2007, trainval -> test, at py-faster-rcnn's sizes (shorter side 600, longer <= 1000)."""

dataset_type = 'VOCFormatDataset'
data_root = 'data/VOCdevkit'
metainfo = dict(
    name='VOC2007',
    classes=(
        'aeroplane', 'bicycle', 'bird', 'boat', 'bottle', 'bus', 'car', 'cat', 'chair', 'cow',
        'diningtable', 'dog', 'horse', 'motorbike', 'person', 'pottedplant', 'sheep', 'sofa',
        'train', 'tvmonitor',
    )
)  # fmt: skip
how_to_get = (
    'Get it with: python tools/data.py get voc07. '
    'Or get VOCtrainval_06-Nov-2007.tar and VOCtest_06-Nov-2007.tar from the PASCAL VOC 2007 site, and '
    'unpack both in the same folder: it then holds VOCdevkit/VOC2007. Point --data-root at that '
    'VOCdevkit (default: data/VOCdevkit). det_configs/menet_frcnn_shapes.py needs no download.'
)

train_pipeline = [
    # Pixels as stored, as in VOC's development kit; MMDetection's default applies the EXIF orientation.
    dict(type='LoadImageFromFile', color_type='color_ignore_orientation'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(1000, 600), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', color_type='color_ignore_orientation'),
    dict(type='Resize', scale=(1000, 600), keep_ratio=True),
    # After Resize, so that boxes keep the coordinates of the original image.
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

train_dataloader = dict(
    batch_size=2,  # as py-faster-rcnn's VGG16 and MMDetection
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    # Mixing landscape and portrait images in a batch would pad both.
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='VOC2007/ImageSets/Main/trainval.txt',
        metainfo=metainfo,
        how_to_get=how_to_get,
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='VOC2007/ImageSets/Main/test.txt',
        metainfo=metainfo,
        how_to_get=how_to_get,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(type='DetectionMetric')
test_cfg = dict(type='TestLoop')

# The published protocol has no third split: the last checkpoint is tested.
val_dataloader = None
val_evaluator = None
val_cfg = None
