"""A whole network of this suite inside mmpretrain's classifier, and how its images reach it."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.registry import MODELS
from torch import Tensor

import compactdet.mmdetection  # noqa: F401  mmcv's ops, before mmpretrain asks for them
from backbones.base import Classifier
from backbones.spec import Arch, Conventions
from backbones.weights import WeightsError, is_counter, listing, misfits, read_info, read_weights
from compactdet.errors import UserError

try:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        import mmpretrain.datasets
        import mmpretrain.evaluation  # noqa: F401  registers what the configs name, as all three
        from mmpretrain.models import ClsDataPreprocessor
except ImportError as error:
    raise UserError(
        f'pretraining needs MMPretrain ({error}); install it: pip install -e ".[pretrain]"'
    ) from error


@MODELS.register_module()
class WholeNetwork(Classifier):
    """A network with its classifier, as the ``backbone`` of an ``ImageClassifier`` whose head has no layer.

    Its entries are those of a weights file.

    Args:
        arch: A name from ``list_archs()``.
        num_classes: Of the classifier.
        conventions: As for ``CompactBackbone``.
        init: A weights file to start from, or None: random weights. The last layers start from random
            weights where the file has another number of classes.
    """

    def __init__(
        self,
        arch: str | Arch,
        num_classes: int,
        conventions: Conventions | Mapping[str, Any] | None = None,
        init: str | None = None,
    ):
        super().__init__(arch, num_classes, conventions=conventions)
        self.init = init
        self.loaded = 0.0
        # Twice as fast on a CPU: depthwise convolutions and BN read whole pixels.
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> tuple[Tensor]:  # type: ignore[override]
        """(N, 3, H, W) -> logits ((N, num_classes),), in a tuple as mmpretrain's heads expect."""
        return (super().forward(x.contiguous(memory_format=torch.channels_last)),)

    def init_weights(self) -> None:
        """Loads the weights to start from, if there are some; sets ``loaded``, their share of the entries.

        Raises:
            WeightsError: They are absent, another network's, or do not fit.
        """
        if self.init is None:
            return
        state_dict, info = read_weights(self.init)
        if info.arch != self.arch.name or info.conventions != self.conventions:
            raise WeightsError(
                f'{self.init} holds {info.arch} with {info.conventions}; this network is {self.arch.name} '
                f'with {self.conventions}'
            )
        own = self.state_dict()
        unfit = {
            key
            for key, value in own.items()
            if key.startswith('head.') and key in state_dict and state_dict[key].shape != value.shape
        }
        wanted = [key for key in own if key not in unfit and (key in state_dict or not is_counter(key))]
        missing = [key for key in wanted if key not in state_dict]
        misshapen = misfits(own, {key: state_dict[key] for key in wanted if key in state_dict})
        if missing or misshapen:
            raise WeightsError(f'{self.init}: {listing(missing=missing, misshapen=misshapen)}')
        self.load_state_dict({key: state_dict[key] for key in wanted}, strict=False)
        self.loaded = len(wanted) / (len(wanted) + len(unfit))


@MODELS.register_module()
class ScalingPreprocessor(ClsDataPreprocessor):
    """mmpretrain's preprocessor of a batch, which then scales it: (N, 3, H, W) -> (N, 3, size, size).

    Args:
        size: Height and width that the network gets; bilinear.
        kwargs: ``ClsDataPreprocessor``'s.
    """

    def __init__(self, size: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.size = size
        self._channel_conversion = self.to_rgb  # its name in MMEngine's other preprocessors

    def forward(self, data: dict, training: bool = False) -> dict:
        """As mmpretrain's."""
        data = super().forward(data, training)
        if data['inputs'].shape[-2:] != (self.size, self.size):
            data['inputs'] = F.interpolate(
                data['inputs'], (self.size, self.size), mode='bilinear', align_corners=False
            )
        return data


def check_init(arch: str, init: str) -> None:
    """Sees that a weights file is there and the network's.

    Raises:
        WeightsError: It is not.
    """
    info = read_info(init)
    if info.arch != arch:
        raise WeightsError(f'--init {init} holds the weights of {info.arch}; this network is {arch}')
