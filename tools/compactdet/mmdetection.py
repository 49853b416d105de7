"""MMDetection objects used by the suite, imported with its log output suppressed.

MMDetection prints to standard output when it is imported, which would mix with a tool's JSON, and warns of
missing optional packages that the suite does not use.
"""

import contextlib
import io
import warnings

import backbones  # noqa: F401  first: it provides mmcv's operators

with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter('ignore')
    import mmdet.datasets  # noqa: F401  these imports register classes for configs
    import mmdet.engine  # noqa: F401
    import mmdet.evaluation  # noqa: F401
    import mmdet.models  # noqa: F401
    from mmdet.datasets import BaseDetDataset
    from mmdet.registry import DATASETS, METRICS, MODELS

__all__ = ['DATASETS', 'METRICS', 'MODELS', 'BaseDetDataset']
