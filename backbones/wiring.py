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

from backbones.base import config_type, family_of
from backbones.spec import Arch, Conventions, Preprocessing, get_arch
from backbones.weights import WeightsError, read_info

DEFAULT_INIT = 'weights/{arch}.safetensors'

# The strides whose maps each detector takes. Faster R-CNN C4 needs a stage after its, too.
TAPS = {'frcnn_c4': (16,), 'frcnn_fpn': (4, 8, 16, 32), 'retinanet_fpn': (8, 16, 32)}


def detectors(arch: str | Arch) -> tuple[str, ...]:
    """Return the detectors that a network can be the backbone of, by the names of the functions below.

    Raises:
        UnknownArchError: No such arch.
    """
    row = get_arch(arch)
    return tuple(detector for detector in TAPS if not _lacks(row, detector))


def check_able(arch: str | Arch, detector: str) -> Arch:
    """Return the row of a network that can be a detector's backbone.

    Raises:
        UnknownArchError: No such arch.
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
    """What a network does not have that a detector needs; '' where it has all."""
    missing = [str(stride) for stride in TAPS[detector] if stride not in row.strides]
    if missing:
        return f'no map at stride {" or ".join(missing)}'
    if detector == 'frcnn_c4':
        if row.stages[-1].stride <= 16:
            return 'no stage after stride 16'
        if row.split_strides is not None and 16 not in row.split_strides:
            return 'no stage after stride 16 that takes the map there and nothing else'
    return ''


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
        ValueError: The arch has no map at a stride that the detector needs, or no stage after it.
        WeightsError: The weights file exists but is not this arch's.
    """
    row = check_able(arch, 'frcnn_c4')
    half = dict(arch=row.name, bn_policy=bn_policy or ('frozen' if init else 'train'))
    channels = row.channels(16)
    model: dict[str, Any] = dict(
        backbone=dict(
            type=config_type(row), out_strides=TAPS['frcnn_c4'], frozen_stages=frozen_stages, **half
        ),
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
    model = _pyramid(arch, 'frcnn_fpn', init, bn_policy, frozen_stages)
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
    model = _pyramid(arch, 'retinanet_fpn', init, bn_policy, frozen_stages)
    model['bbox_head'] = dict(num_classes=num_classes)
    return model


def _pyramid(
    arch: str, detector: str, init: str | None, bn_policy: str | None, frozen_stages: int
) -> dict[str, Any]:
    row, out_strides = check_able(arch, detector), TAPS[detector]
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
    """Return the parts of a detector's config that hold a network's weights: backbone and, in C4, shared
    head.
    """
    yield model['backbone']
    shared_head = model.get('roi_head', {}).get('shared_head')
    if shared_head:
        yield shared_head


def set_init(model: MutableMapping[str, Any], init: str | None) -> None:
    """Start a detector from a classification checkpoint, or from random weights (``init=None``).

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
