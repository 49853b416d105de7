"""RetinaNet on BCCD's small feature pyramid."""

_base_ = ['retinanet_fpn_bccd.py']
