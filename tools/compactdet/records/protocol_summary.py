"""Summary of a protocol in words, made from the protocol in a record."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from compactdet.errors import UserError
from compactdet.records import record_file
from compactdet.records.record_types import Protocol


@dataclass(frozen=True)
class ProtocolSummary:
    """Summary of a protocol. Each field is a text, and its name is its label.

    Attributes:
        splits: Splits of the data set with the hashes of their annotations.
        training_boxes: Images and boxes that are excluded from training.
        difficult: Treatment of difficult and crowd boxes in training.
        coordinates: Coordinates of boxes.
        resize: Sizes of images.
        flips: Flips of training images.
        anchors: Settings of the anchor generator.
        proposals: Numbers of proposals.
        sampling: Numbers of sampled anchors and RoIs.
        nms: Non-maximum suppression at test.
        score_threshold: Lowest confidence score of a detection.
        max_detections: Largest number of detections.
        bn_policy: BN policy, and frozen stages.
        schedule: Length of the training and learning rate schedule.
        batch: Images per step.
        learning_rate: Learning rate, how it was chosen and how it is scaled.
        optimizer: Optimizer and its other settings.
        initialization: Class of initialization.
        evaluator: Metrics with the versions of their code.
        tested: The checkpoint that is tested.
        hooks: Hooks that can affect results.
        preprocessing: Mean, standard deviation and order of channels of the input.
    """

    splits: str
    training_boxes: str
    difficult: str
    coordinates: str
    resize: str
    flips: str
    anchors: str
    proposals: str
    sampling: str
    nms: str
    score_threshold: str
    max_detections: str
    bn_policy: str
    schedule: str
    batch: str
    learning_rate: str
    optimizer: str
    initialization: str
    evaluator: str
    tested: str
    hooks: str
    preprocessing: str

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yield the label and the text of each field."""
        for entry in fields(self):
            label = entry.name.replace('_', ' ').replace('nms', 'NMS').replace('bn ', 'BN ')
            yield label, getattr(self, entry.name)


def summarize(protocol: Protocol) -> ProtocolSummary:
    """Return the summary of a protocol; '-' stands for a missing setting.

    Raises:
        UserError: The protocol is not of the form that tools/train.py writes.
    """
    try:
        return _summarize(protocol)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(
            f'the protocol is not of the form that tools/train.py writes ({type(error).__name__}: '
            f'{error}): it cannot be summarized'
        ) from error


def _summarize(protocol: Protocol) -> ProtocolSummary:
    train, test = _get(protocol, 'model.train_cfg') or {}, _get(protocol, 'model.test_cfg') or {}
    last = test.get('rcnn', test)
    return ProtocolSummary(
        splits=_splits(protocol),
        training_boxes=_training_boxes(_innermost(protocol.get('train_data'))),
        difficult=_difficult(train),
        coordinates=text_of(protocol.get('boxes')),
        resize=_in_pipelines(protocol, 'Resize', _resize),
        flips=_in_pipelines(protocol, 'RandomFlip', _flip),
        anchors=_anchors(protocol),
        proposals=_proposals(train, test),
        sampling=_sampling(train),
        nms=_nms(last.get('nms'))
        + (f'; proposals {_nms(test["rpn"].get("nms"))}' if 'rpn' in test else ''),
        score_threshold=text_of(last.get('score_thr')),
        max_detections=f'{text_of(last.get("max_per_img"))} per image',
        bn_policy=_bn_policy(protocol),
        schedule=_schedule(protocol),
        batch=f'{text_of(protocol.get("batch_size"))} images per step, over all processes',
        learning_rate=_learning_rate(protocol),
        optimizer=_optimizer(protocol),
        initialization=_initialization(protocol),
        evaluator=', '.join(
            ' '.join([f'{metric["type"]} of {metric["version"]}', *_rest(metric, 'type', 'version')])
            for metric in protocol.get('evaluator') or []
        )
        or '-',
        tested=_tested(protocol.get('selection')),
        hooks=', '.join(
            ' '.join([hook['type'], *_rest(hook, 'type')]) for hook in protocol.get('hooks') or []
        )
        or 'none',
        preprocessing=text_of(protocol.get('preprocessing')),
    )


def _get(protocol: Any, place: str) -> Any:
    """Return the value at a dotted place, or None."""
    for part in place.split('.'):
        protocol = protocol.get(part) if isinstance(protocol, Mapping) else None
    return protocol


def text_of(value: Any) -> str:
    """Return a value as text."""
    if value is None:
        return '-'
    if isinstance(value, float):
        return f'{value:g}'
    if isinstance(value, str):
        return value
    return json.dumps(value, default=str)


def _rest(value: Mapping[str, Any], *known: str) -> list[str]:
    """Return ``key=value`` for all keys but the known ones."""
    return [f'{key}={text_of(item)}' for key, item in value.items() if key not in known]


def _innermost(loader: Any) -> Mapping[str, Any]:
    """Return the innermost data set config of a data loader config."""
    dataset = (loader or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def _splits(protocol: Protocol) -> str:
    shas = protocol.get('annotations') or {}
    texts = [f'{name} (annotations {sha[: record_file.KEY_LENGTH]})' for name, sha in shas.items()]
    leaks = protocol.get('also_in_train') or {}
    texts += [f'{count} images of {name} are also in train' for name, count in leaks.items()]
    return ', '.join(texts) or 'not read yet'


def _training_boxes(dataset: Mapping[str, Any]) -> str:
    filters = dataset.get('filter_cfg') or {}
    texts = []
    if filters.get('filter_empty_gt'):
        texts.append('images without objects are excluded')
    texts += _rest(filters, 'filter_empty_gt')
    if dataset.get('known_defects'):
        texts.append(f'boxes without area of {len(dataset["known_defects"])} named images are dropped')
    return '; '.join(texts) or 'all'


def _difficult(train: Mapping[str, Any]) -> str:
    assigner = train.get('rpn', train).get('assigner') or {}
    threshold = assigner.get('ignore_iof_thr', -1)
    if threshold > 0:
        return f'difficult and crowd: ignored, as are anchors with {threshold:g} of their area on them'
    return 'difficult and crowd: background'


def _in_pipelines(protocol: Protocol, kind: str, describe: Callable[[Any], str]) -> str:
    """Describe the steps whose type contains ``kind`` in the pipelines for training and testing."""
    texts = []
    for name in ('train_data', 'test_data'):
        steps = _innermost(protocol.get(name)).get('pipeline') or []
        texts.append('; '.join(describe(step) for step in steps if kind in str(step.get('type'))) or 'none')
    train, test = texts
    return train if test in (train, 'none') else f'training: {train}; test: {test}'


def _resize(step: Mapping[str, Any]) -> str:
    sides, kind = step.get('scale'), step['type']
    rest = _rest(step, 'type', 'scale', 'keep_ratio')
    keeps = kind == 'Resize' and step.get('keep_ratio')
    if not keeps or not isinstance(sides, list | tuple) or len(sides) != 2:
        name, to = '' if kind == 'Resize' else kind, '' if sides is None else f'to {text_of(sides)}'
        return ' '.join(filter(None, [name, to, *rest]))
    return ' '.join([f'shorter side {min(sides)}, longer at most {max(sides)} pixels', *rest])


def _flip(step: Mapping[str, Any]) -> str:
    probs, directions = step.get('prob'), step.get('direction', 'horizontal')
    if not isinstance(probs, list):
        return f'{text_of(directions)} {text_of(probs)}'
    pairs = zip(probs, directions, strict=True)
    return ', '.join(f'{direction} {text_of(prob)}' for prob, direction in pairs)


def _anchors(protocol: Protocol) -> str:
    head = _get(protocol, 'model.rpn_head') or _get(protocol, 'model.bbox_head') or {}
    anchors = head.get('anchor_generator') or {}
    return ', '.join(_rest(anchors, 'type')) or '-'


def _proposals(train: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    counts = {'training': train.get('rpn_proposal'), 'test': test.get('rpn')}
    texts = [
        f'{name} {text_of(cfg.get("max_per_img"))} of the best {text_of(cfg.get("nms_pre"))}'
        for name, cfg in counts.items()
        if cfg
    ]
    return ', '.join(texts) or f'none; the best {text_of(test.get("nms_pre"))} per level before NMS'


def _sampling(train: Mapping[str, Any]) -> str:
    texts = []
    for part, noun in (('rpn', 'anchors'), ('rcnn', 'RoIs')):
        sampler = _get(train, f'{part}.sampler') or {}
        if sampler.get('num'):
            share = sampler.get('pos_fraction')
            texts.append(f'{sampler["num"]} {noun} per image, at most {text_of(share)} of them positive')
    return ', '.join(texts) or 'every anchor'


def _nms(nms: Mapping[str, Any] | None) -> str:
    if not nms:
        return '-'
    rest = _rest(nms, 'type', 'iou_threshold')
    return ' '.join([f'{nms.get("type", "nms")} at IoU {text_of(nms.get("iou_threshold"))}', *rest])


def _bn_policy(protocol: Protocol) -> str:
    backbone = _get(protocol, 'model.backbone') or {}
    head = _get(protocol, 'model.roi_head.shared_head.bn_policy')
    policy = text_of(backbone.get('bn_policy'))
    if head is not None and head != policy:
        policy = f'{policy}, stage head {head}'
    if images := protocol.get('bn_images'):
        policy += f'; statistics over the {images} images of each process (no SyncBN), averaged each epoch'
    if stride := backbone.get('frozen_stride'):
        return f'{policy}; frozen up to the map at stride {stride}'
    frozen = backbone.get('frozen_stages', -1)
    return policy + ('; nothing else frozen' if frozen < 0 else f'; stem and {frozen} stages frozen')


def _schedule(protocol: Protocol) -> str:
    loop = protocol.get('loop') or {}
    texts = [f'{text_of(loop.get("max_epochs", loop.get("max_iters")))} epochs']
    if 'max_iters' in loop:
        texts = [f'{loop["max_iters"]} steps']
    schedule = protocol.get('schedule') or []
    for step in [schedule] if isinstance(schedule, Mapping) else schedule:
        unit = 'epochs' if step.get('by_epoch', True) else 'steps'
        if step['type'] == 'LinearLR':
            texts.append(
                f'warm-up of {text_of(step.get("end"))} {unit} from {text_of(step.get("start_factor"))}'
            )
        elif step['type'] == 'MultiStepLR':
            places = ' and '.join(map(text_of, step.get('milestones', ())))
            texts.append(f'lr x {text_of(step.get("gamma", 0.1))} after {places} {unit}')
        elif step['type'] == 'CosineAnnealingLR':
            texts.append(f'cosine over {text_of(step.get("T_max"))} {unit}')
        else:
            texts.append(' '.join([step['type'], *_rest(step, 'type')]))
    return ', '.join(texts)


def _learning_rate(protocol: Protocol) -> str:
    rate, choice = _get(protocol, 'optimiser.optimizer.lr'), protocol.get('lr_choice')
    if choice:
        among = ', '.join(map(text_of, choice['among']))
        text = f'chosen for each network on {choice["split"]} among {among}'
    else:
        text = f'{text_of(rate)}, the same for every network'
    scaling = protocol.get('auto_scale_lr')
    if not (scaling and scaling.get('enable')):
        return text
    factor = protocol['batch_size'] / scaling['base_batch_size']
    text += f'; times {factor:g} for the batch (the rate is for {scaling["base_batch_size"]} images)'
    return text if rate is None else f'{text}: {rate * factor:g}'


def _optimizer(protocol: Protocol) -> str:
    wrapper = protocol.get('optimiser') or {}
    optimizer = wrapper.get('optimizer') or {}
    texts = [text_of(optimizer.get('type')), *_rest(optimizer, 'type', 'lr')]
    texts += [text_of(wrapper['type'])] if wrapper.get('type', 'OptimWrapper') != 'OptimWrapper' else []
    return ' '.join([*texts, *_rest(wrapper, 'type', 'optimizer')])


def _initialization(protocol: Protocol) -> str:
    start = protocol.get('init')
    text = 'random weights' if start == 'none' else f'{start} weights'
    return text + (f', then the detector {protocol["load_from"]}' if protocol.get('load_from') else '')


def _tested(selection: Any) -> str:
    if isinstance(selection, Mapping):
        return f'the checkpoint that is best on val by {text_of(selection.get("save_best"))}'
    return f'the {text_of(selection)} checkpoint'
