"""Data sets and the judge for the evaluator's tests."""

import contextlib
import copy
import io
import json

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from compactdet.data.readers import read_coco, read_predictions

NAMES = [
    *('ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large'),
    *('ar_1', 'ar_10', 'ar_100', 'ar_small', 'ar_medium', 'ar_large'),
]
XML = '<annotation><size><width>{}</width><height>{}</height></size>{}</annotation>'
OBJECT = (
    '<object><name>{}</name><difficult>{}</difficult><part><bndbox/></part><bndbox><xmin>{}</xmin>'
    '<ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>'
)


class DifficultCOCOeval(COCOeval):
    """The judge, ignoring annotations marked difficult without making crowds of them."""

    def _prepare(self):
        super()._prepare()
        for annotations in self._gts.values():
            for annotation in annotations:
                annotation['ignore'] = annotation['iscrowd'] or annotation.get('difficult', 0)


def judge(gt, dt):
    """pycocotools' 12 figures (-1 for none) and its (T, R, K, A, M) precisions."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(gt)
        coco.createIndex()
        result = DifficultCOCOeval(coco, coco.loadRes(copy.deepcopy(dt)), 'bbox')
        result.evaluate()
        result.accumulate()
        result.summarize()
    return result.stats, result.eval['precision']


def through_files(gt, dt, folder):
    """Both as the evaluator reads them from files."""
    (folder / 'gt.json').write_text(json.dumps(gt))
    (folder / 'dt.json').write_text(json.dumps(dt))
    annotations = read_coco(folder / 'gt.json')
    return annotations, read_predictions(folder / 'dt.json', annotations)


def ours(result):
    return np.array([-1 if result['coco'][name] is None else result['coco'][name] for name in NAMES])


def dataset(boxes, *, num_images, num_classes):
    """A COCO file's content; ``boxes`` rows: image, class, bbox, area, iscrowd."""
    keys = ('image_id', 'category_id', 'bbox', 'area', 'iscrowd')
    return {
        'images': [{'id': i} for i in range(num_images)],
        'categories': [{'id': 3 * k + 1, 'name': f'class{k}'} for k in range(num_classes)],
        'annotations': [{'id': i + 1, **dict(zip(keys, row, strict=True))} for i, row in enumerate(boxes)],
    }


def random_set(
    seed, *, num_images=6, num_boxes=40, num_detections=150, num_classes=3, ties=False, crowd=0.1
):
    """Jittered boxes and strays of all sizes; some images and classes stay empty."""
    rng = np.random.default_rng(seed)

    def anywhere(n):
        sides = np.exp(rng.uniform(np.log(6), np.log(250), (n, 2)))
        return np.hstack([rng.uniform(0, 200, (n, 2)), sides]).round(2)

    place = rng.integers(0, [num_images, num_classes], (num_boxes, 2))
    boxes = anywhere(num_boxes)
    strays = num_detections // 3
    source = rng.integers(0, num_boxes, num_detections - strays)
    near = boxes[source] * np.exp(rng.normal(0, 0.12, (len(source), 4)))
    all_boxes = np.vstack([near.round(2), anywhere(strays)])
    all_places = np.vstack([place[source], rng.integers(0, [num_images, num_classes], (strays, 2))])
    scores = rng.random(num_detections).round(1 if ties else 12)
    order = rng.permutation(num_detections)
    gt = dataset(
        [
            (int(i), 3 * int(k) + 1, box, box[2] * box[3] * rng.uniform(0.5, 1), int(rng.random() < crowd))
            for (i, k), box in zip(place, boxes.tolist(), strict=True)
        ],
        num_images=num_images,
        num_classes=num_classes,
    )
    dt = [
        {
            'image_id': int(all_places[j, 0]),
            'category_id': 3 * int(all_places[j, 1]) + 1,
            'bbox': all_boxes[j].tolist(),
            'score': float(scores[j]),
        }
        for j in order
    ]
    return gt, dt


def write_voc(folder, annotations, size=(100, 80)):
    """A split ``test`` without images; ``annotations`` by id: rows of name, difficult, xmin, ..., ymax."""
    (folder / 'Annotations').mkdir()
    (folder / 'ImageSets' / 'Main').mkdir(parents=True)
    (folder / 'ImageSets' / 'Main' / 'test.txt').write_text('\n'.join(reversed(annotations)) + '\n')
    for image_id, rows in annotations.items():
        write_annotation(folder, image_id, *(OBJECT.format(*row) for row in rows), size=size)


def write_annotation(folder, image_id, *objects, size=(100, 80)):
    (folder / 'Annotations' / f'{image_id}.xml').write_text(XML.format(*size, ''.join(objects)))


DOGS = {
    '000001': [('dog', 0, 1, 1, 10, 10), ('cat', 1, 21, 1, 30, 10), ('dog', 0, 5, 5, 5, 9)],
    '000002': [],
}
