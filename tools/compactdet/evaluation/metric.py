"""The evaluator as an MMEngine metric, for validation and testing."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from compactdet.data.annotations import Annotations, Detections, make_annotations, make_detections
from compactdet.data.readers import read_coco
from compactdet.evaluation.average_precision import list_metrics
from compactdet.evaluation.bootstrap import bootstrap, interval
from compactdet.evaluation.evaluate import evaluate, format_table, match
from compactdet.files import write_whole
from compactdet.mmdetection import METRICS

MAIN_FIGURE = 'voc/ap50_11point'  # used as save_best in configs


@METRICS.register_module()
class DetectionMetric(BaseMetric):
    """Evaluate detections with `compactdet.evaluation.evaluate`.

    Ground truth comes from the data samples, where ``ignored_instances`` are VOC's difficult boxes. The
    samples lack COCO's crowds and mask areas, so for COCO the annotation file is read.

    Args:
        ann_file: COCO annotation file with the ground truth; None for ``metainfo['ann_file']`` of the data
            set, which `COCOFormatDataset` sets, or else the data samples.
        out: Path of predictions.json; None to write none.
        voc_ious: IoU thresholds of the VOC metrics.
        **kwargs: MMEngine's ``BaseMetric`` (``collect_device``, ``prefix``).

    Attributes:
        last: The result of the last evaluation, as `evaluate` returns it.
        evaluated: Its ground truth and detections.
    """

    default_prefix = ''  # the names of metrics contain their rule: voc/..., coco/...

    def __init__(
        self,
        ann_file: str | None = None,
        out: str | None = None,
        voc_ious: Sequence[float] = (0.5,),
        **kwargs: Any,
    ) -> None:
        # Collect over the process group, also on a CPU; the alternative is files that all machines share.
        kwargs.setdefault('collect_device', 'gpu')
        super().__init__(**kwargs)
        self.out = out
        self.voc_ious = tuple(voc_ious)
        self.ann_file = ann_file
        self.last: dict[str, Any] | None = None
        self.evaluated: tuple[Annotations, Detections] | None = None

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Store the parts of a batch that the evaluation needs, as arrays.

        Args:
            data_batch: Unused.
            data_samples: ``img_id``, ``pred_instances`` (boxes in the original image, x1, y1, x2, y2)
                and, without ``ann_file``, ``gt_instances`` and ``ignored_instances``.
        """
        for sample in data_samples:
            kept = {'image_id': sample['img_id']}
            fields: list[tuple[str, Any, tuple[str, ...]]] = [
                ('dt', sample['pred_instances'], ('bboxes', 'labels', 'scores'))
            ]
            if self._coco_file() is None:
                fields += [
                    ('gt', sample['gt_instances'], ('bboxes', 'labels')),
                    ('ignored', sample['ignored_instances'], ('bboxes', 'labels')),
                ]
            for kind, instances, keys in fields:
                kept |= {f'{kind}_{key}': _to_array(instances[key]) for key in keys}
            self.results.append(kept)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """Evaluate all images and log one table.

        Returns:
            ``voc/ap50_11point``, ``coco/ap``, ``voc/ap50_11point/CLASS`` and so on, unrounded. Metrics
            without ground truth are absent.

        Raises:
            ValueError: Two samples have the same image id.
        """
        if not self.dataset_meta or not self.dataset_meta.get('classes'):
            raise ValueError('DetectionMetric needs the class names: the data set has no metainfo.classes')
        classes = list(self.dataset_meta['classes'])
        by_id = {result['image_id']: result for result in results}
        if len(by_id) != len(results):
            raise ValueError(f'{len(results)} samples have {len(by_id)} image ids; they must differ')
        gt = self._ground_truth(by_id, classes)
        dt = _detections(by_id, gt, classes)
        if self.out is not None:
            write_predictions(self.out, gt, dt)
        self.evaluated = gt, dt
        self.last = evaluate(gt, dt, self.voc_ious)
        print_log(f'\n{format_table(self.last)}', logger='current')
        return flatten(self.last)

    def image_intervals(self, num: int = 1000) -> dict[str, float]:
        """Return 95 % bootstrap intervals of the metrics of the last evaluation over its images.

        Args:
            num: Resamples of the images.

        Returns:
            ``{'coco/ap_low95': x, 'coco/ap_high95': y, ...}`` for each AP that is a mean over classes;
            nothing before an evaluation.
        """
        if self.evaluated is None:
            return {}
        tables = match(*self.evaluated, self.voc_ious)
        found: dict[str, float] = {}
        for name, samples in bootstrap(tables, list_metrics(self.voc_ious), num).items():
            ends = interval(samples)
            # The bias correction can move an end outside the range of AP.
            found |= {f'{name}_low95': max(ends.low, 0.0), f'{name}_high95': min(ends.high, 1.0)}
        return found

    def _coco_file(self) -> str | None:
        return self.ann_file or (self.dataset_meta or {}).get('ann_file')

    def _ground_truth(self, by_id: Mapping[Any, dict], classes: list[str]) -> Annotations:
        path = self._coco_file()
        if path is not None:
            gt = read_coco(path)
            if absent := by_id.keys() - set(gt.image_ids):
                raise ValueError(f'image {min(absent)!r} is not in {path}')
            annotated = {gt.classes[label] for label in np.unique(gt.labels)}
            if set(classes) - set(gt.classes) or annotated - set(classes):
                raise ValueError(f"{path}: its categories are not the data set's classes")
            return gt
        image_ids = sorted(by_id)
        parts = [
            (i, kind, by_id[image_id][f'{kind}_bboxes'], by_id[image_id][f'{kind}_labels'])
            for i, image_id in enumerate(image_ids)
            for kind in ('gt', 'ignored')
        ]
        counts = [len(labels) for *_, labels in parts]
        return make_annotations(
            image_ids,
            classes,
            np.repeat([i for i, *_ in parts], counts),
            _stack([labels for *_, labels in parts], ()),
            _stack([boxes for *_, boxes, _ in parts], (4,)),
            difficult=np.repeat([kind == 'ignored' for _, kind, *_ in parts], counts),
        )


def _to_array(value: Any) -> np.ndarray:
    """Convert a tensor, MMDetection's box object or an array to a NumPy array."""
    value = getattr(value, 'tensor', value)
    return np.asarray(value.detach().cpu() if hasattr(value, 'detach') else value)


def _stack(parts: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Join (n_i, *shape) arrays; there may be none."""
    return np.concatenate([np.zeros((0, *shape)), *(part.reshape(-1, *shape) for part in parts)])


def _detections(by_id: Mapping[Any, dict], gt: Annotations, classes: list[str]) -> Detections:
    """Join the images' detections; labels follow ``gt.classes``."""
    label_of = np.array([list(gt.classes).index(name) for name in classes])
    there = [(i, by_id[image_id]) for i, image_id in enumerate(gt.image_ids) if image_id in by_id]
    counts = [len(result['dt_scores']) for _, result in there]
    labels = _stack([result['dt_labels'] for _, result in there], ()).astype(np.int64)
    return make_detections(
        np.repeat([i for i, _ in there], counts),
        label_of[labels],
        _stack([result['dt_bboxes'] for _, result in there], (4,)),
        _stack([result['dt_scores'] for _, result in there], ()),
    )


def flatten(result: dict[str, Any]) -> dict[str, float]:
    """Return all means of `evaluate` as ``{'voc/ap50_area': x, ...}``, and the first metric of each rule by
    class.

    All metrics by class would be hundreds of numbers in one line of the log.
    """
    flat: dict[str, float | None] = {}
    for rule in ('voc', 'coco'):
        means = {name: x for name, x in result[rule].items() if name != 'per_class'}
        flat |= {f'{rule}/{name}': x for name, x in means.items()}
        main = next(iter(means))
        for label, metrics in result[rule]['per_class'].items():
            flat[f'{rule}/{main}/{label}'] = metrics[main]
    return {name: x for name, x in flat.items() if x is not None}


def write_predictions(path: str | Path, gt: Annotations, dt: Detections) -> None:
    """Write predictions.json atomically.

    It is a COCO results list with unrounded numbers and the additional key ``category``, the class name,
    for readers that number the classes differently.

    Raises:
        UserError: The file cannot be written.
    """
    path = Path(path)
    with contextlib.suppress(OSError):  # the writing gives the reason
        path.parent.mkdir(parents=True, exist_ok=True)
    boxes = np.hstack([dt.boxes[:, :2], dt.sizes]).tolist()
    columns = zip(dt.image_index.tolist(), dt.labels.tolist(), boxes, dt.scores.tolist(), strict=True)
    entries = [
        {
            'image_id': gt.image_ids[image],
            'category_id': gt.category_ids[label],
            'category': gt.classes[label],
            'bbox': box,
            'score': score,
        }
        for image, label, box, score in columns
    ]
    write_whole(path, json.dumps(entries))
