"""Data sets in COCO format, read strictly: a problem stops the run with one line.

Format: cocodataset.org, "Data format", object detection (Lin et al., ECCV 2014). Masks are not read.

- Boxes: the files hold x, y, width, height in continuous pixel coordinates with the origin at the top left
  corner of the image; the suite uses x, y, x + width, y + height.
- ``iscrowd`` boxes are ignored in training and, by COCO's own rule, in evaluation.
- minival2014 and trainval35k are val2017 and train2017: same images, same annotations. If the built files
  are missing, the files of 2017 are read; images are found under the names of either year.
- Deviation from MMDetection's ``CocoDataset``: nothing wrong is skipped silently, boxes with sides below
  one pixel are kept, boxes without area are dropped only in the images of ``known_defects``.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compactdet.data.base_dataset import StrictDataset
from compactdet.data.coco_file import find_annotation_file, read_coco_file
from compactdet.data.coco_images import find_images
from compactdet.data.images import check_image
from compactdet.data.problems import DataError, stop
from compactdet.mmdetection import DATASETS


@DATASETS.register_module()
class COCOFormatDataset(StrictDataset):
    """A split of a data set in COCO format; arguments as `StrictDataset`.

    ``metainfo['ann_file']`` is set to the file that was read, so that `DetectionMetric` finds the areas
    and crowds in it.
    """

    def load_data_list(self) -> list[dict]:
        """Read and check the annotation file, and check that every image exists."""
        classes = self.class_names()
        path = find_annotation_file(self.data_root, self.ann_file, self.how_to_get)
        file = read_coco_file(path, classes, drop_empty=self.known_defects, report=_stop_at_errors)
        self._metainfo['ann_file'] = str(path)
        label = {number: classes.index(name) for number, name in file.categories.items() if name in classes}
        names = [image['file_name'] for image in file.images.values()]
        entries = []
        for (image_id, image), img_path in zip(
            file.images.items(), find_images(Path(self.data_root), path, names), strict=True
        ):
            if not img_path.is_file():
                problem = f'names {image["file_name"]!r}, but there is no file {img_path}'
                raise DataError(problem, 'get it, or take the image out', file=path, kind='image-missing')
            instances = [
                {
                    'bbox': [x, y, x + width, y + height],
                    'bbox_label': label[annotation['category_id']],
                    'ignore_flag': annotation.get('iscrowd', 0),
                    'area': annotation.get('area', width * height),
                }
                for annotation in file.objects[image_id]
                for x, y, width, height in [annotation['bbox']]
            ]
            entries.append(
                {
                    'img_id': image_id,
                    'img_path': str(img_path),
                    'width': image['width'],
                    'height': image['height'],
                    'dropped': tuple(file.dropped.get(image_id, ())),
                    'instances': instances,
                }
            )
        return entries

    def annotation_bytes(self, entry: Mapping[str, Any]) -> bytes:
        """Return size and objects in a fixed order, equal for the files of 2014 and 2017."""
        objects = sorted(json.dumps(instance, sort_keys=True) for instance in entry['instances'])
        return json.dumps([entry['width'], entry['height'], objects]).encode()

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline and compare the size of the image with the annotation."""
        sample = super().prepare_data(idx)
        entry = self.get_data_info(idx)
        shape = getattr(sample.get('data_samples'), 'ori_shape', None) if isinstance(sample, dict) else None
        if shape is not None and tuple(shape) != (entry['height'], entry['width']):
            check_image(entry['img_path'], entry['width'], entry['height'])
        return sample


def _stop_at_errors(error: DataError) -> None:
    """Raise an error, except for annotation id 0, which the suite's evaluator supports, and for rounded
    boxes.
    """
    if error.kind not in ('box-rounded', 'id-zero'):
        stop(error)
