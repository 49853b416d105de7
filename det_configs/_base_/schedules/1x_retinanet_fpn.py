"""The 1x for RetinaNet: half the rate, as MMDetection trains it."""

_base_ = ['1x.py']

optim_wrapper = dict(optimizer=dict(lr=0.01))
