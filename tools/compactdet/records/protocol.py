"""The protocol of a run: everything that must be equal for two results to be ranked together.

It consists of sections of the resolved config. Settings that do not affect results are excluded by name;
all others are included, so that results with a new option are not ranked together with results without it.
The tables below are the complete rule.
"""

import importlib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePath
from typing import Any

from mmengine.config import Config

from compactdet.errors import UserError
from compactdet.evaluation import evaluate
from compactdet.mmdetection import METRICS
from compactdet.records.record_types import Protocol, Split

# Convention of box coordinates. A change of it changes the protocol.
BOXES = 'continuous x1 y1 x2 y2 in pixels from the top left corner; VOC: xmin-1 ymin-1 xmax ymax'

# Sections of the config that affect results, by their name in the protocol.
SECTIONS = {
    'model': 'model',
    'train_data': 'train_dataloader',
    'test_data': 'test_dataloader',
    'optimiser': 'optim_wrapper',
    'schedule': 'param_scheduler',
    'loop': 'train_cfg',
}

# Settings that are not part of the protocol: a pattern of their dotted path in the config (`*` matches dots
# too), and the reason.
NOT_PART_OF_PROTOCOL = {
    'model.backbone.*': 'the network, which is compared',
    'model.roi_head.shared_head.*': 'the network: the stage head',
    'model.data_preprocessor.mean': 'belongs to the weights',
    'model.data_preprocessor.std': 'belongs to the weights',
    'model.data_preprocessor.bgr_to_rgb': 'belongs to the weights',
    'model.data_preprocessor.rgb_to_bgr': 'belongs to the weights',
    'model.*in_channels': 'follows from the widths of the network',
    'model.*bbox_roi_extractor.out_channels': 'follows from the widths of the network',
    '*.data_root': 'location of the files; their content is in the annotation hash',
    '*.ann_file': 'location of the files; their content is in the annotation hash',
    '*.data_prefix': 'location of the files',
    '*.backend_args': 'how files are read',
    '*.how_to_get': 'a message for the user',
    '*.metainfo.palette': 'colors of drawings',
    '*.meta_keys': 'metadata passed to drawing and evaluation',
    '*.lazy_init': 'time at which files are read',
    '*.serialize_data': 'memory layout of the entries',
    'train_dataloader.batch_size': 'included as `batch_size`, the sum over processes',
    '*_dataloader.num_workers': 'speed only',
    '*_dataloader.persistent_workers': 'speed only',
    '*_dataloader.pin_memory': 'speed only',
    '*_dataloader.prefetch_factor': 'speed only',
    '*_dataloader.sampler.seed': 'the seed',
    'optim_wrapper.optimizer.foreach': 'speed only',
    'optim_wrapper.optimizer.fused': 'speed only',
    'train_cfg.val_interval': 'included only if it selects the checkpoint: see `selection`',
    'train_cfg.val_begin': 'included only if it selects the checkpoint: see `selection`',
    '*evaluator*.prefix': 'names of metrics in the log',
    '*evaluator*.out': 'location of the predictions',
    '*evaluator*.outfile_prefix': 'location of the predictions',
    '*evaluator*.collect_device': 'how processes collect results',
    '*evaluator*.collect_dir': 'how processes collect results',
    '*._scope_': 'registry in which a class is looked up',
}

# Exceptions: options of the network classes that concern the detector.
PART_OF_PROTOCOL = (
    'model.backbone.bn_policy',
    'model.backbone.frozen_stages',
    'model.backbone.frozen_stride',
    'model.backbone.norm_eval',  # BN policy of MMDetection's own backbones
    'model.backbone.norm_cfg*',
    'model.roi_head.shared_head.bn_policy',
    'model.roi_head.shared_head.stride',  # with 1, the RoI feature map keeps its size in the head
    'model.roi_head.shared_head.norm_eval',
    'model.roi_head.shared_head.norm_cfg*',
)

# Hooks that affect training. All others only observe, log or save.
HOOKS_THAT_TRAIN = ('EMAHook', 'PipelineSwitchHook', 'YOLOXModeSwitchHook')


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
    """
    content = _as_json(cfg.to_dict())
    loader = content.get('train_dataloader') or {}
    optimizer = content.get('optim_wrapper') or {}
    protocol = {
        'annotations': {
            name: split['annotations_sha256'] for name, split in sorted(dataset_splits.items())
        },
        'boxes': BOXES,
        'init': init_class,
        'amp': optimizer.get('type') in ('AmpOptimWrapper', 'Bf16OptimWrapper'),
        'batch_size': loader.get('batch_size', 1) * world_size,
        'evaluator': _evaluators(content.get('test_evaluator')),
        'selection': _selection(content),
        'hooks': [h for h in content.get('custom_hooks') or [] if h['type'] in HOOKS_THAT_TRAIN],
    }
    in_train = {name: len(split.get('also_in_train', ())) for name, split in dataset_splits.items()}
    if any(in_train.values()):
        protocol['also_in_train'] = {name: count for name, count in in_train.items() if count}
    # Without SyncBN, each process has its own statistics.
    if world_size > 1 and _trains_bn(content.get('model')):
        protocol['bn_images'] = loader.get('batch_size', 1)
    scaling = content.get('auto_scale_lr') or {}
    if scaling.get('enable'):
        protocol['auto_scale_lr'] = scaling
    for name, section in SECTIONS.items():
        protocol[name] = _strip(content.get(section), section)
    choice = content.get('lr_choice')
    if choice:  # the rule is part of the protocol, the rate of each network is not
        protocol['lr_choice'] = choice
        protocol['optimiser']['optimizer'].pop('lr')
    if content.get('load_from') and not content.get('resume'):
        protocol['load_from'] = PurePath(content['load_from']).name
    return protocol


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


def _strip(value: Any, place: str) -> Any:
    """Return a value without the excluded settings. The items of a list have the path of the list."""
    if isinstance(value, list):
        return [_strip(item, place) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, item in value.items():
        inner = f'{place}.{key}'
        if _matches(inner, PART_OF_PROTOCOL) or not _matches(inner, tuple(NOT_PART_OF_PROTOCOL)):
            kept[key] = _strip(item, inner)
    return kept


def _matches(place: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(place, pattern) for pattern in patterns)


def _evaluators(evaluator: Any) -> list[dict[str, Any]]:
    """Return the options of each metric with the version of its code."""
    metrics = evaluator if isinstance(evaluator, list) else [evaluator] if evaluator else []
    return [
        {**_strip(metric, 'test_evaluator'), 'version': evaluator_version(metric['type'])}
        for metric in metrics
    ]


def evaluator_version(name: str) -> str:
    """Return the version of a registered metric: of the suite's evaluator, or of the metric's package.

    Raises:
        UserError: No metric of that name is registered.
    """
    metric = METRICS.get(name)
    if metric is None:
        raise UserError(f'test_evaluator: no metric {name!r} is registered')
    package = metric.__module__.split('.')[0]
    if package == 'compactdet':
        return f'bench {evaluate.VERSION}'
    return f'{package} {getattr(importlib.import_module(package), "__version__", "unknown")}'


def _selection(content: Mapping[str, Any]) -> Any:
    """Return how the tested checkpoint is selected: 'last', or by which metric on val and how often."""
    hook = (content.get('default_hooks') or {}).get('checkpoint') or {}
    if not hook.get('save_best'):
        return 'last'
    loop = content.get('train_cfg') or {}
    return {'by': hook['save_best'], **{k: loop.get(k) for k in ('val_begin', 'val_interval')}}
