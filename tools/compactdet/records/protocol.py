"""The protocol of a run: everything that must be equal for two results to be ranked together.

It consists of the settings of the resolved config, except those that ``compactdet.records.protocol_table``
names, and of the facts that the config does not state: the content of the data, the initialization, and
versions. The protocols of older records are made anew from their configs, see ``current_protocol``.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from compactdet.config.resolved import read_comparable_config
from compactdet.errors import UserError
from compactdet.records.protocol_table import protocol_settings
from compactdet.records.record_types import Protocol, Split

if TYPE_CHECKING:
    from mmengine.config import Config

# Version of the rule by which protocols are made.
RULE = 2

# Convention of box coordinates. A change of it changes the protocol.
BOXES = 'continuous x1 y1 x2 y2 in pixels from the top left corner; VOC: xmin-1 ymin-1 xmax ymax'

# Sections of the config whose name in the protocol is another one.
SECTIONS = {
    'model': 'model',
    'train_data': 'train_dataloader',
    'val_data': 'val_dataloader',
    'test_data': 'test_dataloader',
    'optimiser': 'optim_wrapper',
    'schedule': 'param_scheduler',
    'loop': 'train_cfg',
}

# Facts of a protocol that the config does not state.
FACTS = ('annotations', 'also_in_train', 'boxes', 'init', 'batch_size', 'bn_images', 'load_from')

# Preprocessing of the initial weights; with random weights, that of the row of the network.
USUAL_PREPROCESSING = 'that of the weights'


def protocol_of(
    cfg: Config,
    dataset_splits: Mapping[str, Split],
    init_class: str,
    world_size: int = 1,
) -> Protocol:
    """Return the protocol of the run of a resolved config.

    Args:
        cfg: The config, with overrides merged.
        dataset_splits: ``dataset.splits`` of the record. The hashes of the annotations are used, and the
            numbers of images that are also training images.
        init_class: Class of initialization: ``init.class`` of the record.
        world_size: Number of processes; the batch size is the sum over them.

    Raises:
        UserError: A metric of ``test_evaluator`` is not registered.
        WeightsError: The initial weights cannot be read.
    """
    content = _as_json(cfg.to_dict())
    images = (content.get('train_dataloader') or {}).get('batch_size', 1)
    in_train = {name: len(split.get('also_in_train', ())) for name, split in dataset_splits.items()}
    facts = {
        'annotations': {
            name: split['annotations_sha256'] for name, split in sorted(dataset_splits.items())
        },
        'also_in_train': {name: count for name, count in in_train.items() if count},
        'boxes': BOXES,
        'init': init_class,
        'batch_size': images * world_size,
        # Without SyncBN, each process has its own statistics.
        'bn_images': images if world_size > 1 and _trains_bn(content.get('model')) else None,
        'load_from': None if content.get('resume') else content.get('load_from'),
    }
    return _protocol(content, facts, evaluator_version, _preprocessing(content))


def current_protocol(protocol: Protocol, config_text: str, source: str) -> Protocol:
    """Return a stored protocol by the present rule.

    A protocol by an earlier rule is made anew from the config of its run; what the config does not state
    is taken from the stored protocol. A protocol that no training wrote is returned unchanged.

    Args:
        protocol: The stored protocol.
        config_text: Text of the resolved config.
        source: Name of the text in messages.

    Raises:
        UserError: The text is not that of a config.
    """
    if protocol.get('rule') == RULE or not {'boxes', 'annotations', 'test_data'} <= protocol.keys():
        return protocol
    content = _as_json(read_comparable_config(config_text, source))
    versions = {metric['type']: metric['version'] for metric in protocol['evaluator']}
    # With the hook, weights with another preprocessing were refused.
    checked = {'type': 'PreprocessingCheck'} in (content.get('custom_hooks') or [])
    preprocessing = USUAL_PREPROCESSING if checked or protocol['init'] == 'none' else None
    facts = {name: protocol.get(name) for name in FACTS}
    return _protocol(content, facts, versions.__getitem__, preprocessing)


def _protocol(
    content: Mapping[str, Any],
    facts: Mapping[str, Any],
    version_of: Callable[[str], str],
    preprocessing: str | None,
) -> Protocol:
    """Return the protocol of a config in the types of JSON.

    Args:
        content: The config.
        facts: Values by name from `FACTS`; empty ones are left out.
        version_of: Returns the version of a metric's code.
        preprocessing: Name of the preprocessing; None to state it in figures.
    """
    settings = protocol_settings(content)
    selection, hooks = _hooks(settings.pop('default_hooks', []), settings.pop('custom_hooks', []))
    optimizer = content.get('optim_wrapper') or {}
    protocol: Protocol = {
        'rule': RULE,
        **{name: value for name, value in facts.items() if value or name == 'annotations'},
        'preprocessing': preprocessing or _stated_preprocessing(content),
        'amp': optimizer.get('type') in ('AmpOptimWrapper', 'Bf16OptimWrapper'),
        'evaluator': [
            {**metric, 'version': version_of(metric['type'])}
            for metric in _as_list(settings.pop('test_evaluator', None))
        ],
        'selection': selection,
        'hooks': hooks,
    }
    if protocol.get('load_from'):
        protocol['load_from'] = PurePath(protocol['load_from']).name
    protocol |= {name: settings.pop(section, None) for name, section in SECTIONS.items()}
    # The rule is part of the protocol, the rate of each network is not.
    if settings.get('lr_choice'):
        protocol['optimiser']['optimizer'].pop('lr')
    return protocol | {name: value for name, value in settings.items() if value not in (None, {}, [])}


def _hooks(default: list[Any], custom: Any) -> tuple[Any, list[Any]]:
    """Return how the tested checkpoint is selected ('last' or settings), and the hooks in order."""
    # Without its settings on saving, the checkpoint hook has no type left.
    selections = [hook for hook in default if isinstance(hook, Mapping) and 'type' not in hook]
    selection = next(filter(None, selections), 'last')
    return selection, [hook for hook in default if hook not in selections] + (custom or [])


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if value else []


def _preprocessing(content: Mapping[str, Any]) -> str | None:
    """Return `USUAL_PREPROCESSING` if a config has the preprocessing of its weights, or None.

    Random weights, and weights that do not exist yet, have the preprocessing of the row of the network, as
    in ``wiring.set_init``.

    Raises:
        WeightsError: The weights cannot be read.
    """
    # here: loads PyTorch
    from backbones import get_arch
    from backbones.spec import UnknownArchError
    from backbones.weights import read_info
    from backbones.wiring import data_preprocessor

    backbone = (content.get('model') or {}).get('backbone') or {}
    checkpoint = (backbone.get('init_cfg') or {}).get('checkpoint')
    if checkpoint and Path(checkpoint).is_file():
        wanted = read_info(checkpoint).preprocessing
    else:
        try:
            wanted = get_arch(backbone.get('arch', '')).preprocessing
        except UnknownArchError:  # a backbone of another package
            return None
    usual = _stated_preprocessing({'model': {'data_preprocessor': data_preprocessor(wanted)}})
    return USUAL_PREPROCESSING if _close(_stated_preprocessing(content), usual) else None


def _stated_preprocessing(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return mean, standard deviation and order of channels that a config states."""
    stated = (content.get('model') or {}).get('data_preprocessor') or {}
    swaps = {key: stated.get(key, False) for key in ('bgr_to_rgb', 'rgb_to_bgr')}
    return {'mean': stated.get('mean'), 'std': stated.get('std'), **swaps}


def _close(one: Any, other: Any) -> bool:
    """Return True if two values are equal, numbers up to the precision of float32."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_close(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_close, one, other))
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-5, abs_tol=1e-5)
    return one == other


def _trains_bn(model: Any) -> bool:
    """Return True if a part of a detector takes its BN statistics from the batch."""
    if not isinstance(model, Mapping):
        return False
    return model.get('bn_policy') == 'train' or any(_trains_bn(part) for part in model.values())


def _as_json(value: Any) -> Any:
    """Return a value in the types of JSON: tuples become lists, 1.0 becomes 1, classes become names."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, '__name__', None) or str(value)  # a class or a function


def evaluator_version(name: str) -> str:
    """Return the version of a registered metric: of the suite's evaluator, or of the metric's package.

    Raises:
        UserError: No metric of that name is registered.
    """
    # here: loads MMDetection
    from compactdet.evaluation import evaluate
    from compactdet.mmdetection import METRICS

    metric = METRICS.get(name)
    if metric is None:
        raise UserError(f'test_evaluator: no metric {name!r} is registered')
    package = metric.__module__.split('.')[0]
    if package == 'compactdet':
        return f'bench {evaluate.VERSION}'
    return f'{package} {getattr(importlib.import_module(package), "__version__", "unknown")}'
