"""Connect a network and a detector: every width is derived from the row of the network.

Each function returns the part of MMDetection's ``model`` that depends on the network. The rest (anchors,
losses,
sampling, NMS) is in ``det_configs/_base_/detectors``, with which a leaf config merges it::

    model = frcnn_c4('menet_352_12x1_g8', num_classes=20)
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, MutableMapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from backbones.base import StageHead, config_type, family_of
from backbones.libraries.adapter import AdaptedArch
from backbones.spec import Arch, Conventions, Preprocessing, get_arch
from backbones.weights import WeightsError, read_info

DEFAULT_INIT = 'weights/{arch}.safetensors'

# Strides of the maps that each detector uses. Faster R-CNN C4 also needs the next stage.
TAPS = {'frcnn_c4': (16,), 'frcnn_fpn': (4, 8, 16, 32), 'retinanet_fpn': (8, 16, 32)}


def detectors(arch: str | Arch) -> tuple[str, ...]:
    """Return the detectors that a network can be the backbone of: names of the functions below.

    Raises:
        UnknownArchError: There is no such network.
    """
    row = get_arch(arch)
    return tuple(detector for detector in TAPS if not _lacks(row, detector))


def check_able(arch: str | Arch, detector: str) -> Arch:
    """Return the row of a network; raise ValueError if it cannot be the backbone of a detector.

    Raises:
        UnknownArchError: There is no such network.
        ValueError: The detector needs a map or a stage that the network does not have.
    """
    row = get_arch(arch)
    lacks = _lacks(row, detector)
    if lacks:
        able = ', '.join(detectors(row)) or 'classification only'
        raise ValueError(
            f'{row.name} has {lacks}, which {detector} needs; it has {[*row.strides]}; it can do: {able}'
        )
    return row


def _lacks(row: Arch, detector: str) -> str:
    """Return what a network lacks for a detector; an empty text if nothing."""
    if row.size_divisor is None:
        return f'no maps of images of other sizes than {row.input_size}x{row.input_size}'
    missing = [str(stride) for stride in TAPS[detector] if stride not in row.strides]
    if missing:
        return f'no map at stride {" or ".join(missing)}'
    if detector == 'frcnn_c4':
        if row.stages[-1].stride <= 16:
            return 'no stage after stride 16'
        if row.split_strides is not None and 16 not in row.split_strides:
            return 'no stage after stride 16 that takes the map there and nothing else'
        return _lacks_stage_head(row)
    return ''


@functools.cache
def _lacks_stage_head(row: Arch) -> str:
    """Return why the stage after stride 16 of a library's network cannot be a stage head; '' if it can."""
    if isinstance(row, AdaptedArch):
        try:
            with torch.device('meta'):
                StageHead(row)
        except ValueError as error:
            return f'no stage after stride 16 that can keep the size of a map ({error.__cause__ or error})'
    return ''


def frcnn_c4(
    arch: str,
    *,
    num_classes: int,
    init: str | None = DEFAULT_INIT,
    bn_policy: str | None = None,
    frozen_stages: int = -1,
    frozen_stride: int = 0,
) -> dict[str, Any]:
    """Return Faster R-CNN C4: the backbone up to stride 16, the next stage on each RoI.

    Args:
        arch: A name from ``list_archs()``.
        num_classes: Number of object classes, without the background.
        init: Classification weights of both halves; None for random weights.
        bn_policy: BN policy of both halves. None: with weights that of the detector's original code,
            'frozen' for C4 and 'eval' with a pyramid; without weights 'train'.
        frozen_stages: See ``CompactBackbone``.
        frozen_stride: See ``CompactBackbone``; random weights are not frozen by it.

    Raises:
        UnknownArchError: There is no such network.
        ValueError: The network has no map at a required stride, or no stage after it.
        WeightsError: The weights file is of another network.
    """
    row = check_able(arch, 'frcnn_c4')
    half = dict(arch=row.name, bn_policy=bn_policy or ('frozen' if init else 'train'))
    channels = row.channels(16)
    model: dict[str, Any] = dict(
        backbone=dict(
            type=config_type(row),
            out_strides=TAPS['frcnn_c4'],
            frozen_stages=frozen_stages,
            **half,
        ),
        rpn_head=dict(in_channels=channels),
        roi_head=dict(
            shared_head=dict(type='StageHead', in_stride=16, **half),
            bbox_roi_extractor=dict(out_channels=channels),
            bbox_head=dict(in_channels=row.stage_after(16).channels, num_classes=num_classes),
        ),
    )
    if frozen_stride:
        model['backbone']['frozen_stride'] = frozen_stride
    set_init(model, init and init.format(arch=row.name))
    return model


def frcnn_fpn(
    arch: str,
    *,
    num_classes: int,
    init: str | None = DEFAULT_INIT,
    bn_policy: str | None = None,
    frozen_stages: int = -1,
    frozen_stride: int = 0,
) -> dict[str, Any]:
    """Return Faster R-CNN with a feature pyramid on the maps at strides 4, 8, 16 and 32.

    For arguments and errors see ``frcnn_c4``.
    """
    model = _pyramid(arch, 'frcnn_fpn', init, bn_policy, frozen_stages, frozen_stride)
    model['roi_head'] = dict(bbox_head=dict(num_classes=num_classes))
    return model


def retinanet_fpn(
    arch: str,
    *,
    num_classes: int,
    init: str | None = DEFAULT_INIT,
    bn_policy: str | None = None,
    frozen_stages: int = -1,
    frozen_stride: int = 0,
) -> dict[str, Any]:
    """Return RetinaNet on a feature pyramid of the maps at strides 8, 16 and 32 and two extra levels.

    For arguments and errors see ``frcnn_c4``.
    """
    model = _pyramid(arch, 'retinanet_fpn', init, bn_policy, frozen_stages, frozen_stride)
    model['bbox_head'] = dict(num_classes=num_classes)
    return model


def _pyramid(
    arch: str,
    detector: str,
    init: str | None,
    bn_policy: str | None,
    frozen_stages: int,
    frozen_stride: int,
) -> dict[str, Any]:
    row, out_strides = check_able(arch, detector), TAPS[detector]
    model: dict[str, Any] = dict(
        backbone=dict(
            type=config_type(row),
            arch=row.name,
            out_strides=out_strides,
            frozen_stages=frozen_stages,
            bn_policy=bn_policy or ('eval' if init else 'train'),
            normalise_taps=family_of(row).preactivation,
        ),
        neck=dict(in_channels=[row.channels(stride) for stride in out_strides]),
    )
    if frozen_stride:
        model['backbone']['frozen_stride'] = frozen_stride
    set_init(model, init and init.format(arch=row.name))
    return model


def halves(model: MutableMapping[str, Any]) -> Iterator[MutableMapping[str, Any]]:
    """Return the parts of a detector's config with a network's weights: backbone and, in C4, stage head."""
    yield model['backbone']
    shared_head = model.get('roi_head', {}).get('shared_head')
    if shared_head:
        yield shared_head


def set_init(model: MutableMapping[str, Any], init: str | None) -> None:
    """Set the initial weights of a detector: a classification checkpoint, or random weights
    (``init=None``).

    The data preprocessor gets the preprocessing of the weights, and both halves their conventions. Random
    weights get those of the row, BN that is trained, since unmeasured statistics cannot be frozen, and no
    ``frozen_stride``. If the file does not exist yet, the config is made as if its weights were like the
    row's; loading it is then an error.

    Raises:
        WeightsError: The file exists, but cannot be read or is of another network.
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
    if not init:
        model['backbone'].pop('frozen_stride', None)
    model['data_preprocessor'] = data_preprocessor(preprocessing, row.size_divisor or 1)


def data_preprocessor(preprocessing: Preprocessing, size_divisor: int = 1) -> dict[str, Any]:
    """Return MMDetection's preprocessor for images that are loaded as BGR, as MMCV does.

    Both sides of a batch are padded to a multiple of 32 and of what the network needs.
    """
    return dict(
        type='DetDataPreprocessor',
        mean=list(preprocessing.mean),
        std=list(preprocessing.std),
        bgr_to_rgb=preprocessing.channel_order == 'rgb',
        pad_size_divisor=math.lcm(32, size_divisor),
    )
