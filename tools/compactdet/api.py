"""Training, prediction and evaluation from Python: what ``import compactdet`` offers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compactdet.config.choice import DetectorChoice
from compactdet.config.options import TrainOptions
from compactdet.data.readers import read_ground_truth, read_predictions
from compactdet.evaluation import evaluate as evaluation
from compactdet.records import record_file
from compactdet.records.record_types import Record
from compactdet.training import predict as prediction
from compactdet.training.train import train as run_training


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        folder: The run folder.
        record: The content of its ``record.json`` (work_dirs_template/README.md).
    """

    folder: Path
    record: Record

    @property
    def metrics(self) -> dict[str, float | None]:
        """Metrics on the test split by name, from 0 to 1; None where a metric has no value."""
        return dict(self.record['metrics']['test'])


@dataclass(frozen=True)
class Prediction:
    """The objects found in an image, by descending score.

    Attributes:
        boxes: (n, 4), continuous x1, y1, x2, y2 in pixels of the image.
        scores: (n,), from 0 to 1.
        labels: (n,), indices into ``classes``.
        classes: Names of all classes of the detector.
    """

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


def train(config: str | Path | DetectorChoice, **options: Any) -> Run:
    """Train a detector, test it and write its record, as ``tools/train.py`` does.

    Args:
        config: A config file, or a choice of network, detector and data set.
        **options: Of ``compactdet.config.options.TrainOptions``: ``work_dir``, ``seed``, ``epochs``, ...

    Raises:
        UserError: The config, an option or the data cannot be used.
    """
    path = config if isinstance(config, DetectorChoice) else str(config)
    return load_run(run_training(TrainOptions(config=path, **options)).parent)


def load_run(folder: str | Path) -> Run:
    """Return the finished run in a folder.

    Raises:
        UserError: The folder has no record, or the record is not valid.
    """
    folder = Path(folder)
    return Run(folder, record_file.read(folder / 'record.json'))


def predict(
    run: Run,
    images: Iterable[str | Path | np.ndarray],
    *,
    score: float = 0.3,
    device: str | None = None,
) -> list[Prediction]:
    """Detect objects in images.

    Args:
        run: A run whose checkpoint is in its folder.
        images: Image files, or arrays (H, W, 3) of uint8 in BGR.
        score: Lowest confidence score of a detection.
        device: 'cpu' or 'cuda'; None is a GPU if there is one.

    Raises:
        UserError: A file is no image, or the run has no usable checkpoint.
    """
    detector = prediction.load_detector(run.folder, device)
    classes = tuple(detector.classes)
    found = []
    for image in images:
        if not isinstance(image, np.ndarray):
            prediction.check_image(Path(image))
            image = prediction.read_image(Path(image))
        boxes, labels, scores = prediction.detect(detector, image, score)
        found.append(Prediction(boxes, scores, labels, classes))
    return found


def evaluate(
    annotations: str | Path,
    predictions: str | Path,
    *,
    split: str = 'test',
    classes: Sequence[str] | None = None,
    voc_ious: Sequence[float] = (0.5,),
) -> dict[str, Any]:
    """Evaluate a COCO results list, as ``tools/evaluate.py`` does.

    Args:
        annotations: COCO annotation file, or folder in VOC format.
        predictions: COCO results list.
        split: Split of a VOC folder.
        classes: Classes of a VOC folder in the order of ``category_id``; None as ``tools/evaluate.py``.
        voc_ious: IoU thresholds of the VOC metrics.

    Returns:
        As ``compactdet.evaluation.evaluate.evaluate``.

    Raises:
        UserError: A file cannot be used.
    """
    truth = read_ground_truth(Path(annotations), split, classes)
    return evaluation.evaluate(truth, read_predictions(Path(predictions), truth), voc_ious)
