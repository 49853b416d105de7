"""Faster R-CNN C4 for COCO: as in py-faster-rcnn, a fourth, smaller anchor scale (64 pixels)."""

_base_ = ['frcnn_c4.py']

model = dict(rpn_head=dict(anchor_generator=dict(scales=[4, 8, 16, 32])))
