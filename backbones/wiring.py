"""Joins a network and a detector: every width is derived from the network's row, none is typed twice.

Each function returns the part of MMDetection's ``model`` that depends on the network; the rest (anchors,
losses, sampling, NMS) stands in ``det_configs/_base_/detectors``, which a leaf config merges it with::

    model = frcnn_c4('menet_352_12x1_g8', num_classes=20)
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from backbones.base import config_type
from backbones.spec import Arch, Conventions, Preprocessing, family_of, get_arch
from backbones.weights import WeightsError, read_info

DEFAULT_INIT = 'weights/{arch}.safetensors'


def frcnn_c4(
    arch: str,
    *,
    num_classes: int,
    init: str | None = DEFAULT_INIT,
    bn_policy: str | None = None,
    frozen_stages: int = -1,
) -> dict[str, Any]:
    """Faster R-CNN C4: the trunk up to stride 16, the stage after it on each RoI.

    Args:
        arch: A name from ``list_archs()``.
        num_classes: Object classes, background not counted.
        init: Classification weights of both halves; None trains from random weights.
        bn_policy: Of both halves; None is 'frozen' with weights and 'train' without.
        frozen_stages: As for ``CompactBackbone``.

    Raises:
        UnknownArchError: No such arch.
        ValueError: The arch has no map at stride 16 or no stage after it.
        WeightsError: The weights file exists but is not this arch's.
    """
    row = get_arch(arch)
    half = dict(arch=row.name, bn_policy=bn_policy or ('frozen' if init else 'train'))
    channels = row.channels(16)
    model: dict[str, Any] = dict(
        backbone=dict(type=config_type(row), out_strides=(16,), frozen_stages=frozen_stages, **half),
        rpn_head=dict(in_channels=channels),
        roi_head=dict(
            shared_head=dict(type='StageHead', in_stride=16, **half),
            bbox_roi_extractor=dict(out_channels=channels),
            bbox_head=dict(in_channels=row.stage_after(16).channels, num_classes=num_classes),
        ),
    )
    set_init(model, init and init.format(arch=row.name))
    return model


def frcnn_fpn(
    arch: str,
    *,
    num_classes: int,
    init: str | None = DEFAULT_INIT,
    bn_policy: str | None = None,
    frozen_stages: int = -1,
) -> dict[str, Any]:
    """Faster R-CNN with a feature pyramid on the maps at strides 4, 8, 16 and 32.

    Arguments and errors are ``frcnn_c4``'s.
    """
    model = _pyramid(get_arch(arch), (4, 8, 16, 32), init, bn_policy, frozen_stages)
    model['roi_head'] = dict(bbox_head=dict(num_classes=num_classes))
    return model


def retinanet_fpn(
    arch: str,
    *,
    num_classes: int,
    init: str | None = DEFAULT_INIT,
    bn_policy: str | None = None,
    frozen_stages: int = -1,
) -> dict[str, Any]:
    """RetinaNet on a feature pyramid of the maps at strides 8, 16 and 32 and two extra levels.

    Arguments and errors are ``frcnn_c4``'s.
    """
    model = _pyramid(get_arch(arch), (8, 16, 32), init, bn_policy, frozen_stages)
    model['bbox_head'] = dict(num_classes=num_classes)
    return model


def _pyramid(
    row: Arch, out_strides: tuple[int, ...], init: str | None, bn_policy: str | None, frozen_stages: int
) -> dict[str, Any]:
    model: dict[str, Any] = dict(
        backbone=dict(
            type=config_type(row),
            arch=row.name,
            out_strides=out_strides,
            frozen_stages=frozen_stages,
            bn_policy=bn_policy or ('frozen' if init else 'train'),
            normalise_taps=family_of(row).preactivation,
        ),
        neck=dict(in_channels=[row.channels(stride) for stride in out_strides]),
    )
    set_init(model, init and init.format(arch=row.name))
    return model


def halves(model: MutableMapping[str, Any]) -> Iterator[MutableMapping[str, Any]]:
    """The parts of a detector's config that hold a network's weights: backbone and, in C4, shared head."""
    yield model['backbone']
    shared_head = model.get('roi_head', {}).get('shared_head')
    if shared_head:
        yield shared_head


def set_init(model: MutableMapping[str, Any], init: str | None) -> None:
    """Starts a detector from a classification checkpoint, or from random weights (``init=None``).

    What the weights were trained with goes with them: the data preprocessor gets their preprocessing and
    both halves their conventions. Random weights get the row's, and BN that is trained: statistics that
    nothing has measured cannot be frozen. A file that is not there yet is wired as if its weights were
    like the row's; loading it is an error until it is there.

    Raises:
        WeightsError: The file is there, but cannot be read or holds another arch.
    """
    row = get_arch(model['backbone']['arch'])
    preprocessing, conventions = row.preprocessing, Conventions()
    if init and Path(init).exists():
        info = read_info(init)
        if info.arch != row.name:
            raise WeightsError(f'{init} holds the weights of {info.arch}; this detector needs {row.name}')
        preprocessing, conventions = info.preprocessing, info.conventions
    for half in halves(model):
        half['init_cfg'] = dict(type='ClassifierWeights', checkpoint=init) if init else None
        half['conventions'] = asdict(conventions)
        if not init:
            half['bn_policy'] = 'train'
    model['data_preprocessor'] = data_preprocessor(preprocessing)


def data_preprocessor(preprocessing: Preprocessing) -> dict[str, Any]:
    """MMDetection's preprocessor for images that are loaded as BGR, as MMCV does."""
    return dict(
        type='DetDataPreprocessor',
        mean=list(preprocessing.mean),
        std=list(preprocessing.std),
        bgr_to_rgb=preprocessing.channel_order == 'rgb',
        pad_size_divisor=32,
    )
