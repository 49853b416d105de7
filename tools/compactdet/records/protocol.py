"""The protocol of a run: everything that must be equal for two results to be ranked together.

It is taken from the resolved config. Sections are included as a whole, and settings that do not affect
results are excluded by name, so that an unforeseen option separates two results instead of letting them be
compared. The tables below are the complete rule.
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

# The convention of boxes; a change of it is a change of protocol.
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

# Settings that are not part of the protocol: pattern of a dotted path in the config (`*` matches dots too),
# and the reason.
NOT_PART_OF_PROTOCOL = {
    'model.backbone.*': 'the network, which is what is compared',
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
    dataset_splits: Mapping[str, Mapping[str, Any]],
    init_class: str,
    world_size: int = 1,
) -> dict[str, Any]:
    """Return the protocol of the run that a resolved config describes.

    Args:
        cfg: The config, with overrides merged.
        dataset_splits: ``dataset.splits`` of the record, for the hashes of the annotations.
        init_class: Class of initialization, such as 'ImageNet' or 'none'.
        world_size: Number of processes; the batch size is the sum over them.
    """
    whole = _plain(cfg.to_dict())
    loader = whole.get('train_dataloader') or {}
    optimizer = whole.get('optim_wrapper') or {}
    protocol = {
        'annotations': {
            name: split['annotations_sha256'] for name, split in sorted(dataset_splits.items())
        },
        'boxes': BOXES,
        'init': init_class,
        'amp': optimizer.get('type') == 'AmpOptimWrapper',
        'batch_size': loader.get('batch_size', 1) * world_size,
        'evaluator': _evaluators(whole.get('test_evaluator')),
        'selection': _selection(whole),
        'hooks': [h for h in whole.get('custom_hooks') or [] if h['type'] in HOOKS_THAT_TRAIN],
    }
    # Without SyncBN, each process has its own statistics.
    if world_size > 1 and _trains_bn(whole.get('model')):
        protocol['bn_images'] = loader.get('batch_size', 1)
    scaling = whole.get('auto_scale_lr') or {}
    if scaling.get('enable'):
        protocol['auto_scale_lr'] = scaling
    for name, section in SECTIONS.items():
        protocol[name] = _strip(whole.get(section), section)
    choice = whole.get('lr_choice')
    if choice:  # the rule is part of the protocol, not the rate of each network
        protocol['lr_choice'] = choice
        protocol['optimiser']['optimizer'].pop('lr')
    if whole.get('load_from') and not whole.get('resume'):
        protocol['load_from'] = PurePath(whole['load_from']).name
    return protocol


def parse_lr_choice(text: str, lr: float | None) -> dict[str, Any]:
    """Parse how a learning rate was chosen: ``val:0.001,0.002,0.004``.

    Args:
        text: The split on which the rate was chosen, and all rates that were tried.
        lr: The chosen rate.

    Raises:
        ValueError: The text is not of that form, or ``lr`` is not among the rates.
    """
    split, _, rates = text.partition(':')
    try:
        among = sorted({float(rate) for rate in rates.split(',')})
    except ValueError:
        among = []
    if split not in ('train', 'val', 'test') or len(among) < 2:
        raise ValueError(
            f'{text!r} is not SPLIT:LR,LR,... with at least two rates, such as val:0.001,0.002'
        )
    if lr not in among:
        raise ValueError(f'{text!r}: --lr {lr} is not one of these rates; give the chosen one')
    return {'split': split, 'among': among}


def _trains_bn(model: Any) -> bool:
    """Return True if a part of a detector takes its BN statistics from the batch."""
    if not isinstance(model, Mapping):
        return False
    return model.get('bn_policy') == 'train' or any(_trains_bn(part) for part in model.values())


def _plain(value: Any) -> Any:
    """Return values in the types of JSON; 1 and 1.0 become one number, tuples become lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return getattr(value, '__name__', None) or str(value)  # a class or a function


def _strip(value: Any, place: str) -> Any:
    """Return the value without excluded settings; the items of a list have the path of the list."""
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
    """Return each metric's options with the version of its code."""
    metrics = evaluator if isinstance(evaluator, list) else [evaluator] if evaluator else []
    return [
        {**_strip(metric, 'test_evaluator'), 'version': evaluator_version(metric['type'])}
        for metric in metrics
    ]


def evaluator_version(name: str) -> str:
    """Return the version of a registered metric: of the suite's evaluator, or else of its package.

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


def _selection(whole: Mapping[str, Any]) -> Any:
    """Return how the tested checkpoint is selected: by a metric on val, or it is the last one."""
    hook = (whole.get('default_hooks') or {}).get('checkpoint') or {}
    if not hook.get('save_best'):
        return 'last'
    loop = whole.get('train_cfg') or {}
    return {'by': hook['save_best'], **{k: loop.get(k) for k in ('val_begin', 'val_interval')}}
