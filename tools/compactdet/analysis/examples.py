"""Which images show best what a detector got wrong, and what there is to see on them.

The choice follows from the numbers alone: of each type the highest-scored errors (of boxes not found the
largest), one per image; and the images with most errors.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from compactdet.analysis.error_types import ERRORS, FALSE, Verdicts
from compactdet.data.annotations import Annotations, Detections

NUM_ERRORS = 5  # of a type
NUM_IMAGES = 6
Files = Mapping[int, Path]  # an image's file by the image's index; images without a file are not drawn


@dataclass(frozen=True)
class Scene:
    """What is drawn of one image: detections from a score on, and boxes that none of them found."""

    right: np.ndarray
    wrong: np.ndarray
    missed: np.ndarray
    ignored: np.ndarray


def find_scene(gt: Annotations, dt: Detections, verdicts: Verdicts, image: int, score: float) -> Scene:
    """Indices of the detections that are right or wrong, and of the boxes that are missed or ignored."""
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
    """Of each type that occurs, detections (of ``miss``: boxes) that show it best, in that order.

    Args:
        gt: Ground truth.
        dt: Detections.
        verdicts: What became of them.
        files: Images that can be shown.
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
    """The images with most wrong detections (from a score on) and boxes not found, the worst first."""
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
