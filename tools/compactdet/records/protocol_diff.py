"""Differences between two protocols, with a description of each place in which they differ."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from compactdet.errors import UserError
from compactdet.records import record_file
from compactdet.records.protocol_summary import text_of
from compactdet.records.record_types import Protocol

ABSENT = object()

# Descriptions of places in a protocol, by pattern of the dotted path (`*` matches dots too). The first
# match applies. A place without a match is described by its path.
DESCRIPTIONS = {
    'annotations*': 'annotations',
    'also_in_train*': 'test images that are also training images',
    'boxes': 'box coordinates',
    'init': 'class of initialization',
    'load_from': 'initial detector',
    'hooks*': 'hooks that can affect results',
    'preprocessing*': 'preprocessing of the input',
    'rule': 'version of the protocol',
    'amp': 'mixed precision',
    'batch_size': 'images per step',
    'bn_images': 'images that share BN statistics',
    'evaluator*.version': 'version of the evaluator',
    'selection*': 'selection of the tested checkpoint',
    'lr_choice*': 'choice of the learning rate',
    'optimiser.optimizer.lr': 'learning rate',
    'optimiser.optimizer.type': 'optimizer',
    'optimiser.optimizer.weight_decay': 'weight decay',
    'auto_scale_lr*': 'scaling of the learning rate with the batch size',
    'loop.max_epochs': 'epochs',
    'schedule*': 'learning rate schedule',
    'model.type': 'detector',
    'model.backbone.frozen_stages': 'frozen stages of the network',
    'model.backbone.frozen_stride': 'stride up to which the network is frozen',
    'model.*bn_policy': 'BN policy',
    '*_data.dataset.filter_cfg*': 'filtering of images and boxes',
    '*_data.dataset.known_defects': 'known defects of the data set',
    '*_data.dataset.metainfo.classes': 'classes',
    'train_data.*.pipeline.Resize*': 'size of training images',
    'test_data.*.pipeline.Resize*': 'size of test images',
    'train_data.*.pipeline.RandomFlip*': 'flips in training',
    'model.test_cfg.rpn.max_per_img': 'proposals at test',
    'model.train_cfg.rpn_proposal.max_per_img': 'proposals in training',
    'model.train_cfg.*sampler*': 'sampling of anchors and RoIs',
    'model.*anchor_generator*': 'anchors',
    'model.test_cfg*nms.iou_threshold': 'IoU of NMS at test',
    'model.test_cfg*score_thr': 'score threshold',
    'model.test_cfg*max_per_img': 'largest number of detections per image',
    '*_data.dataset.type': 'data set class',
    'train_data*batch_sampler*': 'batch sampler',
    'train_data*': 'training data',
    'test_data*': 'test data',
    'val_data*': 'validation data',
    'val_*': 'validation',
    'test_cfg*': 'test loop',
    'env_cfg.tf32': 'TensorFloat-32',
    'optimiser*': 'optimizer',
    'loop*': 'training loop',
    'model.rpn_head.feat_channels': 'channels of the RPN',
    'model.*nms_pre': 'boxes before NMS',
    'model.neck*': 'feature pyramid',
    'model.*loss*': 'losses',
    'model.train_cfg*assigner*': 'assignment of boxes',
    'model.*roi_layer*': 'RoI maps',
    'model.train_cfg*': 'training of the detector',
    'model.test_cfg*': 'test of the detector',
    'model.*num_classes': 'number of classes',
}


@dataclass(frozen=True)
class Difference:
    """A place in which two protocols differ. The names of the fields are keys of ``--json``.

    Attributes:
        place: Dotted path in the protocol.
        words: Description of the place.
        one: Value in the first protocol, as text.
        other: Value in the second protocol, as text.
    """

    place: str
    words: str
    one: str
    other: str


def find_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Difference]:
    """Return all places in which two protocols differ."""
    return [
        Difference(place, describe_place(place), _short_text(value), _short_text(other_value))
        for place, value, other_value in _walk(one, other, '')
    ]


def describe_place(place: str) -> str:
    """Return the description of a place of a protocol, or the place itself."""
    pattern = next((p for p in DESCRIPTIONS if fnmatchcase(place, p)), None)
    if pattern is None:
        return place
    last = place.rpartition('.')[2]
    has_suffix = pattern.endswith('*') and not fnmatchcase(place, pattern[:-1])
    return f'{DESCRIPTIONS[pattern]}: {last}' if has_suffix else DESCRIPTIONS[pattern]


def _walk(one: Any, other: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield the places that differ, with both values. A part that only one protocol has is one place."""
    if record_file.canonical_json(one) == record_file.canonical_json(other):  # unlike ==, True is not 1
        return
    parts, others = _parts(one), _parts(other)
    if parts is None or others is None or isinstance(one, Mapping) != isinstance(other, Mapping):
        yield place, one, other
        return
    for key in dict.fromkeys((*parts, *others)):
        inner = f'{place}.{key}' if place else key
        if key not in parts or key not in others:
            yield inner, parts.get(key, ABSENT), others.get(key, ABSENT)
        else:
            yield from _walk(parts[key], others[key], inner)
    order, other_order = [key for key in parts if key in others], [key for key in others if key in parts]
    if order != other_order and isinstance(one, list):
        yield f'{place}.order', order, other_order


def _parts(value: Any) -> Mapping[str, Any] | None:
    """Return the parts that are compared one by one; None if a value is compared as a whole.

    The items of a list are compared by their ``type`` if all types differ, so that an additional item does
    not shift the others.
    """
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list):
        parts = {str(item.get('type')): item for item in value if isinstance(item, Mapping)}
        if len(parts) == len(value) and all(isinstance(item.get('type'), str) for item in value):
            return parts
    return None


def _short_text(value: Any) -> str:
    if value is ABSENT:
        return 'nothing'
    text = text_of(value)
    if re.fullmatch('[0-9a-f]{64}', text):  # SHA-256
        return text[: record_file.KEY_LENGTH]
    return text if len(text) <= 100 else f'{text[:97]}...'


def read_protocol(place: str | Path) -> tuple[str, Protocol]:
    """Return the protocol key and the protocol of a record, or of the record in a run folder.

    Raises:
        UserError: There is no record, or it is not valid.
    """
    path = Path(place)
    path = path / 'record.json' if path.is_dir() else path
    if not path.is_file():
        raise UserError(f'{path}: no such record; give a record.json or the folder of a finished run')
    record = record_file.read(path)
    return record['keys']['protocol'], record['protocol']
