"""Boxes and names on images, readable at any size of the image."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from compactdet.files import write_whole

Color = tuple[int, int, int]  # blue, green, red, 0 to 255
Plate = tuple[int, int, int, int]  # left, top, right, bottom in pixels
MIN_SIDE = 640  # of the longer side of drawn detections, in pixels


def class_colors(num_classes: int) -> list[Color]:
    """Return the colors as far apart as hues allow; of many classes every second one is darker."""
    colors = []
    for i in range(num_classes):
        value = 0.6 if num_classes > 12 and i % 2 else 1.0
        red, green, blue = colorsys.hsv_to_rgb(i / num_classes, 1.0, value)
        colors.append((round(255 * blue), round(255 * green), round(255 * red)))
    return colors


def draw_boxes(
    image: np.ndarray,
    boxes: Sequence[Sequence[float]] | np.ndarray,
    texts: Sequence[str],
    colors: Sequence[Color],
) -> np.ndarray:
    """Return a copy of the image with boxes, and a text on a plate at each.

    A plate is above its box, or at another corner if that covers less of the other plates; later boxes have
    the first choice. Lines and letters grow with the image's shorter side. Later boxes lie above earlier
    ones, and texts above all boxes.

    Args:
        image: (H, W, 3) uint8 BGR.
        boxes: (n, 4) x1, y1, x2, y2 in continuous pixel coordinates.
        texts: One per box.
        colors: One per box.
    """
    drawn = np.ascontiguousarray(image).copy()
    height, width = drawn.shape[:2]
    line = max(1, round(min(height, width) / 300))
    scale = max(0.35, min(height, width) / 900)  # in units of OpenCV's letters, 21 pixels high
    stroke = max(1, round(1.5 * scale))
    pad = line
    corners = [[round(float(side)) for side in box] for box in boxes]
    for (x1, y1, x2, y2), color in zip(corners, colors, strict=True):
        cv2.rectangle(drawn, (x1, y1), (x2 - 1, y2 - 1), color, line)
    sizes = [cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, stroke) for text in texts]
    plate_sizes = [(text + 2 * pad, ascent + descent + 2 * pad) for (text, ascent), descent in sizes]
    plates = place_plates(corners, plate_sizes, (width, height))
    for (left, top, right, bottom), ((_, ascent), _), text, color in zip(
        plates, sizes, texts, colors, strict=True
    ):
        cv2.rectangle(drawn, (left, top), (right, bottom), color, cv2.FILLED)
        blue, green, red = color
        bright = 0.114 * blue + 0.587 * green + 0.299 * red > 128  # luma, ITU-R BT.601
        ink = (0, 0, 0) if bright else (255, 255, 255)
        corner = (left + pad, top + pad + ascent)
        cv2.putText(drawn, text, corner, cv2.FONT_HERSHEY_SIMPLEX, scale, ink, stroke, cv2.LINE_AA)
    return drawn


def place_plates(
    boxes: Sequence[Sequence[int]], sizes: Sequence[tuple[int, int]], image_size: tuple[int, int]
) -> list[Plate]:
    """Return where the plates of boxes lie: at the corner where each covers least of those already placed.

    Args:
        boxes: x1, y1, x2, y2 in pixels; the last is placed first.
        sizes: Width and height of each plate.
        image_size: Width and height of the image, in which all plates lie if they are not larger.
    """
    placed: list[Plate] = []
    for (x1, y1, x2, y2), (width, height) in zip(reversed(boxes), reversed(sizes), strict=True):
        above = y1 - height if y1 >= height else max(0, y1)
        plates = []
        for top in (above, y2, y1, y2 - height):  # above, below, inside at the top, inside at the bottom
            for left in (x1, x2 - width):
                left = max(0, min(left, image_size[0] - width))
                top = max(0, min(top, image_size[1] - height))
                plates.append((left, top, left + width, top + height))
        placed.append(min(plates, key=lambda plate: sum(_overlap(plate, other) for other in placed)))
    return placed[::-1]


def _overlap(one: Plate, other: Plate) -> int:
    """Return the number of pixels that two plates share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0, width) * max(0, height)


def draw_detections(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    scores: Sequence[float] | np.ndarray,
    classes: Sequence[str],
) -> np.ndarray:
    """Return a copy of the image with each detection's box, class and score, the surest on top.

    An image whose longer side is below `MIN_SIDE` is enlarged to it, so that the texts can be read.

    Args:
        image: (H, W, 3) uint8 BGR.
        boxes: (n, 4) x1, y1, x2, y2 in continuous pixel coordinates.
        labels: n indices into ``classes``.
        scores: n, in [0, 1].
        classes: Names; each has its own color.
    """
    palette = class_colors(len(classes))
    factor = MIN_SIDE / max(image.shape[:2])
    if factor > 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
        boxes = boxes * factor
    order = np.argsort(scores, kind='stable')
    return draw_boxes(
        image,
        [boxes[i] for i in order],
        [f'{classes[labels[i]]} {scores[i]:.2f}' for i in order],
        [palette[labels[i]] for i in order],
    )


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an image, completely or not at all; the file's name tells its format.

    Raises:
        UserError: It cannot be written.
    """
    write_whole(path, cv2.imencode(path.suffix, image)[1].tobytes())
