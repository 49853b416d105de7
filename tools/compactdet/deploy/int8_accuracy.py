"""Accuracy and latency of an int8 network beside those of its float32 form."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.registry import init_default_scope

from compactdet.config.options import TrainOptions, config_from_options
from compactdet.deploy.candidates import Builder, threads_restored
from compactdet.deploy.latency import Interval, measure
from compactdet.deploy.onnx_detector import OnnxDetector, load_session
from compactdet.deploy.onnx_export import Exportable
from compactdet.errors import UserError
from compactdet.mmdetection import DATASETS
from compactdet.training.predict import config_of_run
from compactdet.training.record_facts import metric_values
from compactdet.training.run_stages import evaluate_test_split
from compactdet.training.runner import SafeRunner
from compactdet.weights.verify import find_images, load_image

LARGEST_LOSS = 1.0  # percentage points; a larger loss is reported as such
DETECTOR_METRIC, CLASSIFIER_METRIC = 'coco/ap', 'top1'
ROUNDS = 20
FLOAT, INT8 = 'float32', 'int8'


@dataclass(frozen=True)
class Comparison:
    """Accuracy and latency of both forms.

    Attributes:
        metric: 'coco/ap' on the test split of the run, or 'top1' on labeled images.
        num_images: Number of test images.
        float32: Accuracy of the float32 form in percent.
        int8: Accuracy of the int8 form in percent.
        latency_ratio: Latency of the int8 form over that of the float32 form in ONNX Runtime with one
            thread, with its 95 % interval.
        undisturbed: Whether the latency is usable, see `compactdet.deploy.latency.LIMITS`.
    """

    metric: str
    num_images: int
    float32: float
    int8: float
    latency_ratio: Interval
    undisturbed: bool

    @property
    def loss(self) -> float:
        """Percentage points that the int8 form loses."""
        return self.float32 - self.int8

    def as_metadata(self) -> dict[str, Any]:
        """Return what the metadata of the int8 file state."""
        return {**asdict(self), 'loss': self.loss, 'largest_loss': LARGEST_LOSS}


def compare(exportable: Exportable, models: Mapping[str, bytes], source: Path) -> Comparison:
    """Measure accuracy and latency of a float32 and an int8 network.

    Args:
        exportable: What was exported.
        models: ONNX models by 'float32' and 'int8'.
        source: Run folder of a detector, or folder of labeled images for a classifier.

    Raises:
        UserError: The test images are missing or damaged, or a label is no class of the network.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder) / f'{name}.onnx' for name in (FLOAT, INT8)}
        for name, path in paths.items():
            path.write_bytes(models[name])
        if exportable.what == 'detector':
            values, num_images = _detector_ap(source, paths)
            metric = DETECTOR_METRIC
        else:
            values, num_images = _top1(exportable, source, paths)
            metric = CLASSIFIER_METRIC
        with threads_restored():
            builders = [Builder(str(path), 1, exportable.size) for path in paths.values()]
            candidates = [builder.candidate('onnxruntime', 1) for builder in builders]
            measurement = measure(candidates, ROUNDS, FLOAT)
    ratio = measurement.results[1].ratio
    assert ratio is not None
    return Comparison(metric, num_images, values[FLOAT], values[INT8], ratio, not measurement.problems)


def _detector_ap(run_dir: Path, paths: Mapping[str, Path]) -> tuple[dict[str, float], int]:
    """Return the AP of each model on the test split of a run in percent, and the number of images."""
    found = {}
    num_images = 0
    for name, path in paths.items():
        options = TrainOptions(config=str(config_of_run(run_dir)), work_dir=str(path.with_suffix('')))
        cfg = config_from_options(options)
        cfg.load_from, cfg.resume = None, False
        init_default_scope(cfg.default_scope)
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
        num_images = len(dataset)
        runner = SafeRunner.from_cfg(cfg)
        runner.use_datasets({'test': dataset})
        runner.model = OnnxDetector(path, dataset.metainfo['classes'])
        value = metric_values(evaluate_test_split(runner).metrics).get(DETECTOR_METRIC)
        if value is None:
            raise UserError(f'{run_dir}: its test has no {DETECTOR_METRIC}; int8 cannot be compared')
        found[name] = 100 * value
    return found, num_images


def _top1(exportable: Exportable, folder: Path, paths: Mapping[str, Path]) -> tuple[dict[str, float], int]:
    """Return the top-1 accuracy of each model on labeled images in percent, and the number of images."""
    assert exportable.preprocessing is not None
    height, width = exportable.size
    if height != width:
        raise UserError(f'--evaluate needs square images of a classifier, not {height}x{width}')
    images = find_images(folder)
    sessions = {name: load_session(path) for name, path in paths.items()}
    correct = dict.fromkeys(paths, 0)
    for path, number in images:
        image = load_image(path, exportable.preprocessing, height)[None].numpy()
        for name, session in sessions.items():
            (logits,) = session.run(None, {'image': image})
            if number >= logits.shape[1]:
                raise UserError(
                    f'{path}: class number {number}, but {exportable.arch} has {logits.shape[1]} classes'
                )
            correct[name] += int(np.argmax(logits[0]) == number)
    return {name: 100 * count / len(images) for name, count in correct.items()}, len(images)
