"""The embedded data set 'shapes': drawn by the suite in VOC2007 layout, without a download.

Classes differ only in form: color, texture, size, aspect ratio and rotation have the same distribution for
every class, on cluttered backgrounds with other forms. Later objects hide earlier ones.

- A box encloses the full extent of the object in the image, including hidden parts.
- ``difficult`` is 1 if less than `Spec.difficult_below` of the object's area is visible (neither hidden nor
  outside the image); below `Spec.hidden_below` an object is not annotated.
- Each image depends only on (seed, split, number): the same versions of NumPy and OpenCV give the same
  bytes. The manifest contains the hash of all annotations, by which two machines can be compared.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from rich.progress import track

from compactdet.data.voc import VOCFormatDataset
from compactdet.data.voc_files import find_set, read_entry, read_split
from compactdet.drawing import draw_boxes, write_image
from compactdet.errors import UserError
from compactdet.mmdetection import DATASETS

VERSION = 1  # increased with any change of what is drawn
MANIFEST = 'shapes.json'


@dataclass(frozen=True)
class Spec:
    """Settings of the data set. Lengths are in pixels."""

    images: dict[str, int] = field(default_factory=lambda: {'train': 3000, 'val': 200, 'test': 500})
    seed: int = 2007
    image_size: int = 160
    min_size: int = 44  # of the longer side, before rotation
    max_size: int = 112
    max_objects: int = 4
    max_turn: float = 20  # degrees in either direction
    max_aspect: float = 1.35
    crowding: float = 0.25  # share of objects that are placed on the previous one
    contrast: int = 70  # least distance of an object's mean color from its surroundings; at most 100
    difficult_below: float = 0.4
    hidden_below: float = 0.15


def _polar(radii: Sequence[float] | np.ndarray, start: float = -90.0) -> np.ndarray:
    """Return points at equal angles and the given radii, from ``start`` degrees on."""
    angle = np.deg2rad(start) + np.arange(len(radii)) * 2 * np.pi / len(radii)
    return np.stack([np.cos(angle), np.sin(angle)], 1) * np.asarray(radii)[:, None]


def _crescent() -> np.ndarray:
    outer, inner = np.deg2rad(np.linspace(50, 310, 40)), np.deg2rad(np.linspace(290, 70, 30))
    depth = np.sin(np.deg2rad(50)) / np.sin(np.deg2rad(70))  # the inner arc ends on the outer arc
    center = np.cos(np.deg2rad(50)) - depth * np.cos(np.deg2rad(70))
    return np.concatenate(
        [
            np.stack([np.cos(outer), np.sin(outer)], 1),
            np.stack([center + depth * np.cos(inner), depth * np.sin(inner)], 1),
        ]
    )


# Outline of each class in [-1, 1]^2; further contours are holes.
CLASSES: dict[str, tuple[np.ndarray, ...]] = {
    'circle': (_polar([1] * 48),),
    'square': (_polar([2**0.5] * 4, start=45) * 0.85,),
    'triangle': (_polar([1.1] * 3),),
    'star': (_polar([1.05, 0.42] * 5),),
    'cross': (
        np.array(
            (
                (1, 3),
                (1, 1),
                (3, 1),
                (3, -1),
                (1, -1),
                (1, -3),
                (-1, -3),
                (-1, -1),
                (-3, -1),
                (-3, 1),
                (-1, 1),
                (-1, 3),
            )
        )
        / 3,
    ),
    'ring': (_polar([1] * 48), _polar([0.55] * 48)),
    'crescent': (_crescent(),),
    'arrow': (np.array(((-10, 3), (1, 3), (1, 8), (10, 0), (1, -8), (1, -3), (-10, -3))) / 10,),
}


@dataclass(frozen=True)
class Thing:
    """An annotated object; its box is 1-based and inclusive, as in VOC files."""

    name: str
    box: tuple[int, int, int, int]
    difficult: bool
    truncated: bool


def _fill(contours: Sequence[np.ndarray], size: int) -> np.ndarray:
    """Return the coverage in [0, 255] of a filled outline given in pixels, (size, size) uint8."""
    mask = np.zeros((size, size), np.uint8)
    fixed = [np.round(points * 16).astype(np.int32) for points in contours]
    return cv2.fillPoly(mask, fixed, 255, lineType=cv2.LINE_AA, shift=4)


def _smooth(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Return smooth colored noise in [0, 255], (size, size, 3) float32."""
    coarse = rng.random((cells, cells, 3), np.float32) * 255
    return np.clip(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), 0, 255)


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a zero-mean texture, (size, size, 1) or (size, size, 3) float32: plain, stripes, checks or
    noise.
    """
    kind, strength = rng.integers(5), rng.uniform(5, 20)
    y, x = np.mgrid[:size, :size].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(5, 14)
    u = (x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))) / np.float32(period)
    v = (y * np.float32(np.cos(angle)) - x * np.float32(np.sin(angle))) / np.float32(period)
    if kind == 0:
        return np.zeros((size, size, 1), np.float32)
    if kind == 1:
        wave = np.sign(np.sin(2 * np.pi * u))
    elif kind == 2:
        wave = np.sign(np.sin(np.pi * u) * np.sin(np.pi * v))
    elif kind == 3:
        wave = u * np.float32(period * 2 / size) - np.float32(0.5)  # a gradient
    else:
        return (_smooth(rng, size, max(2, int(size / rng.uniform(3, 10)))) - 127.5) * (strength / 100)
    return np.float32(strength) * wave[..., None]


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return clutter: smooth colors, lines and other forms, (size, size, 3) float32."""
    canvas = _smooth(rng, size, int(rng.integers(2, 7))) * rng.uniform(0.1, 0.35)
    canvas += rng.uniform(0, 255 * 0.2, 3)
    canvas += _texture(rng, size) * rng.uniform(0, 0.6)
    canvas = np.ascontiguousarray(canvas, np.float32)
    for _ in range(rng.integers(0, 4)):
        ends = rng.integers(0, size, (2, 2)).tolist()
        color = rng.uniform(0, 255, 3).tolist()
        cv2.line(canvas, ends[0], ends[1], color, int(rng.integers(1, 5)), cv2.LINE_AA)
    for _ in range(rng.integers(0, 3)):  # blobs with a ragged outline
        radii = rng.uniform(0.35, 1, rng.integers(7, 12))
        points = _polar(radii, rng.uniform(0, 360)) * rng.uniform(6, 26) + rng.uniform(0, size, 2)
        mask = _fill([points], size) > 127
        canvas[mask] = rng.uniform(0, 255, 3) + _texture(rng, size).mean(2)[mask][:, None]
    return canvas


def _layout(spec: Spec, rng: np.random.Generator) -> tuple[list[np.ndarray], list[Thing]]:
    """Place objects: return the coverage of each, (size, size) uint8, lowest first, and the annotated ones.

    Nothing here depends on pixel colors, so annotations do not depend on the arithmetic of the machine.
    """
    size, pad = spec.image_size, spec.max_size // 2  # the canvas also contains parts outside the image
    covers, areas = [], []
    center: np.ndarray = np.zeros(2)
    owner = np.full((size, size), -1, np.int8)
    names = list(CLASSES)
    chosen = [names[i] for i in rng.integers(len(names), size=rng.integers(1, spec.max_objects + 1))]
    for order, name in enumerate(chosen):
        longer = spec.min_size * (spec.max_size / spec.min_size) ** rng.random()
        half = longer / 2 * np.array([1, 1 / rng.uniform(1, spec.max_aspect)])
        angle = np.deg2rad(rng.uniform(-spec.max_turn, spec.max_turn))
        turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        if order and rng.random() < spec.crowding:
            center = center + rng.uniform(-0.5, 0.5, 2) * longer
        else:
            center = rng.uniform(0, size, 2)
        center = np.clip(center, 0.3 * longer, size - 0.3 * longer)  # more than half is in the image
        contours = [points * half @ turn + center + pad for points in CLASSES[name]]
        sheet = _fill(contours, size + 2 * pad)
        covers.append(sheet[pad : pad + size, pad : pad + size])
        areas.append(np.count_nonzero(sheet > 127))
        owner[covers[-1] > 127] = order
    things = []
    for order, (name, cover, area) in enumerate(zip(chosen, covers, areas, strict=True)):
        inside = (cover > 127).astype(np.uint8)
        visible = np.count_nonzero(owner == order) / area
        if visible >= spec.hidden_below:
            x, y, w, h = cv2.boundingRect(inside)
            box = (x + 1, y + 1, x + w, y + h)
            truncated = np.count_nonzero(inside) < area
            things.append(Thing(name, box, visible < spec.difficult_below, truncated))
    return covers, things


def _paint(spec: Spec, rng: np.random.Generator, covers: Sequence[np.ndarray]) -> np.ndarray:
    """Paint objects on clutter, lowest first: (size, size, 3) uint8 BGR."""
    canvas = _background(rng, spec.image_size)
    for cover in covers:
        x, y, w, h = cv2.boundingRect(cover)
        part = (slice(y, y + h), slice(x, x + w))
        alpha = (cover[part] / np.float32(255))[..., None]
        around = canvas[part].reshape(-1, 3).mean(0)
        # Brighter than the ground, always: in the minutes that a CPU has, a network need not also learn
        # that a dark form on bright ground is the same form.
        color = rng.uniform(120, 255, 3)
        while color.mean() < 170 or np.linalg.norm(color - around) < spec.contrast:
            color = rng.uniform(120, 255, 3)
        fill = color.astype(np.float32) + _texture(rng, max(w, h))[:h, :w]
        canvas[part] += alpha * (fill - canvas[part])
    canvas += rng.standard_normal(canvas.shape, np.float32) * np.float32(rng.uniform(2, 10))
    return np.clip(canvas, 0, 255).astype(np.uint8)


def draw_image(spec: Spec, split: str, number: int) -> tuple[np.ndarray, list[Thing]]:
    """Draw one image: (size, size, 3) uint8 BGR, and its annotated objects."""
    key = [spec.seed, list(spec.images).index(split), number]
    covers, things = _layout(spec, np.random.default_rng([*key, 0]))
    return _paint(spec, np.random.default_rng([*key, 1]), covers), things


def to_xml(image_id: str, size: int, things: Sequence[Thing]) -> str:
    """Return the annotation file of a square image with ``size`` pixels per side."""
    objects = ''.join(
        f'  <object>\n    <name>{thing.name}</name>\n    <truncated>{thing.truncated:d}</truncated>\n'
        f'    <difficult>{thing.difficult:d}</difficult>\n    <bndbox>'
        + ''.join(
            f'<{side}>{value}</{side}>'
            for side, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), thing.box, strict=True)
        )
        + '</bndbox>\n  </object>\n'
        for thing in things
    )
    return (
        f'<annotation>\n  <filename>{image_id}.jpg</filename>\n  <size><width>{size}</width>'
        f'<height>{size}</height><depth>3</depth></size>\n{objects}</annotation>\n'
    )


def _draw_set(folder: Path, spec: Spec) -> None:
    for part in ('Annotations', 'JPEGImages', 'ImageSets/Main'):
        (folder / part).mkdir(parents=True)
    jobs = [(split, i) for split, count in spec.images.items() for i in range(count)]
    ids: dict[str, list[str]] = {split: [] for split in spec.images}
    for split, number in track(jobs, description='drawing', transient=True):
        image_id = f'{split}_{number:05d}'
        image, things = draw_image(spec, split, number)
        encoded = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
        (folder / 'JPEGImages' / f'{image_id}.jpg').write_bytes(encoded.tobytes())
        xml = to_xml(image_id, spec.image_size, things)
        (folder / 'Annotations' / f'{image_id}.xml').write_text(xml, encoding='utf-8')
        ids[split].append(image_id)
    for split, names in ids.items():
        (folder / 'ImageSets/Main' / f'{split}.txt').write_text('\n'.join(names) + '\n')
    manifest = _manifest(spec) | {'annotations_sha256': _hash(folder)}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + '\n')


def _manifest(spec: Spec) -> dict[str, Any]:
    return {'set': 'shapes', 'version': VERSION, 'spec': asdict(spec), 'classes': list(CLASSES)}


def _hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in (*sorted(folder.glob('ImageSets/Main/*.txt')), *sorted(folder.glob('Annotations/*'))):
        digest.update(path.name.encode() + b'\0' + path.read_bytes())
    return digest.hexdigest()


def _verify(folder: Path, spec: Spec) -> None:
    cure = 'remove the folder to have it drawn again, or name another one (--data-root, --out)'
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding='utf-8'))
        wrong = [key for key, value in _manifest(spec).items() if manifest[key] != value]
        if not wrong and manifest['annotations_sha256'] != _hash(folder):
            wrong = ['annotations (files were changed or are absent)']
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{folder}' exists but has no valid {MANIFEST}; {cure}") from error
    if wrong:
        raise UserError(f"'{folder}' has other settings: {', '.join(wrong)}; {cure}")


def ensure(root: str | Path, spec: Spec | None = None) -> Path:
    """Draw the data set if it is missing; otherwise check that it has the wanted settings.

    It is drawn in a temporary folder that is renamed when complete. If several processes draw at the same
    time, the first result is kept.

    Raises:
        UserError: ``root`` contains something else, or cannot be written.
    """
    root, spec = Path(root), spec or Spec()
    if root.exists():
        _verify(root, spec)
        return root
    total = sum(spec.images.values())
    print(f"data set 'shapes' is absent: drawing {total} images into '{root}'", flush=True)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f'.{root.name}-', dir=root.parent))
        try:
            draft.chmod(0o755)  # mkdtemp creates a private folder
            _draw_set(draft, spec)
            if not root.exists():
                draft.rename(root)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        if not (root / MANIFEST).is_file():  # exists if another process was faster
            raise UserError(f"cannot write '{root}' ({error.strerror}); name another folder") from error
    _verify(root, spec)
    return root


@DATASETS.register_module()
class ShapesDataset(VOCFormatDataset):
    """A split of 'shapes', drawn if it is missing."""

    METAINFO = {'name': 'shapes', 'classes': tuple(CLASSES)}  # noqa: RUF012 (MMEngine's own form)

    def load_data_list(self) -> list[dict]:
        """Draw or checks the set, then reads the split."""
        ensure(self.data_root)
        return super().load_data_list()


def contact_sheet(root: Path, split: str, count: int, path: Path, *, columns: int = 6) -> None:
    """Write one picture of the first images of a split with boxes and names; difficult ones are gray.

    Raises:
        UserError: The data set cannot be read or the picture cannot be written.
    """
    folder, split_file = find_set(root, f'ImageSets/Main/{split}.txt')
    tiles = []
    for image_id in read_split(split_file)[:count]:
        entry = read_entry(folder, image_id, tuple(CLASSES), split_file)
        tile = mmcv.imread(entry['img_path']).repeat(2, axis=0).repeat(2, axis=1)
        things = entry['instances']
        tile = draw_boxes(
            tile,
            [[2 * side for side in thing['bbox']] for thing in things],
            [list(CLASSES)[thing['bbox_label']] for thing in things],
            [(128, 128, 128) if thing['ignore_flag'] else (0, 255, 0) for thing in things],
        )
        tiles.append(cv2.copyMakeBorder(tile, 2, 2, 2, 2, cv2.BORDER_CONSTANT))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    write_image(path, np.vstack(rows))
