"""The settings of a config that are not part of the protocol, each with its reason.

All other settings of the resolved config are part of it, also those that no table knows. A setting is named
by its place: its dotted path in the config. An item of a list has the name of its class in it
(``train_dataloader.dataset.pipeline.PackDetInputs.meta_keys``), or no name if it has no class; so has a
hook in ``default_hooks``. ``*`` matches dots too, and a place includes all places below it.
"""

import functools
import re
from collections.abc import Iterator, Mapping
from fnmatch import translate
from typing import Any

Patterns = tuple[str, ...]

_NETWORK = 'the network, which is compared; its name is in the record'
_WIDTH = 'follows from the widths of the network'
_SEED = 'the seed, which is in the record'
_PREPROCESSING = 'given as `preprocessing`, which states whether it is that of the weights'

# Settings that differ between runs of one protocol, and tell these runs apart.
OF_ONE_RUN = {
    'model.backbone.type': _NETWORK,
    'model.backbone.arch': _NETWORK,
    'model.backbone.out_strides': 'follows from the detector, whose heads state the strides',
    'model.backbone.normalise_taps': 'follows from the family of the network',
    'model.backbone.conventions': 'numerical conventions of the weights',
    'model.roi_head.shared_head.type': _NETWORK,
    'model.roi_head.shared_head.arch': _NETWORK,
    'model.roi_head.shared_head.in_stride': 'follows from the detector, whose heads state the strides',
    'model.roi_head.shared_head.conventions': 'numerical conventions of the weights',
    'model.*in_channels': _WIDTH,
    'model.*bbox_roi_extractor.out_channels': _WIDTH,
    'model.data_preprocessor.mean': _PREPROCESSING,
    'model.data_preprocessor.std': _PREPROCESSING,
    'model.data_preprocessor.bgr_to_rgb': _PREPROCESSING,
    'model.data_preprocessor.rgb_to_bgr': _PREPROCESSING,
    'randomness.seed': _SEED,
    'randomness.diff_rank_seed': 'seeds of the processes; the suite sets them',
    '*_dataloader.sampler.seed': _SEED,
    'load_from': 'location of a file; its name is given as `load_from`',
}

# Locations of files. Runs with the same content of these files are the same run.
DATA_LOCATIONS = {
    '*_dataloader.*.data_root': 'location of the data; their content is in `annotations`',
    '*_dataloader.*.ann_file': 'location of the data; their content is in `annotations`',
    '*_dataloader.*.data_prefix': 'location of the data; their content is in `annotations`',
    '*evaluator*.ann_file': 'location of the data; their content is in `annotations`',
}
INITIAL_WEIGHTS = {
    'model.backbone.init_cfg': 'the initial weights; their class is given as `init`',
    'model.roi_head.shared_head.init_cfg': 'the initial weights; their class is given as `init`',
    'model.backbone.init': 'the initial weights; their class is given as `init`',
}
LOCATIONS = {**DATA_LOCATIONS, **INITIAL_WEIGHTS}

_VARIABLE = 'a variable of the config file; the values in use are in other sections'
_LOG = 'log output only'
_SAVING = 'how the training is saved and resumed'
_SPEED = 'speed only'
_PREDICTIONS = 'location of the predictions'
_COLLECT = 'how processes collect results'

# Hooks that do not affect results, by name of the class.
HOOKS_WITHOUT_EFFECT = {
    **dict.fromkeys(
        (
            'IterTimerHook', 'LoggerHook', 'RuntimeInfoHook', 'LossHook', 'ProgressHook', 'ProfilerHook',
            'MemoryProfilerHook', 'DetVisualizationHook',
        ),
        _LOG,
    ),
    **dict.fromkeys(
        ('PreprocessingCheck', 'NumClassCheckHook', 'CheckInvalidLossHook'),
        'refuses a run, and changes none',
    ),
}  # fmt: skip

# Settings that do not affect results.
NO_EFFECT_ON_RESULTS = {
    'work_dir': 'location of the results',
    'experiment_name': _LOG,
    'log_level': _LOG,
    'log_processor': _LOG,
    'visualizer': _LOG,
    'launcher': 'how processes start; their number is in `batch_size`',
    'resume': _SAVING,
    'runner_type': 'tools/train.py always uses SafeRunner',
    'custom_imports': 'modules that register classes; the settings name the classes',
    'allow_leaks': 'images that are also training images are counted in `also_in_train`',
    'env_cfg.cudnn_benchmark': _SPEED,
    'env_cfg.mp_cfg': _SPEED,
    'env_cfg.dist_cfg': 'how processes communicate',
    'env_cfg.resource_limit': 'number of open files',
    'randomness.deterministic': 'the last bits of floating-point operations',
    **dict.fromkeys(
        (
            'data_root', 'dataset_type', 'metainfo', 'known_defects', 'how_to_get', 'backend_args',
            'train_pipeline', 'test_pipeline', 'vis_backends', 'norm_cfg', 'recipe',
        ),
        _VARIABLE,
    ),
    '*.metainfo.name': 'a name; the data are known by their content, in `annotations`',
    '*.metainfo.palette': 'colors of drawings',
    '*.backend_args': 'how files are read',
    '*.how_to_get': 'a message for the user',
    '*.meta_keys': 'metadata passed to drawing and evaluation',
    '*.lazy_init': 'time at which files are read',
    '*.serialize_data': 'memory layout of the entries',
    'cuda_graphs': _SPEED,
    '*_dataloader.num_workers': _SPEED,
    '*_dataloader.persistent_workers': _SPEED,
    '*_dataloader.pin_memory': _SPEED,
    '*_dataloader.prefetch_factor': _SPEED,
    'optim_wrapper.optimizer.foreach': _SPEED,
    'optim_wrapper.optimizer.fused': _SPEED,
    '*evaluator*.prefix': 'names of metrics in the log',
    '*evaluator*.out': _PREDICTIONS,
    '*evaluator*.outfile_prefix': _PREDICTIONS,
    '*evaluator*.collect_device': _COLLECT,
    '*evaluator*.collect_dir': _COLLECT,
    **{f'*_hooks.{name}': reason for name, reason in HOOKS_WITHOUT_EFFECT.items()},
    **{
        f'default_hooks.{name}.{key}': _SAVING
        for name in ('CheckpointHook', 'SafeCheckpointHook')
        for key in (
            'type', 'interval', 'by_epoch', 'minutes', 'max_keep_ckpts', 'save_last', 'save_begin',
            'priority',
        )
    },
}  # fmt: skip

# Sums over the processes; the config has the values of one process.
SUMS = {'train_dataloader.batch_size': 'given as `batch_size`, the sum over processes'}

# All settings that are not part of the protocol, and the reason of each.
NOT_PART_OF_PROTOCOL = {**OF_ONE_RUN, **LOCATIONS, **NO_EFFECT_ON_RESULTS, **SUMS}


def protocol_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a config that are part of the protocol.

    Args:
        content: The config in the types of JSON. ``default_hooks`` becomes a list.
    """
    return _without(_with_listed_hooks(content), tuple(NOT_PART_OF_PROTOCOL), '')


def run_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a config that define its run, without the locations of files.

    Args:
        content: As for ``protocol_settings``.
    """
    return _without(_with_listed_hooks(content), (*LOCATIONS, *NO_EFFECT_ON_RESULTS), '')


def data_locations(content: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the places of a config that name locations of the data, with their values."""
    return list(_matching(content, tuple(DATA_LOCATIONS), ''))


def place_of_item(item: Any, place: str) -> str:
    """Return the place of an item of a list.

    Args:
        item: The item.
        place: Place of the list.
    """
    name = item.get('type') if isinstance(item, Mapping) else None
    return f'{place}.{name}' if isinstance(name, str) else place


def _with_listed_hooks(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config in which ``default_hooks`` is a list in the order of the names, without None."""
    hooks = content.get('default_hooks')
    if not isinstance(hooks, Mapping):
        return dict(content)
    return {**content, 'default_hooks': [hook for _, hook in sorted(hooks.items()) if hook is not None]}


def _without(value: Any, excluded: Patterns, place: str) -> Any:
    """Return a value without the settings whose place matches one of the patterns."""
    if isinstance(value, list):
        items = [(item, place_of_item(item, place)) for item in value]
        return [
            _without(item, excluded, inner)
            for item, inner in items
            if inner == place or not _matches(excluded, inner)
        ]
    if not isinstance(value, Mapping):
        return value
    places = {key: f'{place}.{key}' if place else str(key) for key in value}
    return {
        key: _without(item, excluded, places[key])
        for key, item in value.items()
        if not _matches(excluded, places[key])
    }


def _matching(value: Any, patterns: Patterns, place: str) -> Iterator[tuple[str, Any]]:
    """Yield the parts of a value whose place matches one of the patterns."""
    if place and _matches(patterns, place):
        yield place, value
    elif isinstance(value, list):
        for item in value:
            yield from _matching(item, patterns, place_of_item(item, place))
    elif isinstance(value, Mapping):
        for key, item in sorted(value.items()):
            yield from _matching(item, patterns, f'{place}.{key}' if place else str(key))


@functools.lru_cache(maxsize=10_000)
def _matches(patterns: Patterns, place: str) -> bool:
    return _pattern(patterns).match(place) is not None


@functools.cache
def _pattern(patterns: Patterns) -> re.Pattern[str]:
    return re.compile('|'.join(map(translate, patterns)))
