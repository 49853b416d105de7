"""Selection of example images for an error analysis.

The selection depends only on the numbers: of each type the errors of highest score (of missed boxes the
largest), one per image; and the images with most errors.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from compactdet.analysis.error_types import ERRORS, FALSE, Verdicts
from compactdet.data.annotations import Annotations, Detections

NUM_ERRORS = 5  # per type
NUM_IMAGES = 6
Files = Mapping[int, Path]  # file of each image by its index; images without a file are not drawn


@dataclass(frozen=True)
class Scene:
    """What is drawn on an image: detections from a score on, and boxes that none of them found."""

    right: np.ndarray
    wrong: np.ndarray
    missed: np.ndarray
    ignored: np.ndarray


def find_scene(gt: Annotations, dt: Detections, verdicts: Verdicts, image: int, score: float) -> Scene:
    """Return the indices of correct and wrong detections, and of missed and ignored boxes, of an image."""
    drawn = (dt.image_index == image) & (dt.scores >= score)
    right = np.flatnonzero(drawn & (verdicts.kind == 'right'))
    boxes = gt.image_index == image
    missed = boxes & verdicts.wanted
    missed[verdicts.box[right]] = False
    return Scene(
        right,
        np.flatnonzero(drawn & np.isin(verdicts.kind, FALSE)),
        np.flatnonzero(missed),
        np.flatnonzero(boxes & ~verdicts.wanted),
    )


def choose_errors(
    gt: Annotations, dt: Detections, verdicts: Verdicts, files: Files
) -> dict[str, list[int]]:
    """Return for each error type the detections (for ``miss`` the boxes) that show it best, best first.

    Args:
        gt: Ground truth.
        dt: Detections.
        verdicts: Their classification.
        files: Images that exist.
    """
    chosen = {}
    for name in ERRORS:
        if name == 'miss':
            rows, images = np.flatnonzero(verdicts.missed), gt.image_index
            rows = rows[np.argsort(-gt.sizes[rows].prod(axis=1), kind='stable')]
        else:
            rows, images = np.flatnonzero(verdicts.kind == name), dt.image_index
            rows = rows[np.argsort(-dt.scores[rows], kind='stable')]
        firsts = rows[np.sort(np.unique(images[rows], return_index=True)[1])].tolist()
        found = _take((row for row in firsts if int(images[row]) in files), NUM_ERRORS)
        if found:
            chosen[name] = found
    return chosen


def choose_images(
    gt: Annotations, dt: Detections, verdicts: Verdicts, score: float, files: Files
) -> list[int]:
    """Return the images with most wrong detections (from a score on) and missed boxes, most first."""
    num_images = len(gt.image_ids)
    drawn = dt.scores >= score
    right = drawn & (verdicts.kind == 'right')
    wrong = drawn & np.isin(verdicts.kind, FALSE)
    errors = np.bincount(dt.image_index[wrong], minlength=num_images)
    errors += np.bincount(gt.image_index[verdicts.wanted], minlength=num_images)
    errors -= np.bincount(dt.image_index[right], minlength=num_images)
    order = np.argsort(-errors, kind='stable')[: int((errors > 0).sum())].tolist()
    return _take((image for image in order if image in files), NUM_IMAGES)


def _take(values: Iterable[int], count: int) -> list[int]:
    return list(islice(values, count))
