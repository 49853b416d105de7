"""Data sets in PASCAL VOC format, read strictly: a problem stops the run with one line.

- ``difficult`` may be absent and is then 0, as in the development kit.
- Pixels are used as stored: an EXIF orientation is not applied, as in the development kit. Configs state
  this with ``color_type='color_ignore_orientation'``.
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
        """Read and checks every file of the split."""
        classes = self.class_names()
        folder, split_file = find_set(self.data_root, self.ann_file, self.how_to_get)
        return [
            read_entry(folder, image_id, classes, split_file, drop_empty=image_id in self.known_defects)
            for image_id in read_split(split_file)
        ]

    def annotation_bytes(self, entry: Mapping[str, Any]) -> bytes:
        """Return the content of the annotation file."""
        return Path(entry['xml_path']).read_bytes()
