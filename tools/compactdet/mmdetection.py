"""MMDetection's parts that the suite builds on, imported without the chatter of its own imports.

It prints to standard output and warns of optional packages that the suite does not use, which would end
up in a tool's JSON.
"""

import contextlib
import io
import warnings

import backbones  # noqa: F401  first: brings mmcv's ops

with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter('ignore')
    import mmdet.datasets
    import mmdet.engine
    import mmdet.evaluation
    import mmdet.models  # noqa: F401  registers the detectors
    from mmdet.datasets import BaseDetDataset
    from mmdet.registry import DATASETS, METRICS, MODELS

__all__ = ['DATASETS', 'METRICS', 'MODELS', 'BaseDetDataset']
