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

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compactdet.data.base_dataset import StrictDataset
from compactdet.data.voc_files import (
    find_set,
    read_entry,
    read_split,
)
from compactdet.mmdetection import DATASETS


@DATASETS.register_module()
class VOCFormatDataset(StrictDataset):
    """A split of a data set in VOC format; arguments as `StrictDataset`, ``ann_file`` as `find_set`."""

    def __init__(
        self, *, data_root: str, ann_file: str = 'ImageSets/Main/train.txt', **kwargs: Any
    ) -> None:
        super().__init__(data_root=data_root, ann_file=ann_file, **kwargs)

    def load_data_list(self) -> list[dict]:
        """Reads and checks every file of the split."""
        classes = self.class_names()
        folder, split_file = find_set(self.data_root, self.ann_file, self.how_to_get)
        return [
            read_entry(folder, image_id, classes, split_file, drop_empty=image_id in self.known_defects)
            for image_id in read_split(split_file)
        ]

    def annotation_bytes(self, entry: Mapping[str, Any]) -> bytes:
        """The annotation file."""
        return Path(entry['xml_path']).read_bytes()
