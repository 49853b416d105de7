"""Content of the record of a training run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dist import get_world_size

from backbones import get_arch
from backbones.weights import read_info
from compactdet.config import strict
from compactdet.data.base_dataset import dataset_facts
from compactdet.data.leaks import Leak
from compactdet.detector_costs import DetectorCosts, detector_costs
from compactdet.errors import UserError, one_line
from compactdet.evaluation.metric import DetectionMetric, write_predictions
from compactdet.records import environment, network_costs
from compactdet.records.cost_types import Costs, DetectorMacs
from compactdet.records.record_file import text_sha256
from compactdet.records.record_types import (
    ChosenCheckpoint,
    GitState,
    InitialWeights,
    Metrics,
    RecordHeading,
    RunFacts,
    Split,
    Training,
)
from compactdet.records.unfinished import WriteDetections
from compactdet.training.input_size import median_input_size
from compactdet.training.run_stages import Evaluation
from compactdet.training.runner import SafeRunner

# Content of the record of any training


def record_heading(cfg: Config) -> RecordHeading:
    """Return time and network of a run for its record."""
    return {
        'created_utc': datetime.now(timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ'),
        'arch': cfg.model.backbone.arch,
        'family': get_arch(cfg.model.backbone.arch).family,
    }


def run_facts(
    cfg: Config,
    seed: int,
    command: str,
    git: GitState | None,
    training: Training,
    test: Evaluation,
) -> RunFacts:
    """Return the entries on the run itself: seed, config, software, hardware, time.

    Args:
        cfg: The composed config.
        seed: Seed of the run.
        command: The command line.
        git: State of the checkout when the training started; see ``environment.git_state``.
        training: From ``training_facts``.
        test: Evaluation on the test split.
    """
    text = strict.resolved_text(cfg)
    return {
        'seed': int(seed),
        'config': {'file': Path(cfg.filename).name, 'text': text, 'sha256': text_sha256(text)},
        'command': command,
        'git': git,
        'versions': environment.versions(),
        'hardware': environment.hardware(),
        'training': training,
        'evaluation': {'wall_s': test.wall_s, 'images_per_s': test.images_per_s},
    }


def training_facts(runner: SafeRunner) -> Training:
    """Return duration, speed and memory of the training over all resumes, and the checkpoint it chose.

    ``images_per_s`` covers the training steps and the loading of their data; ``wall_s`` also covers
    validations and the saving of checkpoints.
    """
    hub = runner.message_hub
    batch_size = runner.cfg.train_dataloader.batch_size * get_world_size()
    step_s, _ = (
        hub.get_scalar('train/time').data if 'train/time' in hub.log_scalars else (np.array([]), None)
    )
    chosen: ChosenCheckpoint | None = None
    if 'best_ckpt' in hub.runtime_info:
        checkpoint = Path(hub.get_info('best_ckpt'))
        chosen = {
            'checkpoint': checkpoint.name,
            'epoch': epoch_of_best(checkpoint),
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


def epoch_of_best(checkpoint: Path) -> int | None:
    """Return the epoch in a file name such as ``best_voc_ap50_11point_epoch_7.pth``."""
    number = checkpoint.stem.rpartition('_')[2]
    return int(number) if number.isdigit() else None


# Content of a detector's record


def split_facts(dataset: Any, leaks: Sequence[Leak] | None = None) -> Split:
    """Return the entry ``dataset.splits.SPLIT`` of a record.

    Args:
        dataset: The data set of the split.
        leaks: Its images that are also training images; None for the training split itself.
    """
    facts = dataset_facts(dataset)
    entry: Split = {
        'images': facts['images'],
        'boxes': facts['boxes'],
        'difficult': facts['difficult'],
        'dropped': [
            {'image': image, 'objects': objects} for image, objects in facts['dropped_boxes'].items()
        ],
        'annotations_sha256': facts['annotations_sha256'],
        'ann_file': dataset.ann_file,
    }
    if leaks is not None:
        entry['also_in_train'] = [
            {'image': leak.image.name, 'train_image': leak.train_image.name} for leak in leaks
        ]
    return entry


def init_class(cfg: Config) -> str:
    """Return the config's class of initialization: the pretraining data of the initial weights, or 'none'.

    Raises:
        WeightsError: The weights file cannot be read.
    """
    init = cfg.model.backbone.get('init_cfg') or {}
    return read_info(init['checkpoint']).pretraining.data if init.get('checkpoint') else 'none'


def init_facts(model: Any) -> InitialWeights:
    """Return the entry ``init`` of a record: the initial weights that a detector has loaded."""
    stage_head = getattr(getattr(model, 'roi_head', None), 'shared_head', None)
    source = getattr(model.backbone, 'loaded_from', None)
    if source is None:
        return {
            'class': 'none',
            'file': None,
            'sha256': None,
            'loaded': {'backbone': None, 'shared_head': None},
            'pretraining': None,
        }
    pretraining = source.info.pretraining
    return {
        'class': pretraining.data,
        'file': Path(source.checkpoint).name,
        'sha256': source.sha256,
        # The initializer loads all entries of a module or raises an error.
        'loaded': {'backbone': 1.0, 'shared_head': None if stage_head is None else 1.0},
        'pretraining': {
            'data': pretraining.data,
            'recipe': pretraining.recipe,
            'top1': pretraining.top1,
            'top5': pretraining.top5,
        },
    }


def cost_facts(cfg: Config, dataset: Any) -> Costs:
    """Return the entry ``costs`` of a record: the network alone, and the detector at two sizes.

    What cannot be measured is None, with its reason in ``not_measured``.

    Args:
        cfg: The config of the detector.
        dataset: Its test split.

    Raises:
        UserError: The detector cannot be built.
    """
    try:
        at_224 = detector_costs(cfg.model, 224, 224)
    except Exception as error:
        raise UserError(f'{cfg.filename}: the detector cannot be built: {one_line(error)}') from error
    try:
        size = median_input_size(cfg, dataset)
    except Exception as error:  # a transform or a preprocessor of any library
        reason = f'the size of a test image is not known: {one_line(error)}'
        nothing = dict.fromkeys(_macs_entry(at_224))
        at_input: Any = {**nothing, 'not_measured': {'height': reason, 'width': reason}}
    else:
        at_input = _macs_entry(detector_costs(cfg.model, *size))
    return {
        'params': {
            'backbone': at_224.backbone_params,
            'rpn': at_224.dense_head_params,
            'roi_head': at_224.roi_head_params,
            'total': at_224.total_params,
        },
        'network': network_costs.of_arch(cfg.model.backbone.arch),
        'at_224': _macs_entry(at_224),
        'at_input': at_input,
    }


def _macs_entry(costs: DetectorCosts) -> DetectorMacs:
    names = {'dense_head_macs': 'rpn_macs'}  # attribute: key of the record, where they differ
    entry: DetectorMacs = {
        'height': costs.height,
        'width': costs.width,
        'backbone_macs': costs.backbone_macs,
        'neck_macs': costs.neck_macs,
        'rpn_macs': costs.dense_head_macs,
        'roi_head_macs_per_proposal': costs.roi_head_macs_per_proposal,
        'num_proposals': costs.num_proposals,
        'roi_head_macs': costs.roi_head_macs,
        'total_macs': costs.total_macs,
    }
    if costs.not_measured:
        entry['not_measured'] = {names.get(key, key): reason for key, reason in costs.not_measured.items()}
    return entry


def last_validation(runner: SafeRunner) -> dict[str, float] | None:
    """Return the metrics of the last validation during training; None if there was none."""
    scalars = runner.message_hub.log_scalars
    names = {
        name.removeprefix('val/'): name for name in scalars if name.startswith(('val/voc/', 'val/coco/'))
    }
    return {name: scalars[key].current() for name, key in names.items()} or None


def image_intervals(runner: SafeRunner) -> dict[str, float]:
    """Return the 95 % intervals of the test metrics over images.

    They are empty with another evaluator, and if they cannot be computed, whose reason is printed.
    """
    metric = _detection_metric(runner)
    try:
        return {} if metric is None else metric.image_intervals()
    except Exception as error:  # the training has finished: its record is written without them
        print(f'no intervals over the test images: {one_line(error)}', flush=True)
        return {}


def detections_writer(runner: SafeRunner) -> WriteDetections | None:
    """Return a function that writes the detections of the last test; None with another evaluator."""
    metric = _detection_metric(runner)
    if metric is None or metric.evaluated is None:
        return None
    gt, dt = metric.evaluated
    return lambda path: write_predictions(path, gt, dt)


def _detection_metric(runner: SafeRunner) -> DetectionMetric | None:
    metrics = runner.test_evaluator.metrics
    return next((metric for metric in metrics if isinstance(metric, DetectionMetric)), None)


def metric_values(values: Mapping[str, Any]) -> Metrics:
    """Return metrics as the record has them.

    None stands for a metric without a value: NaN, infinity, the -1 of COCO's evaluator, anything but a
    number, and under the names ``voc/`` and ``coco/`` anything that is no share from 0 to 1.
    """
    return {name: _metric_value(name, value) for name, value in values.items()}


def _metric_value(name: str, value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    if not math.isfinite(number) or number == -1:
        return None
    is_share = name.startswith(('voc/', 'coco/'))
    return None if is_share and not 0 <= number <= 1 else number
