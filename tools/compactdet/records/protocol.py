"""The protocol of a run: all that must be equal for two results to be ranked together.

It is read off the resolved config, not written by hand: a section is taken whole and what must not
count is left out by name, so that an option nobody thought of separates two rows rather than letting
them be compared. The tables below are the whole rule.
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

# What a result's boxes are; a change of convention is a change of protocol.
BOXES = 'continuous x1 y1 x2 y2 in pixels from the top left corner; VOC: xmin-1 ymin-1 xmax ymax'

# Sections of the config that move a result, by their name in the protocol.
SECTIONS = {
    'model': 'model',
    'train_data': 'train_dataloader',
    'test_data': 'test_dataloader',
    'optimiser': 'optim_wrapper',
    'schedule': 'param_scheduler',
    'loop': 'train_cfg',
}

# Pattern of a dotted path in the config (`*` crosses dots): why it does not count.
LEFT_OUT = {
    'model.backbone.*': 'the network, or how its weights were trained; that is what is compared',
    'model.roi_head.shared_head.*': 'the network; its second half',
    'model.data_preprocessor.mean': 'travels with the weights',
    'model.data_preprocessor.std': 'travels with the weights',
    'model.data_preprocessor.bgr_to_rgb': 'travels with the weights',
    'model.data_preprocessor.rgb_to_bgr': 'travels with the weights',
    'model.*in_channels': "follows from the network's widths",
    'model.*bbox_roi_extractor.out_channels': "follows from the network's widths",
    '*.data_root': 'where the files lie; their content is in the annotation hash',
    '*.ann_file': 'where the files lie; their content is in the annotation hash',
    '*.data_prefix': 'where the files lie',
    '*.backend_args': 'how the files are read',
    '*.how_to_get': 'a text for the user',
    '*.metainfo.palette': 'colours of drawings',
    '*.meta_keys': 'what a pipeline passes on to drawing and evaluation',
    '*.lazy_init': 'when the files are read',
    '*.serialize_data': 'how entries are kept in memory',
    'train_dataloader.batch_size': 'counts as `batch_size`, the sum over processes',
    '*_dataloader.num_workers': 'speed only',
    '*_dataloader.persistent_workers': 'speed only',
    '*_dataloader.pin_memory': 'speed only',
    '*_dataloader.prefetch_factor': 'speed only',
    '*_dataloader.sampler.seed': 'the seed',
    'optim_wrapper.optimizer.foreach': 'speed only: how the same step is computed',
    'optim_wrapper.optimizer.fused': 'speed only: how the same step is computed',
    'train_cfg.val_interval': 'counts only where it chooses the checkpoint: see `selection`',
    'train_cfg.val_begin': 'counts only where it chooses the checkpoint: see `selection`',
    '*evaluator*.prefix': 'names of figures in the log',
    '*evaluator*.out': 'where the predictions go',
    '*evaluator*.outfile_prefix': 'where the predictions go',
    '*evaluator*.collect_device': 'how processes gather their results',
    '*evaluator*.collect_dir': 'how processes gather their results',
    '*._scope_': 'where MMEngine looks a class up',
}

# Exceptions: options of the network's classes that are the detector's business.
COUNTED = (
    'model.backbone.bn_policy',
    'model.backbone.frozen_stages',
    'model.backbone.norm_eval',  # MMDetection's own backbones say their BN policy with these two
    'model.backbone.norm_cfg*',
    'model.roi_head.shared_head.bn_policy',
    'model.roi_head.shared_head.stride',  # 1: the RoI map keeps its size in the head
    'model.roi_head.shared_head.norm_eval',
    'model.roi_head.shared_head.norm_cfg*',
)

# Hooks that change what is learned. All others watch, log or save.
HOOKS_THAT_TRAIN = ('EMAHook', 'PipelineSwitchHook', 'YOLOXModeSwitchHook')


def protocol_of(
    cfg: Config,
    dataset_splits: Mapping[str, Mapping[str, Any]],
    init_class: str,
    world_size: int = 1,
) -> dict[str, Any]:
    """The protocol of the run that a resolved config describes.

    Args:
        cfg: The config as it is trained, overrides merged.
        dataset_splits: The record's ``dataset.splits``; their annotation hashes count.
        init_class: The class of initialisation, such as 'ImageNet' or 'none'.
        world_size: Number of processes; the batch is the sum over them.
    """
    whole = _plain(cfg.to_dict())
    loader = whole.get('train_dataloader') or {}
    optimiser = whole.get('optim_wrapper') or {}
    protocol = {
        'annotations': {
            name: split['annotations_sha256'] for name, split in sorted(dataset_splits.items())
        },
        'boxes': BOXES,
        'init': init_class,
        'amp': optimiser.get('type') == 'AmpOptimWrapper',
        'batch_size': loader.get('batch_size', 1) * world_size,
        'evaluator': _evaluators(whole.get('test_evaluator')),
        'selection': _selection(whole),
        'hooks': [h for h in whole.get('custom_hooks') or [] if h['type'] in HOOKS_THAT_TRAIN],
    }
    if world_size > 1 and _trains_bn(
        whole.get('model')
    ):  # no SyncBN: each process has statistics of its own
        protocol['bn_images'] = loader.get('batch_size', 1)
    scaling = whole.get('auto_scale_lr') or {}
    if scaling.get('enable'):
        protocol['auto_scale_lr'] = scaling
    for name, section in SECTIONS.items():
        protocol[name] = _strip(whole.get(section), section)
    choice = whole.get('lr_choice')
    if choice:  # then the rule counts, and each network may have its own rate
        protocol['lr_choice'] = choice
        protocol['optimiser']['optimizer'].pop('lr')
    if whole.get('load_from') and not whole.get('resume'):
        protocol['load_from'] = PurePath(whole['load_from']).name
    return protocol


def parse_lr_choice(text: str, lr: float | None) -> dict[str, Any]:
    """Reads how a learning rate was chosen: ``val:0.001,0.002,0.004``.

    Args:
        text: The split whose figure decided, and all rates that were tried, the chosen one too.
        lr: The chosen one.

    Raises:
        ValueError: It is not of that form, or ``lr`` is not among them.
    """
    split, _, rates = text.partition(':')
    try:
        among = sorted({float(rate) for rate in rates.split(',')})
    except ValueError:
        among = []
    if split not in ('train', 'val', 'test') or len(among) < 2:
        raise ValueError(f'{text!r} is not SPLIT:LR,LR,... with two rates or more, such as val:0.001,0.002')
    if lr not in among:
        raise ValueError(f'{text!r}: --lr must name the one of them that was chosen, it is {lr}')
    return {'split': split, 'among': among}


def _trains_bn(model: Any) -> bool:
    """Whether a part of a detector takes its BN statistics from the batch."""
    if not isinstance(model, Mapping):
        return False
    return model.get('bn_policy') == 'train' or any(_trains_bn(part) for part in model.values())


def _plain(value: Any) -> Any:
    """Values as JSON has them; 1 and 1.0 are one number, a tuple is a list."""
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
    """The value without what is left out; a list's items have their list's path."""
    if isinstance(value, list):
        return [_strip(item, place) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {}
    for key, item in value.items():
        inner = f'{place}.{key}'
        if _matches(inner, COUNTED) or not _matches(inner, tuple(LEFT_OUT)):
            kept[key] = _strip(item, inner)
    return kept


def _matches(place: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(place, pattern) for pattern in patterns)


def _evaluators(evaluator: Any) -> list[dict[str, Any]]:
    """Each metric's options, and the version of what computes it."""
    metrics = evaluator if isinstance(evaluator, list) else [evaluator] if evaluator else []
    return [
        {**_strip(metric, 'test_evaluator'), 'version': evaluator_version(metric['type'])}
        for metric in metrics
    ]


def evaluator_version(name: str) -> str:
    """Version of what computes a registered metric: our evaluator's own, else its package's.

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
    """How the checkpoint that is tested is chosen: by a figure on val, or it is the last one."""
    hook = (whole.get('default_hooks') or {}).get('checkpoint') or {}
    if not hook.get('save_best'):
        return 'last'
    loop = whole.get('train_cfg') or {}
    return {'by': hook['save_best'], **{k: loop.get(k) for k in ('val_begin', 'val_interval')}}
