"""A network of this suite as MMPretrain's backbone, and the preprocessing of its images."""

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

import compactdet.mmdetection  # noqa: F401  makes mmcv's ops importable, which mmpretrain needs
from backbones.base import Classifier
from backbones.spec import Arch, Conventions
from backbones.weights import WeightsError, is_counter, listing, misfits, read_info, read_weights
from compactdet.errors import UserError

try:
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        import mmpretrain.datasets  # noqa: F401  all three imports register classes for configs
        import mmpretrain.evaluation  # noqa: F401
        from mmpretrain.models import ClsDataPreprocessor
except ImportError as error:
    raise UserError(
        f'pretraining needs MMPretrain ({error}); install it: pip install -e ".[pretrain]"'
    ) from error


@MODELS.register_module()
class WholeNetwork(Classifier):
    """A network with its classifier, as the ``backbone`` of an ``ImageClassifier``; its head has no layers.

    Its state dict has the keys of a weights file.

    Args:
        arch: A name from ``list_archs()``.
        num_classes: Number of outputs of the classifier.
        conventions: As for ``CompactBackbone``.
        init: A weights file with the initial weights, or None: random initialization. The last layers are
            initialized randomly if the file has another number of classes.

    Attributes:
        loaded: Share of the state dict's entries that were loaded from ``init``.
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
        # Twice as fast on a CPU for depthwise convolutions and BN.
        self.to(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> tuple[Tensor]:  # type: ignore[override]
        """(N, 3, H, W) -> logits ((N, num_classes),), in a tuple as mmpretrain's heads expect."""
        return (super().forward(x.contiguous(memory_format=torch.channels_last)),)

    def init_weights(self) -> None:
        """Load the initial weights, if any, and set ``loaded``.

        Raises:
            WeightsError: The file is absent, is for another network, or does not fit.
        """
        if self.init is None:
            return
        state_dict, info = read_weights(self.init)
        if info.arch != self.arch.name or info.conventions != self.conventions:
            raise WeightsError(
                f'{self.init} has weights of {info.arch} with {info.conventions}; this network is '
                f'{self.arch.name} with {self.conventions}'
            )
        own = self.state_dict()
        other_classes = {
            key
            for key, value in own.items()
            if key.startswith('head.') and key in state_dict and state_dict[key].shape != value.shape
        }
        to_load = [
            key for key in own if key not in other_classes and (key in state_dict or not is_counter(key))
        ]
        missing = [key for key in to_load if key not in state_dict]
        misshapen = misfits(own, {key: state_dict[key] for key in to_load if key in state_dict})
        if missing or misshapen:
            raise WeightsError(f'{self.init}: {listing(missing=missing, misshapen=misshapen)}')
        self.load_state_dict({key: state_dict[key] for key in to_load}, strict=False)
        self.loaded = len(to_load) / (len(to_load) + len(other_classes))


@MODELS.register_module()
class ScalingPreprocessor(ClsDataPreprocessor):
    """mmpretrain's preprocessor of a batch, followed by scaling: (N, 3, H, W) -> (N, 3, size, size).

    Args:
        size: Height and width of the network's input; images are scaled bilinearly.
        kwargs: Arguments of ``ClsDataPreprocessor``.
    """

    def __init__(self, size: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.size = size
        self._channel_conversion = self.to_rgb  # name of this attribute in MMEngine's preprocessors

    def forward(self, data: dict, training: bool = False) -> dict:
        """Return the preprocessed batch in mmpretrain's format."""
        data = super().forward(data, training)
        if data['inputs'].shape[-2:] != (self.size, self.size):
            data['inputs'] = F.interpolate(
                data['inputs'], (self.size, self.size), mode='bilinear', align_corners=False
            )
        return data


def check_initial_weights(arch: str, init: str) -> None:
    """Check that a weights file exists and is for a network.

    Raises:
        WeightsError: The file is absent, or is for another network.
    """
    info = read_info(init)
    if info.arch != arch:
        raise WeightsError(f'--init {init} has weights of {info.arch}; this network is {arch}')
