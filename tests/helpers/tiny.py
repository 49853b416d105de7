"""A small detector config that trains in a few seconds."""

from pathlib import Path

REPO = Path(__file__).parents[2]

TINY_CONFIG = """
_base_ = [
    '{configs}/_base_/detectors/frcnn_c4.py',
    '{configs}/_base_/datasets/shapes.py',
    '{configs}/_base_/schedules/shapes.py',
    '{configs}/_base_/runtime.py',
]

from backbones.wiring import frcnn_c4

model = frcnn_c4('menet_108_8x1_g3', num_classes=8, init=None)
model['rpn_head'].update(feat_channels=16, anchor_generator=dict(scales=[1, 2]))
model['train_cfg'] = dict(rpn_proposal=dict(max_per_img=20), rcnn=dict(sampler=dict(num=8)))
model['test_cfg'] = dict(rpn=dict(max_per_img=10))
train_pipeline = [
    dict(type='LoadImageFromFile', color_type='color_ignore_orientation'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile', color_type='color_ignore_orientation'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(batch_size=2, dataset=dict({dataset}, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict({dataset}, pipeline=test_pipeline))
test_dataloader = dict(dataset=dict({dataset}, pipeline=test_pipeline))
train_cfg = dict(max_epochs=2, val_interval=1)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=-1, save_best='voc/ap50_11point', rule='greater'))
"""
