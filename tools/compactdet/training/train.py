"""One training run, from a config to its record."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dist import barrier, get_world_size, is_main_process
from mmengine.registry import init_default_scope

from backbones import get_arch
from backbones.weights import WeightsError, read_info
from compactdet import costs, distributed
from compactdet.config import strict
from compactdet.config.options import Options, check_init, compose
from compactdet.data.base_dataset import dataset_facts
from compactdet.errors import UserError
from compactdet.evaluation.metric import DetectionMetric
from compactdet.mmdetection import DATASETS
from compactdet.records import display, environment, protocol, record_file
from compactdet.training.checkpoints import read_checkpoint, read_resumable, refuse_unfinished, take
from compactdet.training.runner import SafeRunner, unwrapped

REPO = Path(__file__).parents[3]


def show(options: Options) -> None:
    """Prints the config that a command line asks for, resolved, and its protocol; needs no data.

    Raises:
        UserError: As for ``compose``.
        WeightsError: The same.
    """
    cfg = compose(options)
    distributed.start(cfg.launcher, cfg.get('env_cfg', {}))
    if not is_main_process():
        return
    print(strict.resolved_text(cfg))
    try:
        start = init_class(cfg)
    except WeightsError:  # not there yet
        start = 'absent'
    display.show_protocol(protocol.protocol_of(cfg, {}, start, get_world_size()), whole=False)


def train(options: Options) -> Path:
    """Trains, evaluates on the test split and writes ``record.json``; returns its path.

    To resume a run that is finished is to return its path.

    Where the config chooses a checkpoint by a figure on the validation split, that one is evaluated,
    else the last.

    Raises:
        UserError: Something the user can mend; nothing half-written is left.
        WeightsError: The initial weights are absent or do not fit.
    """
    cfg = compose(options)
    distributed.start(cfg.launcher, cfg.get('env_cfg', {}))
    check_init(cfg)
    record_path = Path(cfg.work_dir) / 'record.json'
    if is_finished(cfg, record_path):
        return record_path
    init_default_scope(cfg.default_scope)
    # Every split is read before the first step: a damaged test set is not found at the end.
    with distributed.main_first():  # the embedded set is drawn
        built = {
            name: DATASETS.build(loader.dataset)
            for name in ('train', 'val', 'test')
            if (loader := cfg.get(f'{name}_dataloader'))
        }
    splits = {name: split_facts(dataset) for name, dataset in built.items()}
    work_dir = open_work_dir(cfg.work_dir)
    if is_main_process():
        take(work_dir)
    runner = SafeRunner.from_cfg(cfg)
    runner.use_datasets(built)
    runner.protocol = protocol.protocol_of(cfg, splits, init_class(cfg), get_world_size())
    if is_main_process():
        display.show_protocol(runner.protocol)
        if line := learning_rate_line(cfg, get_world_size()):
            print(line)
        images = splits['train']['images']
        print(f'{cfg.model.backbone.arch}: training on {images} images; log in {work_dir}', flush=True)

    git = environment.git_state(REPO)  # of the code that trains, not of what the checkout is by its end
    runner.train()
    training = training_facts(runner)
    init = init_facts(unwrapped(runner))
    metrics: dict[str, Any] = {'val': last_validation(runner)}
    if training['chosen']:
        barrier()  # the first process wrote it
        runner.load_checkpoint(str(work_dir / training['chosen']['checkpoint']))
        metrics['val'] = runner.val()
    start = time.perf_counter()
    metrics['test'] = runner.test()
    wall_s = time.perf_counter() - start
    if not is_main_process():
        return record_path
    metrics['test'] |= image_intervals(runner)
    num_images, test_set = splits['test']['images'], built['test']
    record = {
        'schema_version': record_file.SCHEMA_VERSION,
        'created_utc': datetime.now(timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ'),
        'arch': cfg.model.backbone.arch,
        'family': get_arch(cfg.model.backbone.arch).family,
        'detector': detector_name(cfg.model),
        'dataset': {
            'name': test_set.metainfo.get('name', 'custom'),
            'classes': list(test_set.metainfo['classes']),
            'splits': splits,
        },
        'protocol': protocol.protocol_of(cfg, splits, init['class'], get_world_size()),
        'init': init,
        'seed': int(runner.seed),
        'config': {'file': Path(cfg.filename).name, 'text': strict.resolved_text(cfg)},
        'command': options.command or f'tools/train.py {cfg.filename}',
        'git': git,
        'versions': environment.versions(),
        'hardware': environment.hardware(),
        'training': training,
        'evaluation': {'wall_s': wall_s, 'images_per_s': num_images / wall_s},
        'costs': cost_facts(runner),
        'metrics': {name: flat(values) for name, values in metrics.items()},
    }
    record_file.write(record_path, record)
    return record_path


def is_finished(cfg: Config, record_path: Path, kind: str | None = None) -> bool:
    """Whether a run that is resumed has its record already: who starts it again and again need not know.

    Raises:
        UserError: The folder holds another run's record, or an unfinished run that is not to be resumed.
        WeightsError: The checkpoint to start from cannot be read.
    """
    if record_path.exists():
        if cfg.get('resume') and record_file.read(record_path, kind)['config'][
            'text'
        ] == strict.resolved_text(cfg):
            return True
        raise UserError(
            f'{record_path} is the record of a finished run, which is never overwritten; '
            'give this run its own --work-dir, or move the old folder away'
        )
    if not cfg.get('resume'):
        refuse_unfinished(Path(cfg.work_dir))
    if cfg.get('load_from'):  # a bad checkpoint is found before anything is made for it
        (read_resumable if cfg.get('resume') else read_checkpoint)(cfg.load_from)
    return False


def open_work_dir(work_dir: str) -> Path:
    """Makes the run's folder.

    Raises:
        UserError: It cannot be made or written in.
    """
    path = Path(work_dir)
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f'.writable.{os.getpid()}'
        probe.touch()
        probe.unlink(missing_ok=True)  # on another machine a process may have the same number
    except OSError as error:
        raise UserError(
            f'cannot write in the work dir {path}: {error.strerror}; choose another --work-dir'
        ) from error
    return path


def split_facts(dataset: Any) -> dict[str, Any]:
    """A split's row in the record."""
    facts = dataset_facts(dataset)
    return {
        'images': facts['images'],
        'boxes': facts['boxes'],
        'difficult': facts['difficult'],
        'dropped': [
            {'image': image, 'objects': objects} for image, objects in facts['dropped_boxes'].items()
        ],
        'annotations_sha256': facts['annotations_sha256'],
        'ann_file': dataset.ann_file,
    }


def training_facts(runner: SafeRunner) -> dict[str, Any]:
    """What the training took, all its parts together, and which checkpoint it chose.

    ``images_per_s`` counts the time of training steps and their data; validation and saving are in
    ``wall_s`` only.
    """
    hub = runner.message_hub
    batch_size = runner.cfg.train_dataloader.batch_size * get_world_size()
    step_s, _ = (
        hub.get_scalar('train/time').data if 'train/time' in hub.log_scalars else (np.array([]), None)
    )
    chosen = None
    if 'best_ckpt' in hub.runtime_info:
        checkpoint = Path(hub.get_info('best_ckpt'))
        chosen = {
            'checkpoint': checkpoint.name,
            'epoch': best_epoch(checkpoint),
            'metric': runner.cfg.default_hooks.checkpoint.save_best,
            'value': float(hub.get_info('best_score')),
        }
    return {
        'wall_s': runner.train_loop.wall_s(),
        'iterations': runner.iter,
        'epochs': runner.epoch,
        'images_per_s': batch_size * len(step_s) / float(step_s.sum()) if len(step_s) else None,
        'batch_size': batch_size,
        'processes': get_world_size(),
        'batch_size_per_process': runner.cfg.train_dataloader.batch_size,
        'peak_memory_bytes': runner.train_loop.peak_memory_bytes(),
        'chosen': chosen,
    }


def learning_rate_line(cfg: Config, world_size: int) -> str | None:
    """Says how the learning rate follows from the images a step; None where there is nothing to say."""
    scaling = cfg.get('auto_scale_lr') or {}
    base, rate = scaling.get('base_batch_size'), cfg.optim_wrapper.optimizer.get('lr')
    per_process = cfg.train_dataloader.batch_size
    batch = per_process * world_size
    if rate is None or batch == base or (base is None and world_size == 1):
        return None
    images = f'{batch} images a step ({world_size} x {per_process})'
    if base is None:
        return f'learning rate {rate:g}, not scaled to {images}: the schedule names no auto_scale_lr'
    if not scaling.get('enable'):
        hint = '--cfg-options auto_scale_lr.enable=True scales it'
        return f'learning rate {rate:g}, not scaled to {images}; it is for {base}; {hint}'
    return f'learning rate {rate * batch / base:g}: {rate:g} for {base} images, scaled to {images}'


def last_validation(runner: SafeRunner) -> dict[str, float] | None:
    """Figures of the last validation in training; None if there was none."""
    scalars = runner.message_hub.log_scalars
    figures = {
        name.removeprefix('val/'): name for name in scalars if name.startswith(('val/voc/', 'val/coco/'))
    }
    return {name: scalars[key].current() for name, key in figures.items()} or None


def best_epoch(checkpoint: Path) -> int | None:
    """The epoch in a name such as ``best_voc_ap50_11point_epoch_7.pth``."""
    number = checkpoint.stem.rpartition('_')[2]
    return int(number) if number.isdigit() else None


def image_intervals(runner: SafeRunner) -> dict[str, float]:
    """The test figures' 95 % intervals over images; nothing where another metric evaluates."""
    metrics = runner.test_evaluator.metrics
    return next((m.image_intervals() for m in metrics if isinstance(m, DetectionMetric)), {})


def init_class(cfg: Config) -> str:
    """The class of initialisation that a config asks for; the weights are at hand (``check_init``)."""
    init = cfg.model.backbone.get('init_cfg') or {}
    return read_info(init['checkpoint']).pretraining.data if init.get('checkpoint') else 'none'


def init_facts(model: Any) -> dict[str, Any]:
    """What the network started from."""
    roi_head = getattr(model, 'roi_head', None)
    modules = {'backbone': model.backbone, 'shared_head': getattr(roi_head, 'shared_head', None)}
    sources = {name: getattr(module, 'loaded_from', None) for name, module in modules.items()}
    source = sources['backbone']
    if source is None:
        return {
            'class': 'none',
            'file': None,
            'sha256': None,
            'loaded': dict.fromkeys(sources),
            'pretraining': None,
        }
    pretraining = source.info.pretraining
    return {
        'class': pretraining.data,
        'file': Path(source.checkpoint).name,
        'sha256': source.sha256,
        # ClassifierWeights loads all of a half or raises.
        'loaded': {name: None if modules[name] is None else 1.0 for name in sources},
        'pretraining': {key: getattr(pretraining, key) for key in ('data', 'recipe', 'top1', 'top5')},
    }


def detector_name(model: Mapping[str, Any]) -> str:
    """The wiring that made a detector, by what it is."""
    if model['type'] == 'RetinaNet':
        return 'retinanet_fpn'
    return 'frcnn_fpn' if model.get('neck') else 'frcnn_c4'


def cost_facts(runner: SafeRunner) -> dict[str, Any]:
    """Multiply-adds at 224x224 and at the test split's median size after resizing and padding."""
    model = runner.cfg.model
    at_224 = costs.detector_costs(model, 224, 224)
    at_input = costs.detector_costs(model, *input_size(runner))
    at_input.pop('params')
    return {'params': at_224.pop('params'), 'at_224': at_224, 'at_input': at_input}


def input_size(runner: SafeRunner) -> tuple[int, int]:
    """Height and width at which the test split's median image enters the network, in pixels."""
    dataset = runner.test_loop.dataloader.dataset
    sizes = [(entry['width'], entry['height']) for entry in map(dataset.get_data_info, range(len(dataset)))]
    size = tuple(int(side) for side in np.median(sizes, axis=0))
    for step in runner.cfg.test_dataloader.dataset.pipeline:
        if step['type'] == 'Resize':
            size = (
                mmcv.rescale_size(size, step['scale']) if step.get('keep_ratio') else tuple(step['scale'])
            )
    divisor = runner.cfg.model.data_preprocessor.pad_size_divisor
    width, height = (math.ceil(side / divisor) * divisor for side in size)
    return height, width


def flat(values: Mapping[str, Any] | None) -> dict[str, float | None] | None:
    """Figures as the record takes them: a figure that is not defined is null."""
    if values is None:
        return None
    return {
        name: None if value is None or math.isnan(value) else float(value) for name, value in values.items()
    }
