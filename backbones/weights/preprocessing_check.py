"""Check that a detector preprocesses images as in the training of its weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from torch import nn

from backbones.base import CompactBackbone, StageHead
from backbones.spec import Preprocessing
from backbones.weights.initializer import LoadedFrom
from backbones.weights.safe_files import WeightsError


@HOOKS.register_module()
class PreprocessingCheck(Hook):
    """Hook that raises WeightsError if images are not preprocessed as in the training of the weights.

    Before training, validation and test: see ``check_preprocessing``.
    """

    def before_train(self, runner: Any) -> None:
        """Check the model of a runner."""
        check_preprocessing(runner.model)

    before_val = before_test = before_train


def check_preprocessing(model: nn.Module) -> None:
    """Compare a detector's data preprocessor with the preprocessing of its initial weights.

    Raises:
        WeightsError: They differ, or the halves start from different weights.
    """
    detector: Any = model.module if is_model_wrapper(model) else model
    halves = [m for m in detector.modules() if isinstance(m, CompactBackbone | StageHead)]
    sources: list[LoadedFrom | None] = [getattr(half, 'loaded_from', None) for half in halves]
    if len({source and source.sha256 for source in sources}) > 1:
        files = ', '.join(
            f'{type(half).__name__}: {source.checkpoint if source else "random weights"}'
            for half, source in zip(halves, sources, strict=True)
        )
        raise WeightsError(f'parts of the network start from different weights ({files}); give one init')
    if not sources or not sources[0]:
        return
    wanted, given = sources[0].info.preprocessing, preprocessing_of(detector.data_preprocessor)
    numbers = (wanted.mean + wanted.std, given.mean + given.std)
    if wanted.channel_order != given.channel_order or not np.allclose(*numbers, rtol=1e-5, atol=1e-5):
        raise WeightsError(
            f'{sources[0].checkpoint} was trained with {wanted}, but the data_preprocessor gives {given}; '
            f'set its mean, std and bgr_to_rgb={wanted.channel_order == "rgb"} to the former'
        )


def preprocessing_of(data_preprocessor: nn.Module) -> Preprocessing:
    """Return the preprocessing that MMDetection's data preprocessor applies to BGR images."""
    order = 'rgb' if getattr(data_preprocessor, '_channel_conversion', False) else 'bgr'
    if not getattr(data_preprocessor, '_enable_normalize', False):
        return Preprocessing(order, (0, 0, 0), (1, 1, 1))
    mean, std = (
        tuple(getattr(data_preprocessor, name).flatten().expand(3).tolist()) for name in ('mean', 'std')
    )
    return Preprocessing(order, mean, std)
