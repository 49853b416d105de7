"""Ground truth and detections of a data set as arrays."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Annotations:
    """Ground truth of a data set.

    Attributes:
        image_ids: One id an image; their order breaks ties of scores.
        classes: Class names.
        category_ids: Number of each class in predictions.json.
        image_index: (n,) int, index into image_ids.
        labels: (n,) int, index into classes.
        boxes: (n, 4) float64, continuous x1, y1, x2, y2 in pixels.
        sizes: (n, 2) float64, width and height as the file states them (x2 - x1 may round).
        areas: (n,) float64, area for COCO's area ranges (of the mask, or of the box).
        difficult: (n,) bool, VOC's flag.
        crowd: (n,) bool, COCO's flag.
        notes: Messages for the user, one line each.
        image_sizes: (number of images, 2) float64, width and height in pixels, NaN if not known; None if
            none is known.
    """

    image_ids: Sequence[int | str]
    classes: Sequence[str]
    category_ids: Sequence[int]
    image_index: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    sizes: np.ndarray
    areas: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    notes: tuple[str, ...] = ()
    image_sizes: np.ndarray | None = None


@dataclass(frozen=True)
class Detections:
    """Detections on the images of an `Annotations`; arrays as there, ``scores`` (n,) float64."""

    image_index: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    sizes: np.ndarray
    scores: np.ndarray


def make_annotations(
    image_ids: Sequence[int | str],
    classes: Sequence[str],
    image_index: Any,
    labels: Any,
    boxes: Any,
    *,
    category_ids: Sequence[int] | None = None,
    sizes: Any = None,
    areas: Any = None,
    difficult: Any = None,
    crowd: Any = None,
) -> Annotations:
    """Build `Annotations` from sequences. Sizes and areas default to those of the boxes, flags to False."""
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    sizes = boxes[:, 2:] - boxes[:, :2] if sizes is None else np.asarray(sizes, float).reshape(-1, 2)
    return Annotations(
        image_ids,
        classes,
        range(1, len(classes) + 1) if category_ids is None else category_ids,
        np.asarray(image_index, np.int64),
        np.asarray(labels, np.int64),
        boxes,
        sizes,
        sizes[:, 0] * sizes[:, 1] if areas is None else np.asarray(areas, float),
        np.zeros(len(boxes), bool) if difficult is None else np.asarray(difficult, bool),
        np.zeros(len(boxes), bool) if crowd is None else np.asarray(crowd, bool),
    )


def make_detections(
    image_index: Any, labels: Any, boxes: Any, scores: Any, sizes: Any = None
) -> Detections:
    """Build `Detections` from sequences. Sizes default to those of the boxes."""
    boxes = np.asarray(boxes, float).reshape(-1, 4)
    sizes = boxes[:, 2:] - boxes[:, :2] if sizes is None else np.asarray(sizes, float).reshape(-1, 2)
    index, label = np.asarray(image_index, np.int64), np.asarray(labels, np.int64)
    return Detections(index, label, boxes, sizes, np.asarray(scores, float))
