"""The differences of two protocols, in words. A place without words is named by its dotted path."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from compactdet.errors import UserError
from compactdet.records import record_file
from compactdet.records.protocol_summary import Protocol, text_of

ABSENT = object()

# Descriptions of places in a protocol (`*` matches dots too); the first match is taken.
WORDS = {
    'annotations*': 'annotations',
    'boxes': 'box coordinates',
    'init': 'class of initialization',
    'load_from': 'initial detector',
    'hooks*': 'hooks that affect training',
    'amp': 'mixed precision',
    'batch_size': 'images per step',
    'bn_images': 'images that share BN statistics',
    'evaluator*.version': 'version of the evaluator',
    'selection*': 'selection of the tested checkpoint',
    'lr_choice*': 'choice of the learning rate',
    'optimiser.optimizer.lr': 'learning rate',
    'optimiser.optimizer.type': 'optimiser',
    'optimiser.optimizer.weight_decay': 'weight decay',
    'auto_scale_lr*': 'scaling of the learning rate with the batch size',
    'loop.max_epochs': 'epochs',
    'schedule*': 'learning rate schedule',
    'model.type': 'detector',
    'model.backbone.frozen_stages': 'frozen stages of the network',
    'model.*bn_policy': 'BN policy',
    '*_data.dataset.filter_cfg*': 'filtering of images and boxes',
    '*_data.dataset.known_defects': 'known defects of the data set',
    '*_data.dataset.metainfo.*': 'data set',
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
    'optimiser*': 'optimiser',
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
    """A place in which two protocols differ.

    Attributes:
        place: Dotted path in the protocol.
        words: Description of the place.
        one: Value in the first protocol, as text.
        other: Value in the second protocol.
    """

    place: str
    words: str
    one: str
    other: str


def differences(one: Protocol, other: Protocol) -> list[Difference]:
    """Return every place in which two protocols differ."""
    return [
        Difference(place, words_for(place), _short(ours), _short(theirs))
        for place, ours, theirs in _walk(one, other, '')
    ]


def words_for(place: str) -> str:
    """Return the description of a place of a protocol, or the place itself."""
    pattern = next((p for p in WORDS if fnmatchcase(place, p)), None)
    if pattern is None:
        return place
    last = place.rpartition('.')[2]
    named = pattern.endswith('*') and not fnmatchcase(place, pattern[:-1])
    return f'{WORDS[pattern]}: {last}' if named else WORDS[pattern]


def _walk(one: Any, other: Any, place: str) -> Iterator[tuple[str, Any, Any]]:
    """Yield places and their values. A part that only one protocol has is one place."""
    if record_file.canonical_json(one) == record_file.canonical_json(other):  # True is not 1
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
    ours, theirs = [key for key in parts if key in others], [key for key in others if key in parts]
    if ours != theirs and isinstance(one, list):
        yield f'{place}.order', ours, theirs


def _parts(value: Any) -> Mapping[str, Any] | None:
    """Return the parts that are compared one by one: of a mapping, or of a list whose items have distinct
    types.

    So one more item in a list does not shift the others.
    """
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list):
        parts = {str(item.get('type')): item for item in value if isinstance(item, Mapping)}
        if len(parts) == len(value) and all(isinstance(item.get('type'), str) for item in value):
            return parts
    return None


def _short(value: Any) -> str:
    if value is ABSENT:
        return 'nothing'
    text = text_of(value)
    if re.fullmatch('[0-9a-f]{64}', text):  # SHA-256
        return text[: record_file.KEY_LENGTH]
    return text if len(text) <= 100 else f'{text[:97]}...'


def read_protocol(place: str | Path) -> tuple[str, dict[str, Any]]:
    """Return key and protocol of a record, or of the record in a run folder.

    Raises:
        UserError: There is no record, or it is not valid.
    """
    path = Path(place)
    path = path / 'record.json' if path.is_dir() else path
    if not path.is_file():
        raise UserError(f'{path}: no such record; give a record.json or the folder of a finished run')
    record = record_file.read(path)
    return record['keys']['protocol'], record['protocol']
