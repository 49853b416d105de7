"""Base class of the VOC and COCO data sets, and the facts about a data set in a record."""

import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2

from compactdet.data.images import check_image
from compactdet.data.problems import DataError
from compactdet.errors import UserError
from compactdet.mmdetection import BaseDetDataset


class StrictDataset(BaseDetDataset):
    """A split of a data set, read strictly: nothing wrong is skipped or clipped silently.

    Args:
        data_root: Folder of the data set.
        ann_file: File of the split, relative to ``data_root``.
        known_defects: Ids of images whose boxes without area are dropped, counted and listed.
        how_to_get: Message for the user if the data set is missing.
        **kwargs: Arguments of MMDetection's ``BaseDetDataset``. ``metainfo['classes']`` names the classes;
            ``filter_cfg`` takes ``filter_empty_gt`` and ``min_size`` (pixels), for training only.

    Raises:
        UserError: A file is not valid (on loading), or an image cannot be decoded (on use).
    """

    def __init__(
        self,
        *,
        data_root: str,
        ann_file: str,
        known_defects: Sequence[str | int] = (),
        how_to_get: str = '',
        **kwargs: Any,
    ) -> None:
        self.known_defects = frozenset(known_defects)
        self.how_to_get = how_to_get
        super().__init__(data_root=str(Path(data_root).expanduser()), ann_file=ann_file, **kwargs)

    @classmethod
    def _load_metainfo(cls, metainfo: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return every value unchanged; MMEngine would read the file that a text names, if it exists."""
        return {**cls.METAINFO, **(metainfo or {})}

    def _join_prefix(self) -> None:
        """Leave the paths unchanged: `load_data_list` finds the files."""

    def class_names(self) -> tuple[str, ...]:
        """Return the class names.

        Raises:
            UserError: There are no names, or one occurs twice.
        """
        classes = self._metainfo.get('classes')
        if not classes or isinstance(classes, str) or len(set(classes)) != len(classes):
            raise UserError(f'metainfo.classes is {classes!r}; must name every class once')
        return tuple(classes)

    @abstractmethod
    def annotation_bytes(self, entry: Mapping[str, Any]) -> bytes:
        """Return the content of an image's annotation as bytes, for hashing."""

    def filter_data(self) -> list[dict]:
        """In training, exclude images without boxes or too small ones, as ``filter_cfg`` states."""
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
        """Run the pipeline. The message of an error names the file of a damaged image."""
        try:
            return super().prepare_data(idx)
        except Exception as error:
            entry = self.get_data_info(idx)
            check_image(entry['img_path'], entry['width'], entry['height'], decode=True)
            if isinstance(error, cv2.error) and 'resize' in str(error):  # to a side of 0 pixels
                problem = f'an image of {entry["width"]}x{entry["height"]} pixels is too thin to be resized'
                cure = 'take it out of the split, or train at a larger scale'
                raise DataError(problem, cure, file=entry['img_path'], kind='image-size') from error
            raise


class JoinedDatasets:
    """The data sets of a ``ConcatDataset`` as one, for the facts in a record.

    Args:
        parts: The data sets, of equal classes.
    """

    def __init__(self, parts: Sequence[StrictDataset]) -> None:
        self.parts = list(parts)
        self.metainfo = self.parts[0].metainfo
        self.ann_file = ' + '.join(part.ann_file for part in self.parts)
        self._entries = [(part, index) for part in self.parts for index in range(len(part))]

    def __len__(self) -> int:
        return len(self._entries)

    def get_data_info(self, index: int) -> dict[str, Any]:
        """Return the entry of an image."""
        part, own_index = self._entries[index]
        return part.get_data_info(own_index)


def innermost(dataset: Any, place: str, *, several: bool = False) -> StrictDataset | JoinedDatasets:
    """Return the data set inside wrappers such as ``RepeatDataset`` and ``ConcatDataset``.

    Every image counts once, however often a wrapper repeats it.

    Args:
        dataset: The data set.
        place: Its place, for the message.
        several: Whether there may be more than one, as in a ``ConcatDataset``.

    Raises:
        UserError: It is no data set of the suite; or there are several that may not be, or that differ in
            their classes.
    """
    parts = list(_inner_datasets(dataset, place))
    if len(parts) == 1:
        return parts[0]
    if not several:
        raise UserError(f'{place}: {len(parts)} data sets; only the training split may have several')
    for part in parts[1:]:
        if part.class_names() != parts[0].class_names():
            raise UserError(
                f'{place}: {part.ann_file} in {part.data_root!r} has the classes '
                f'{", ".join(part.class_names())}, {parts[0].ann_file} in {parts[0].data_root!r} has '
                f'{", ".join(parts[0].class_names())}; name the same ones in the same order'
            )
    return JoinedDatasets(parts)


def _inner_datasets(dataset: Any, place: str) -> Iterator[StrictDataset]:
    """Yield the data sets of the suite inside wrappers."""
    if isinstance(dataset, StrictDataset):
        yield dataset
    elif getattr(dataset, 'dataset', None) is not None:
        yield from _inner_datasets(dataset.dataset, place)
    elif getattr(dataset, 'datasets', None):
        for inner in dataset.datasets:
            yield from _inner_datasets(inner, place)
    else:
        raise UserError(
            f'{place}: {type(dataset).__name__} cannot be recorded; use VOCFormatDataset or '
            'COCOFormatDataset'
        )


def annotations_sha256(dataset: StrictDataset | JoinedDatasets) -> str:
    """Return a hash of the annotations of the images in use, in the order of their ids.

    That of joined data sets is the hash of their hashes, since their ids may be equal.
    """
    digest = hashlib.sha256()
    if isinstance(dataset, JoinedDatasets):
        digest.update(' '.join(map(annotations_sha256, dataset.parts)).encode())
        return digest.hexdigest()
    entries = (dataset.get_data_info(i) for i in range(len(dataset)))
    for entry in sorted(entries, key=lambda entry: entry['img_id']):
        data = dataset.annotation_bytes(entry)
        digest.update(f'{entry["img_id"]}\0{len(data)}\0'.encode() + data)
    return digest.hexdigest()


def dataset_facts(dataset: StrictDataset | JoinedDatasets) -> dict[str, Any]:
    """Return the facts about a data set for a record: counts, dropped boxes, classes, hash of the
    annotations.

    ``difficult`` counts the boxes that are ignored: VOC's difficult ones and COCO's crowds.
    """
    entries = [dataset.get_data_info(i) for i in range(len(dataset))]
    objects = [instance for entry in entries for instance in entry['instances']]
    return {
        'images': len(entries),
        'boxes': len(objects),
        'difficult': sum(instance['ignore_flag'] for instance in objects),
        'dropped_boxes': {str(e['img_id']): list(e['dropped']) for e in entries if e['dropped']},
        'classes': list(dataset.metainfo['classes']),
        'annotations_sha256': annotations_sha256(dataset),
    }
