"""MMDetection's heads, computed for all images of a batch at once.

MMDetection computes targets, samples and proposals image by image, with shapes that depend on the data: on
a GPU each of them waits for a copy to the CPU. The heads here use padded ground truth and fixed shapes.
They have the parameters, the targets and the losses of MMDetection's.
"""

import compactdet.mmdetection  # noqa: F401 - first: it provides mmcv's operators
from compactdet.heads.choice import with_batched_heads

__all__ = ['with_batched_heads']
