"""Trial of a run's parts before its first step: finds parts of the config that do not fit together."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_world_size

from compactdet.errors import UserError
from compactdet.evaluation.metric import DetectionMetric
from compactdet.training.config_errors import one_line_error
from compactdet.training.model_checks import unwrap_model
from compactdet.training.randomness import preserve_generators
from compactdet.training.runner import SafeRunner

# Training samples that are loaded. A transform that fails when it is applied may be applied to some only.
SAMPLES = 8


def dry_run(runner: SafeRunner, datasets: Mapping[str, Any]) -> None:
    """Load a few training samples, and predict one image of the test split and of the val split, if any.

    Neither the model nor the random generators change.

    Args:
        runner: The runner before its training.
        datasets: The data sets by split.

    Raises:
        UserError: A pipeline, the model or an evaluator fails. The message names it.
    """
    with preserve_generators():
        with one_line_error(runner, 'train_dataloader.dataset.pipeline fails'):
            for index in range(SAMPLES):
                datasets['train'][index % len(datasets['train'])]
        for split in ('val', 'test'):
            if split in datasets:
                _predict_one(runner, split, datasets[split])


def _predict_one(runner: SafeRunner, split: str, dataset: Any) -> None:
    with one_line_error(runner, f'{split}_dataloader.dataset.pipeline fails'):
        batch = pseudo_collate([dataset[0]])
    if 'scale_factor' not in batch['data_samples'][0].metainfo:
        raise UserError(
            f'{runner.cfg.filename}: {split}_dataloader.dataset.pipeline sets no scale_factor, which '
            "MMDetection needs; add dict(type='Resize', scale_factor=1.0, keep_ratio=True) before "
            'PackDetInputs'
        )
    model = unwrap_model(runner.model)
    training = model.training
    with (
        one_line_error(runner, f'no prediction for an image of the {split} split'),
        torch.no_grad(),
    ):
        model.eval()
        samples = [sample.to_dict() for sample in model.test_step(batch)]
    model.train(training)
    with one_line_error(runner, f'{split}_evaluator fails'):
        loop = runner.test_loop if split == 'test' else runner.val_loop
        for metric in loop.evaluator.metrics:
            metric.process(data_batch=batch, data_samples=samples)
            if isinstance(metric, DetectionMetric):
                metric.results.clear()  # its evaluation would write predictions and log a table
            elif get_world_size() == 1:
                with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints
                    metric.evaluate(1)
            else:
                metric.results.clear()
