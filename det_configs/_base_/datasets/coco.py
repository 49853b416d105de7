"""COCO, trainval35k -> minival2014, shorter side 800, longer <= 1333.

trainval35k is train2017 and minival2014 is val2017: if data_root has no files of those names, the files of
2017 are
read. The areas and crowds for the metric come from the same file as the boxes.
"""

dataset_type = 'COCOFormatDataset'
data_root = 'data/coco'
metainfo = dict(
    name='COCO',
    classes=(
        'person', 'bicycle', 'car', 'motorcycle', 'airplane', 'bus', 'train', 'truck', 'boat',
        'traffic light', 'fire hydrant', 'stop sign', 'parking meter', 'bench', 'bird', 'cat', 'dog',
        'horse', 'sheep', 'cow', 'elephant', 'bear', 'zebra', 'giraffe', 'backpack', 'umbrella',
        'handbag', 'tie', 'suitcase', 'frisbee', 'skis', 'snowboard', 'sports ball', 'kite',
        'baseball bat', 'baseball glove', 'skateboard', 'surfboard', 'tennis racket', 'bottle',
        'wine glass', 'cup', 'fork', 'knife', 'spoon', 'bowl', 'banana', 'apple', 'sandwich', 'orange',
        'broccoli', 'carrot', 'hot dog', 'pizza', 'donut', 'cake', 'chair', 'couch', 'potted plant',
        'bed', 'dining table', 'toilet', 'tv', 'laptop', 'mouse', 'remote', 'keyboard', 'cell phone',
        'microwave', 'oven', 'toaster', 'sink', 'refrigerator', 'book', 'clock', 'vase', 'scissors',
        'teddy bear', 'hair drier', 'toothbrush',
    )
)  # fmt: skip
# Each has one box without height, which is dropped, counted and recorded.
known_defects = (200365, 550395)
how_to_get = (
    'Get it with: python tools/data.py get coco (20 GB), or python tools/data.py import coco FOLDER, or '
    'point --data-root at a folder that holds annotations, train2017 and val2017 (default: data/coco). '
    'det_configs/menet_frcnn_shapes.py needs no download.'
)

train_pipeline = [
    # Pixels as stored, to which annotations refer; MMDetection's default applies the EXIF orientation.
    dict(type='LoadImageFromFile', color_type='color_ignore_orientation'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', color_type='color_ignore_orientation'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    # After Resize, so that boxes keep the coordinates of the original image.
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]

train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    # Mixing landscape and portrait images in a batch would pad both.
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='annotations/instances_trainval35k.json',
        metainfo=metainfo,
        known_defects=known_defects,
        how_to_get=how_to_get,
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
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
        ann_file='annotations/instances_minival2014.json',
        metainfo=metainfo,
        known_defects=known_defects,
        how_to_get=how_to_get,
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(type='DetectionMetric')
test_cfg = dict(type='TestLoop')

# There is no third split: no checkpoint is selected by a metric.
val_dataloader = None
val_evaluator = None
val_cfg = None
