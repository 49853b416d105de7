"""The protocol has no holes: every setting of a config is in it, or the table names it with a reason."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from backbones import get_arch
from backbones.weights import Pretraining, WeightsInfo, save_weights
from compactdet.config.choice import DetectorChoice
from compactdet.config.options import TrainOptions, config_from_options
from compactdet.errors import UserError
from compactdet.records import record_file
from compactdet.records.protocol import current_protocol, protocol_of
from compactdet.records.protocol_diff import find_differences
from compactdet.records.protocol_table import NOT_PART_OF_PROTOCOL, place_of_item
from compactdet.records.record_file import content_key

TEMPLATE = Path(__file__).parents[2] / 'work_dirs_template'
BCCD = TEMPLATE / 'bccd_imagenet_seed0' / 'record.json'
SPLITS: Any = {
    name: {'annotations_sha256': letter * 64} for name, letter in (('train', 'a'), ('test', 'b'))
}
Keys = tuple[Any, ...]


def config(detector: str = 'frcnn_c4', **options: Any) -> Any:
    """Return the resolved config of a run from random weights, with nested data set wrappers."""
    choice = DetectorChoice('shufflenetv2_1x', detector, 'voc07')
    return config_from_options(TrainOptions(choice, init='none', **options))


def key_of(content: dict[str, Any]) -> str:
    return content_key(protocol_of_content(content))


def protocol_of_content(content: dict[str, Any]) -> dict[str, Any]:
    cfg: Any = SimpleNamespace(to_dict=lambda: content)
    return protocol_of(cfg, SPLITS, 'none')


def walk(value: Any, path: Keys = (), place: str = '') -> Iterator[tuple[Keys, str, Any]]:
    """Yield the path, the place as in the table, and the value of each part of a config, also of lists."""
    if path:
        yield path, place, value
    if isinstance(value, dict):
        for key, item in value.items():
            inner = f'{place}.{key}'.lstrip('.')
            if place == 'default_hooks':  # hooks are named by their class
                inner = place_of_item(item, place)
            yield from walk(item, (*path, key), inner)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from walk(item, (*path, index), place_of_item(item, place))


def is_named(place: str) -> bool:
    parts = place.split('.')
    places = ['.'.join(parts[: n + 1]) for n in range(len(parts))]
    return any(fnmatchcase(inner, pattern) for inner in places for pattern in NOT_PART_OF_PROTOCOL)


def changed_values(value: Any, place: str) -> list[Any]:
    """Return other values of a leaf, or of a list or dict: with an added key, or in another order."""
    if isinstance(value, dict):
        return [{**value, 'a_setting_that_nobody_knows': 1}]
    if isinstance(value, list | tuple):
        inner = [(item, place_of_item(item, place)) for item in value]
        free = [item for item, name in inner if name == place or not is_named(name)]
        return [[*value, 7], *([value[::-1]] if free[::-1] != free else [])]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int | float):
        return [value + 1]
    return ['x'] if value is None else [f'{value}x']


def changes(content: dict[str, Any], before: str, path: Keys, new: Any) -> bool:
    """Return True if a new value at a path changes the key, or is refused; the content stays as it is."""
    owner = content
    for key in path[:-1]:
        owner = owner[key]
    kept = owner[path[-1]]
    owner[path[-1]] = new
    try:
        return key_of(content) != before
    except UserError:  # a metric that does not exist
        return True
    finally:
        owner[path[-1]] = kept


def as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return [as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def nested(content: dict[str, Any]) -> dict[str, Any]:
    """Return a config with wrapped training data, wrapped transforms, and more hooks."""
    loader = content['train_dataloader']
    loader['dataset']['pipeline'].insert(
        2, {'type': 'RandomApply', 'transforms': [{'type': 'Color', 'parts': [[1, 2], [3]]}], 'prob': 0.5}
    )
    loader['dataset'] = {
        'type': 'RepeatDataset',
        'times': 3,
        'dataset': {'type': 'ConcatDataset', 'ignore_keys': ['name'], 'datasets': [loader['dataset']]},
    }
    content['custom_hooks'].append({'type': 'EarlyStoppingHook', 'monitor': 'voc/ap50_area', 'patience': 2})
    content['default_hooks']['ema'] = {'type': 'EMAHook', 'momentum': 0.001}
    return content


def test_every_leaf_is_in_the_protocol_or_named() -> None:
    """Change every part of the configs in turn: the key changes, or the table names the place."""
    seen = set()
    holes, named, in_protocol = [], 0, 0
    for detector in ('frcnn_c4', 'frcnn_fpn', 'retinanet_fpn'):
        content = as_lists(config(detector).to_dict())
        content = nested(content) if detector == 'frcnn_c4' else content
        before = key_of(content)
        for path, place, value in walk(copy.deepcopy(content)):
            if (path, repr(value)) in seen:  # the parts that detectors share
                continue
            seen.add((path, repr(value)))
            if is_named(place):
                named += 1
                continue
            in_protocol += 1
            holes += [
                (path, new)
                for new in changed_values(value, place)
                if not changes(content, before, path, new)
            ]
    assert holes == []
    assert in_protocol > 300
    assert named > 50


def key_with(options: dict[str, Any], **init: Any) -> str:
    return key_of(config(**init, cfg_options=options).to_dict())


def test_every_hook_that_may_affect_results_is_in_the_protocol() -> None:
    usual = [{'type': 'PreprocessingCheck'}, {'type': 'ProgressHook'}]
    early = {'type': 'EarlyStoppingHook', 'monitor': 'voc/ap50_area'}
    keys = {
        key_with({}),
        key_with({'custom_hooks': [*usual, early]}),
        key_with({'custom_hooks': [*usual, {**early, 'patience': 2}]}),
        key_with({'custom_hooks': [*usual, {'type': 'EMAHook'}]}),
        key_with({'default_hooks.param_scheduler': None}),
        key_with({'default_hooks.sampler_seed': None}),
    }
    assert len(keys) == 6
    assert key_with({'custom_hooks': usual[1:]}) == key_with({'default_hooks.logger.interval': 1}) in keys
    content = config().to_dict()
    content['default_hooks']['logger'] = {'type': 'LoggerHookThatTrains'}  # in the place of a known hook
    assert key_of(content) not in keys


def test_preprocessing_that_is_not_that_of_the_weights(tmp_path: Path) -> None:
    usual = config().to_dict()
    content = copy.deepcopy(usual)
    content['model']['data_preprocessor']['mean'] = [127.5, 127.5, 127.5]
    assert protocol_of_content(usual)['preprocessing'] == 'that of the weights'
    assert protocol_of_content(content)['preprocessing']['mean'] == [127.5, 127.5, 127.5]
    row = get_arch('shufflenetv2_1x').preprocessing
    file = tmp_path / 'weights.safetensors'
    own = replace(row, mean=(127.5, 127.5, 127.5))
    info = WeightsInfo(
        arch='shufflenetv2_1x', pretraining=Pretraining(data='ImageNet'), preprocessing=own, source='a test'
    )
    save_weights(file, {'a': torch.zeros(1)}, info)
    for one in (usual, content):
        one['model']['backbone']['init_cfg'] = {'type': 'ClassifierWeights', 'checkpoint': str(file)}
    assert protocol_of_content(content)['preprocessing'] == 'that of the weights'
    assert protocol_of_content(usual)['preprocessing']['mean'] == list(row.mean)


def test_data_are_known_by_their_content() -> None:
    content = config().to_dict()
    before = key_of(content)
    for name in ('train', 'test'):
        dataset = content[f'{name}_dataloader']['dataset']
        dataset |= {'data_root': '/scratch/job_2', 'ann_file': f'{name}.txt'}
        dataset['metainfo'] = {**dataset.get('metainfo', {}), 'name': 'job_2'}
    assert find_differences(protocol_of_content(config().to_dict()), protocol_of_content(content)) == []
    other: Any = {**SPLITS, 'test': {'annotations_sha256': 'c' * 64}}
    cfg: Any = SimpleNamespace(to_dict=lambda: content)
    assert content_key(protocol_of(cfg, other, 'none')) != before


# Protocols of older records


def test_older_records_keep_their_groups() -> None:
    new_keys: dict[str, set[str]] = {}
    for file in TEMPLATE.rglob('record.json'):
        stored = json.loads(file.read_text(encoding='utf-8'))
        if not record_file.is_pretraining_record(stored) and 'rule' not in stored['protocol']:
            made = current_protocol(stored['protocol'], stored['config']['text'], str(file))
            new_keys.setdefault(stored['keys']['protocol'], set()).add(content_key(made))
    record = record_file.read(BCCD)
    assert record['protocol']['rule'] == 2
    assert {record['keys']['protocol']} == new_keys[json.loads(BCCD.read_text())['keys']['protocol']]
    assert len(new_keys) >= 10
    assert {len(keys) for keys in new_keys.values()} == {1}
    assert len(set.union(*new_keys.values())) == len(new_keys)


def test_an_older_record_with_a_hook_that_its_protocol_left_out() -> None:
    stored = json.loads(BCCD.read_text(encoding='utf-8'))
    protocol, text = stored['protocol'], stored['config']['text']
    early = "dict(type='EarlyStoppingHook', monitor='voc/ap50_area'),"
    changed = text.replace('custom_hooks = [', f'custom_hooks = [{early}', 1)
    assert changed != text
    one, other = current_protocol(protocol, text, 'a'), current_protocol(protocol, changed, 'b')
    assert [d.words for d in find_differences(one, other)] == [
        'hooks that can affect results: EarlyStoppingHook'
    ]
    assert current_protocol(one, 'not a config', 'a') is one
    assert current_protocol({'init': 'none'}, 'not a config', 'a') == {'init': 'none'}
