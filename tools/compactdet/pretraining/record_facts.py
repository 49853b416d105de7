"""Content of the record and of the weights file of a pretraining."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from torch import Tensor

from backbones.weights import Pretraining, WeightsInfo, file_sha256, preprocessing_of, read_info
from compactdet.classification.dataset import ClassificationSet
from compactdet.layer_costs import count, num_params
from compactdet.records.pretraining_types import (
    Accuracies,
    ClassificationSplit,
    NetworkCosts,
    PretrainingInitialWeights,
    SplitAccuracies,
)
from compactdet.records.record_types import GitState, Protocol


def accuracies(metrics: Mapping[str, Any]) -> Accuracies:
    """Return top-1 and top-5 accuracy from 0 to 1; top-5 is None with fewer than five classes.

    Args:
        metrics: MMPretrain's ``accuracy/top1`` and ``accuracy/top5``, in percent.
    """
    found = {name.rpartition('/')[2]: float(value) / 100 for name, value in metrics.items()}
    return {'top1': found.get('top1'), 'top5': found.get('top5')}


def weights_info(
    cfg: Config, model: Any, data: ClassificationSet, metrics: SplitAccuracies, git: GitState | None
) -> WeightsInfo:
    """Return the metadata of the weights file.

    Args:
        cfg: The composed config.
        model: The trained classifier.
        data: The training images.
        metrics: The record's ``metrics``.
        git: The record's ``git``.
    """
    name = (cfg.get('recipe') or {}).get('name', Path(cfg.filename).stem)
    epochs = cfg.train_cfg.get('max_epochs')
    commit = f'commit {git["commit"]}{" with changes" if git["dirty"] else ""}' if git else 'no checkout'
    size = cfg.model.data_preprocessor.size
    start = f', from {Path(model.backbone.init).name}' if model.backbone.init else ''
    return WeightsInfo(
        arch=cfg.model.backbone.arch,
        pretraining=Pretraining(
            data=data.title,
            # Without the seed: weights of all seeds have the same recipe.
            recipe=f'{name}: {epochs} epochs at {size}x{size}{start}',
            top1=_percent(metrics['test']['top1']),
            top5=_percent(metrics['test']['top5']),
            size=size,
        ),
        preprocessing=preprocessing_of(model.data_preprocessor),
        conventions=model.backbone.conventions,
        source=f'tools/pretrain.py of compactdet, seed {cfg.randomness.seed}, {commit}',
    )


def _percent(share: float | None) -> float | None:
    return None if share is None else round(100 * share, 4)


def protocol_of(cfg: Config, splits: Mapping[str, ClassificationSplit], world_size: int = 1) -> Protocol:
    """Return the protocol: everything that must be equal for two accuracies to be ranked together.

    Args:
        cfg: The composed config.
        splits: The record's ``dataset.splits``.
        world_size: Number of processes.
    """
    plain = cfg.to_dict()
    loader, test = plain['train_dataloader'], plain['test_dataloader']
    scaling = plain.get('auto_scale_lr') or {}
    return {
        'data': {name: split['sha256'] for name, split in sorted(splits.items())},
        'hold_out': loader['dataset'].get('hold_out', 0),
        'selection': 'last',
        'recipe': plain.get('recipe', {}).get('name'),
        'init': read_info(init).pretraining.data
        if (init := plain['model']['backbone']['init'])
        else 'none',
        'size': plain['model']['data_preprocessor']['size'],
        'preprocessing': {k: v for k, v in plain['model']['data_preprocessor'].items() if k != 'type'},
        'train_pipeline': loader['dataset']['pipeline'],
        'test_pipeline': test['dataset']['pipeline'],
        'batch_size': loader['batch_size'] * world_size,
        'batch_size_per_process': loader['batch_size'],
        'head': plain['model']['head'],
        'optimiser': plain['optim_wrapper'],
        'schedule': plain['param_scheduler'],
        'loop': {k: v for k, v in plain['train_cfg'].items() if not k.startswith('val_')},
        'auto_scale_lr': scaling if scaling.get('enable') else None,
        'amp': plain['optim_wrapper']['type'] == 'AmpOptimWrapper',
    }


def init_facts(network: Any) -> PretrainingInitialWeights:
    """Return the entry ``init`` of a record: the initial weights that a `WholeNetwork` has loaded."""
    if not network.init:
        return {'class': 'none', 'file': None, 'sha256': None, 'loaded': None}
    return {
        'class': read_info(network.init).pretraining.data,
        'file': Path(network.init).name,
        'sha256': file_sha256(network.init),
        'loaded': network.loaded,
    }


def cost_facts(cfg: Config, network: Any) -> NetworkCosts:
    """Return the entry ``costs``: parameters and multiply-adds in training form, for one training image."""
    size = cfg.model.data_preprocessor.size
    image: Tensor = torch.empty(1, 3, size, size, device='meta')
    return {
        'size': size,
        'macs': count(network, image).macs,
        'params': num_params(network.parameters()),
    }
