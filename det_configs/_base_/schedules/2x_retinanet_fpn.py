"""The 2x schedule for RetinaNet: half the rate, as in MMDetection."""

_base_ = ['2x.py']

optim_wrapper = dict(optimizer=dict(lr=0.01))
