"""RetinaNet on a feature pyramid, small enough for a CPU: 64 channels in pyramid and towers."""

_base_ = ['retinanet_fpn.py']

model = dict(neck=dict(out_channels=64), bbox_head=dict(in_channels=64, feat_channels=64))
