"""Data sets in PASCAL VOC's format, read strictly: what is wrong stops the run with one clear line.

A data set's folder holds ``Annotations/ID.xml``, ``JPEGImages/ID.jpg`` and
``ImageSets/Main/SPLIT.txt`` with one ID a line. Format: VOC2007 development kit (Everingham et al.,
IJCV 2010).

- Boxes: the files hold 1-based, inclusive pixel indices; ours are continuous pixel coordinates with
  the origin at the image's top left corner: ``x1 = xmin - 1, y1 = ymin - 1, x2 = xmax, y2 = ymax``.
  So the continuous area is VOC's area with its "+1", exactly.
- ``difficult`` may be absent and is then 0, as in the development kit.
- Pixels are taken as they are stored: an EXIF orientation is not applied, as in the development
  kit. Configs tell MMDetection so with ``color_type='color_ignore_orientation'``.
- Deviation from the kit and from MMDetection's ``XMLDataset``: nothing wrong is skipped or clipped.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

import cv2
import numpy as np
from defusedxml import DefusedXmlException
from defusedxml import ElementTree as SafeElementTree
from PIL import Image

from bench.errors import UserError
from bench.mmdetection import DATASETS, BaseDetDataset

JPEG_SCAN, JPEG_END = b'\xff\xda', b'\xff\xd9'  # markers


@dataclass(frozen=True)
class Annotation:
    """One image's annotation file.

    Attributes:
        width: Image width, pixels.
        height: Image height, pixels.
        boxes: (n, 4) float32, continuous x1, y1, x2, y2 in pixels.
        names: n class names.
        labels: (n,) int64, index into the classes; -1 where no classes were given.
        difficult: (n,) bool.
        dropped: Numbers (from 1) of the objects without area that were left out.
    """

    width: int
    height: int
    boxes: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    difficult: np.ndarray
    dropped: tuple[int, ...] = ()


def parse_annotation(
    path: str | Path, classes: Sequence[str] | None = None, *, drop_empty: bool = False
) -> Annotation:
    """Reads one annotation file.

    ``classes`` None accepts any name; ``drop_empty`` leaves out boxes without area (a known defect).

    Raises:
        UserError: The file is absent, malformed or hostile XML, lacks a field, or holds an unknown
            class, a box without area or a box outside the image. Names the file, object and value.
    """
    root = _parse_xml(Path(path))
    width, height = (_whole(root, f'size/{side}', str(path)) for side in ('width', 'height'))
    sides = ('xmin', 'ymin', 'xmax', 'ymax')
    index = {name: i for i, name in enumerate(classes or ())}
    boxes, names, difficult, dropped = [], [], [], []
    for number, element in enumerate(root.findall('object'), start=1):
        where = f'{path}: object {number}'
        name = _text(element, 'name', where)
        if classes is not None and name not in index:
            raise UserError(f'{where}: {_unknown_class(name, classes)}')
        flag = element.findtext('difficult', default='0').strip()
        if flag not in ('0', '1'):
            raise UserError(f'{where}: <difficult> is {flag!r}, must be 0 or 1; mend the file')
        xmin, ymin, xmax, ymax = (_number(element, f'bndbox/{side}', where) for side in sides)
        box = f'box xmin={xmin:g} ymin={ymin:g} xmax={xmax:g} ymax={ymax:g}'
        if xmax <= xmin or ymax <= ymin:
            if drop_empty:
                dropped.append(number)
                continue
            raise UserError(
                f'{where}: {box} has no area; mend or remove it (if it is a known defect of a '
                'public set, name the image in known_defects: its boxes without area are dropped)'
            )
        if xmin < 1 or ymin < 1 or xmax > width or ymax > height:
            raise UserError(
                f'{where}: {box} lies outside the image of {width}x{height}; mend the file (VOC '
                'counts pixels from 1 to the width and height; where it counts from 0, add 1)'
            )
        boxes.append((xmin - 1, ymin - 1, xmax, ymax))
        names.append(name)
        difficult.append(flag == '1')
    return Annotation(
        width=width,
        height=height,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        names=tuple(names),
        labels=np.array([index.get(name, -1) for name in names], np.int64),
        difficult=np.array(difficult, bool),
        dropped=tuple(dropped),
    )


def _parse_xml(path: Path) -> Element:
    try:
        root = SafeElementTree.fromstring(path.read_bytes(), forbid_dtd=True)
    except OSError as error:
        raise UserError(f'{path}: cannot read the annotation file ({error.strerror})') from error
    except DefusedXmlException as error:
        raise UserError(
            f'{path}: refused: it holds a DTD or entities ({type(error).__name__}), as hostile '
            'files do and no VOC file needs; remove its DOCTYPE or get the file anew'
        ) from error
    except (ParseError, ValueError, LookupError) as error:  # the last two: a bad declared encoding
        raise UserError(f'{path}: malformed XML ({error}); mend the file or get it anew') from error
    if root.tag != 'annotation':
        raise UserError(f'{path}: its root is <{root.tag}>, not <annotation>: not a VOC annotation')
    return root


def _text(element: Element, tag: str, where: str) -> str:
    text = element.findtext(tag, default='').strip()
    if not text:
        raise UserError(f'{where}: <{tag}> is missing or empty; add it')
    return text


def _number(element: Element, tag: str, where: str) -> float:
    text = _text(element, tag, where)
    try:
        value = float(text)
    except ValueError:
        value = float('nan')
    if not np.isfinite(value):
        raise UserError(f'{where}: <{tag}> is {text!r}, not a finite number; mend the file')
    return value


def _whole(element: Element, tag: str, where: str) -> int:
    value = _number(element, tag, where)
    if value < 1 or value != int(value):
        raise UserError(f'{where}: <{tag}> is {value:g}, not a positive whole number; mend the file')
    return int(value)


def _unknown_class(name: str, classes: Sequence[str]) -> str:
    by_lower = {known.lower(): known for known in classes}
    near = [by_lower[low] for low in get_close_matches(name.lower(), by_lower, n=3)]
    hint = f'did you mean {" or ".join(near)}?' if near else f'known: {", ".join(classes)}'
    return f'unknown class {name!r} ({hint}); mend the file, or name the class in metainfo.classes'


def check_image(path: str | Path, width: int, height: int, *, decode: bool = False) -> None:
    """Checks an image file against the size (pixels) that its annotation states.

    A JPEG must hold its end marker, bytes may follow it; ``decode`` also decodes it, which is slow.

    Raises:
        UserError: The file is absent, not an image, truncated, or of another size.
    """
    try:
        with Path(path).open('rb') as file, Image.open(file) as image:
            size, turned = image.size, image.getexif().get(274, 1) != 1  # 274: EXIF orientation
            truncated = False
            file.seek(-min(64, Path(path).stat().st_size), 2)
            tail = file.read().rstrip(b'\0\r\n ')
            if image.format in ('JPEG', 'MPO') and not tail.endswith(JPEG_END):
                data = Path(path).read_bytes()  # neither marker can occur in the data of a scan
                truncated = data.rfind(JPEG_END) < data.rfind(JPEG_SCAN)
    except FileNotFoundError as error:
        raise UserError(f'{path}: no such image; get it, or take its id out of the split') from error
    except Exception as error:  # Pillow's readers raise many kinds on broken files
        raise UserError(f'{path}: not a readable image ({error}); get the file anew') from error
    if truncated:
        raise UserError(f'{path}: truncated: its data never ends; get the file anew')
    if size != (width, height):
        exif = '; its EXIF orientation is set: save the image upright without it' if turned else ''
        raise UserError(
            f'{path}: the image is {size[0]}x{size[1]} but its annotation says {width}x{height}; '
            f'mend the one that is wrong{exif}'
        )
    if decode:
        try:
            with Image.open(path) as image:
                image.load()  # some versions of OpenCV, which trains, let truncated files pass
        except Exception as error:  # as above
            raise UserError(f'{path}: truncated or corrupt ({error}); get it anew') from error
        if cv2.imread(str(path)) is None:
            raise UserError(f'{path}: OpenCV cannot decode it; get it anew or save it as JPEG')


def read_split(path: Path) -> list[str]:
    """Reads a split file: one image id a line.

    Raises:
        UserError: The file is absent, empty, not text, or holds an id twice or two on one line.
    """
    try:
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except FileNotFoundError as error:
        there = ', '.join(sorted(file.stem for file in path.parent.glob('*.txt'))) or 'none'
        raise UserError(f'{path}: no such split file; splits there: {there}') from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'{path}: cannot read the split file ({error})') from error
    ids = [line.strip() for line in lines if line.strip()]
    if not ids:
        raise UserError(f'{path}: the split is empty; write one image id a line')
    for image_id, count in Counter(ids).items():
        if len(image_id.split()) > 1:
            raise UserError(f'{path}: line {image_id!r} must be one image id')
        if count > 1:
            raise UserError(f'{path}: image id {image_id!r} is there {count} times; keep one line')
    return ids


def find_set(data_root: str | Path, ann_file: str | Path, how_to_get: str = '') -> tuple[Path, Path]:
    """Finds a data set's folder and split file.

    ``ann_file`` is ``[FOLDER/]ImageSets/Main/SPLIT.txt``, below ``data_root``; FOLDER is left out where
    ``data_root`` itself holds ``ImageSets``: VOC07's kit will do, and the ``VOC2007`` in it too.

    Raises:
        UserError: There is no such folder; says how to get the data set.
    """
    root, parts = Path(data_root), Path(ann_file).parts
    if 'ImageSets' not in parts:
        raise UserError(f"ann_file is '{ann_file}'; must be [FOLDER/]ImageSets/Main/SPLIT.txt")
    split = parts.index('ImageSets')
    folder = root if (root / 'ImageSets').is_dir() else root.joinpath(*parts[:split])
    for part in ('ImageSets', 'Annotations', 'JPEGImages'):
        if not (folder / part).is_dir():
            state = 'is not complete' if root.is_dir() else 'is absent'
            raise UserError(
                f"data set '{data_root}' {state}: no folder {folder / part}. "
                + (how_to_get or 'Point --data-root at a data set in VOC format.')
            )
    return folder, folder.joinpath(*parts[split:])


def read_entry(
    folder: Path,
    image_id: str,
    classes: Sequence[str] | None,
    split_file: Path,
    *,
    drop_empty: bool = False,
    decode: bool = False,
) -> dict[str, Any]:
    """Reads one image's entry for MMDetection's pipelines, as its ``XMLDataset`` makes them.

    ``drop_empty`` is `parse_annotation`'s, ``decode`` is `check_image`'s.

    Raises:
        UserError: From the annotation or the image, or one of them is absent.
    """
    xml_path = folder / 'Annotations' / f'{image_id}.xml'
    img_path = folder / 'JPEGImages' / f'{image_id}.jpg'
    for path in (xml_path, img_path):
        if not path.is_file():
            raise UserError(
                f'{split_file}: names {image_id!r}, but there is no file {path}; get it, or take '
                'the line out'
            )
    annotation = parse_annotation(xml_path, classes, drop_empty=drop_empty)
    width, height = annotation.width, annotation.height
    check_image(img_path, width, height, decode=decode)
    return {
        'img_id': image_id,
        'img_path': str(img_path),
        'xml_path': str(xml_path),
        'width': width,
        'height': height,
        'dropped': annotation.dropped,
        'instances': [
            {'bbox': box.tolist(), 'bbox_label': int(label), 'ignore_flag': int(difficult)}
            for box, label, difficult in zip(
                annotation.boxes, annotation.labels, annotation.difficult, strict=True
            )
        ],
    }


def find_problems(folder: Path, split_file: Path, classes: Sequence[str] | None) -> Iterator[str | None]:
    """Reads a whole split and decodes its images; yields an image's first problem, or None."""
    for image_id in read_split(split_file):
        try:
            read_entry(folder, image_id, classes, split_file, decode=True)
            yield None
        except UserError as error:
            yield str(error)


@DATASETS.register_module()
class VOCFormatDataset(BaseDetDataset):
    """A split of a data set in VOC format.

    Args:
        data_root, ann_file: See `find_set`.
        known_defects: Ids of images whose boxes without area are dropped, counted and listed.
        how_to_get: Said where the data set is absent.
        **kwargs: MMDetection's ``BaseDetDataset``. ``metainfo['classes']`` names the classes;
            ``filter_cfg`` takes ``filter_empty_gt`` and ``min_size`` (pixels), for training only.

    Raises:
        UserError: A file is wrong, when it is loaded; an image cannot be decoded, when it is used.
    """

    def __init__(
        self,
        *,
        data_root: str,
        ann_file: str = 'ImageSets/Main/train.txt',
        known_defects: Sequence[str] = (),
        how_to_get: str = '',
        **kwargs: Any,
    ) -> None:
        self.known_defects = frozenset(known_defects)
        self.how_to_get = how_to_get
        super().__init__(data_root=str(data_root), ann_file=ann_file, **kwargs)

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Takes every value as it is: MMEngine reads the file, if there is one, that a text names."""
        return {**cls.METAINFO, **(metainfo or {})}

    def _join_prefix(self) -> None:
        """Leaves the paths as given: `load_data_list` finds the folder."""

    def load_data_list(self) -> list[dict]:
        """Reads and checks every file of the split."""
        classes = self._metainfo.get('classes')
        if not classes or isinstance(classes, str) or len(set(classes)) != len(classes):
            raise UserError(f'metainfo.classes is {classes!r}; must name every class once')
        folder, split_file = find_set(self.data_root, self.ann_file, self.how_to_get)
        return [
            read_entry(folder, image_id, classes, split_file, drop_empty=image_id in self.known_defects)
            for image_id in read_split(split_file)
        ]

    def filter_data(self) -> list[dict]:
        """In training, leaves out the images that ``filter_cfg`` says: empty or too small."""
        cfg = dict(self.filter_cfg or {})
        no_empty, min_size = cfg.pop('filter_empty_gt', False), cfg.pop('min_size', 0)
        if cfg:
            raise UserError(f'filter_cfg has {sorted(cfg)}; known: filter_empty_gt, min_size')
        if self.test_mode:
            return self.data_list
        kept = [
            entry
            for entry in self.data_list
            if min(entry['width'], entry['height']) >= min_size and (entry['instances'] or not no_empty)
        ]
        if not kept:
            raise UserError(
                f"{self.ann_file} in '{self.data_root}': no image is left after filter_cfg "
                f'{self.filter_cfg}; annotate objects or relax it'
            )
        return kept

    def prepare_data(self, idx: int) -> Any:
        """Runs the pipeline; where it fails on a damaged image, says which file."""
        try:
            return super().prepare_data(idx)
        except Exception:
            entry = self.get_data_info(idx)
            check_image(entry['img_path'], entry['width'], entry['height'], decode=True)
            raise


def annotations_sha256(dataset: VOCFormatDataset) -> str:
    """Hashes the annotation files of the images in use, in the order of their ids."""
    digest = hashlib.sha256()
    entries = (dataset.get_data_info(i) for i in range(len(dataset)))
    for entry in sorted(entries, key=lambda entry: entry['img_id']):
        data = Path(entry['xml_path']).read_bytes()
        digest.update(f'{entry["img_id"]}\0{len(data)}\0'.encode() + data)
    return digest.hexdigest()


def dataset_facts(dataset: VOCFormatDataset) -> dict[str, Any]:
    """What a record says of a data set: counts, dropped boxes, classes, hash of the annotations."""
    entries = [dataset.get_data_info(i) for i in range(len(dataset))]
    objects = [instance for entry in entries for instance in entry['instances']]
    return {
        'images': len(entries),
        'boxes': len(objects),
        'difficult': sum(instance['ignore_flag'] for instance in objects),
        'dropped_boxes': {e['img_id']: list(e['dropped']) for e in entries if e['dropped']},
        'classes': list(dataset.metainfo['classes']),
        'annotations_sha256': annotations_sha256(dataset),
    }
