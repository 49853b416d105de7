"""A protocol in words: its summary.

It is made from the protocol in a record (``compactdet.records.protocol``), so every run has one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from compactdet.errors import UserError
from compactdet.records import record_file

Protocol = Mapping[str, Any]


@dataclass(frozen=True)
class ProtocolSummary:
    """Summary of a protocol; the name of a field is its label."""

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

    def rows(self) -> Iterator[tuple[str, str]]:
        """Return labels and texts."""
        for entry in fields(self):
            label = entry.name.replace('_', ' ').replace('nms', 'NMS').replace('bn ', 'BN ')
            yield label, getattr(self, entry.name)


def summarize(protocol: Protocol) -> ProtocolSummary:
    """Return the summary of a protocol; '-' stands for missing settings.

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
        optimizer=_optimiser(protocol),
        initialization=_initialisation(protocol),
        evaluator=', '.join(
            ' '.join([f'{metric["type"]} of {metric["version"]}', *_rest(metric, 'type', 'version')])
            for metric in protocol.get('evaluator') or []
        )
        or '-',
        tested=_tested(protocol.get('selection')),
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
    return [f'{key}={text_of(item)}' for key, item in value.items() if key not in known]


def _innermost(loader: Any) -> Mapping[str, Any]:
    dataset = (loader or {}).get('dataset') or {}
    while 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset


def _splits(protocol: Protocol) -> str:
    shas = protocol.get('annotations') or {}
    said = [f'{name} (annotations {sha[: record_file.KEY_LENGTH]})' for name, sha in shas.items()]
    name = _get(_innermost(protocol.get('test_data')), 'metainfo.name')
    return ' '.join(filter(None, [name, ', '.join(said) or 'not read yet']))


def _training_boxes(dataset: Mapping[str, Any]) -> str:
    filters = dataset.get('filter_cfg') or {}
    said = []
    if filters.get('filter_empty_gt'):
        said.append('images without objects are excluded')
    said += _rest(filters, 'filter_empty_gt')
    if dataset.get('known_defects'):
        said.append(f'boxes without area of {len(dataset["known_defects"])} named images are dropped')
    return '; '.join(said) or 'all'


def _difficult(train: Mapping[str, Any]) -> str:
    assigner = train.get('rpn', train).get('assigner') or {}
    threshold = assigner.get('ignore_iof_thr', -1)
    if threshold > 0:
        return f'difficult and crowd: ignored, as are anchors with {threshold:g} of their area on them'
    return 'difficult and crowd: background'


def _in_pipelines(protocol: Protocol, kind: str, words: Callable[[Any], str]) -> str:
    said = []
    for name in ('train_data', 'test_data'):
        steps = _innermost(protocol.get(name)).get('pipeline') or []
        said.append('; '.join(words(step) for step in steps if step.get('type') == kind) or 'none')
    train, test = said
    return train if test in (train, 'none') else f'training: {train}; test: {test}'


def _resize(step: Mapping[str, Any]) -> str:
    sides = step.get('scale') or ()
    rest = _rest(step, 'type', 'scale', 'keep_ratio')
    if not step.get('keep_ratio') or len(sides) != 2:
        return ' '.join([f'to {text_of(sides)}', *rest])
    return ' '.join([f'shorter side {min(sides)}, longer at most {max(sides)} pixels', *rest])


def _flip(step: Mapping[str, Any]) -> str:
    chances, ways = step.get('prob'), step.get('direction', 'horizontal')
    pairs = zip(chances, ways, strict=True) if isinstance(chances, list) else [(chances, text_of(ways))]
    return ', '.join(f'{way} {text_of(chance)}' for chance, way in pairs)


def _anchors(protocol: Protocol) -> str:
    head = _get(protocol, 'model.rpn_head') or _get(protocol, 'model.bbox_head') or {}
    anchors = head.get('anchor_generator') or {}
    return ', '.join(_rest(anchors, 'type')) or '-'


def _proposals(train: Mapping[str, Any], test: Mapping[str, Any]) -> str:
    counts = {'training': train.get('rpn_proposal'), 'test': test.get('rpn')}
    said = [
        f'{name} {text_of(cfg.get("max_per_img"))} of the best {text_of(cfg.get("nms_pre"))}'
        for name, cfg in counts.items()
        if cfg
    ]
    return ', '.join(said) or f'none; the best {text_of(test.get("nms_pre"))} per level before NMS'


def _sampling(train: Mapping[str, Any]) -> str:
    said = []
    for part, thing in (('rpn', 'anchors'), ('rcnn', 'RoIs')):
        sampler = _get(train, f'{part}.sampler') or {}
        if sampler.get('num'):
            share = sampler.get('pos_fraction')
            said.append(f'{sampler["num"]} {thing} per image, at most {text_of(share)} of them positive')
    return ', '.join(said) or 'every anchor'


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
    frozen = backbone.get('frozen_stages', -1)
    return policy + ('; nothing else frozen' if frozen < 0 else f'; stem and {frozen} stages frozen')


def _schedule(protocol: Protocol) -> str:
    loop = protocol.get('loop') or {}
    said = [f'{text_of(loop.get("max_epochs", loop.get("max_iters")))} epochs']
    if 'max_iters' in loop:
        said = [f'{loop["max_iters"]} steps']
    for step in protocol.get('schedule') or []:
        unit = 'epochs' if step.get('by_epoch', True) else 'steps'
        if step['type'] == 'LinearLR':
            said.append(
                f'warm-up of {text_of(step.get("end"))} {unit} from {text_of(step.get("start_factor"))}'
            )
        elif step['type'] == 'MultiStepLR':
            places = ' and '.join(map(text_of, step.get('milestones', ())))
            said.append(f'lr x {text_of(step.get("gamma", 0.1))} after {places} {unit}')
        elif step['type'] == 'CosineAnnealingLR':
            said.append(f'cosine over {text_of(step.get("T_max"))} {unit}')
        else:
            said.append(' '.join([step['type'], *_rest(step, 'type')]))
    return ', '.join(said)


def _learning_rate(protocol: Protocol) -> str:
    rate, choice = _get(protocol, 'optimiser.optimizer.lr'), protocol.get('lr_choice')
    if choice:
        among = ', '.join(map(text_of, choice['among']))
        said = f'chosen for each network on {choice["split"]} among {among}'
    else:
        said = f'{text_of(rate)}, the same for every network'
    scaling = protocol.get('auto_scale_lr')
    if not scaling:
        return said
    factor = protocol['batch_size'] / scaling['base_batch_size']
    said += f'; times {factor:g} for the batch (the rate is for {scaling["base_batch_size"]} images)'
    return said if rate is None else f'{said}: {rate * factor:g}'


def _optimiser(protocol: Protocol) -> str:
    wrapper = protocol.get('optimiser') or {}
    optimizer = wrapper.get('optimizer') or {}
    said = [text_of(optimizer.get('type')), *_rest(optimizer, 'type', 'lr')]
    said += [text_of(wrapper['type'])] if wrapper.get('type', 'OptimWrapper') != 'OptimWrapper' else []
    return ' '.join([*said, *_rest(wrapper, 'type', 'optimizer')])


def _initialisation(protocol: Protocol) -> str:
    start = protocol.get('init')
    said = 'random weights' if start == 'none' else f'{start} weights'
    return said + (f', then the detector {protocol["load_from"]}' if protocol.get('load_from') else '')


def _tested(selection: Any) -> str:
    if isinstance(selection, Mapping):
        return f'the checkpoint that is best on val by {text_of(selection.get("by"))}'
    return f'the {text_of(selection)} checkpoint'
