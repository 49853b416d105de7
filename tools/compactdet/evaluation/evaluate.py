"""Average precision by the rules of VOC and COCO, from one pass over the files and the overlaps.

- VOC: 11-point AP (VOC2007) and area under the curve (from VOC2010), at IoU 0.5 or any list of IoUs.
- COCO: the 12 metrics of ``COCOeval`` (10 IoUs, 101 recalls, areas, 1/10/100 detections).

Sources: Everingham et al., IJCV 2010, section 4.2; VOC development kits; pycocotools 2.0. The matching
rules and their ties are described in `compactdet.evaluation.matching`.

Boxes are continuous (x1 = xmin - 1, x2 = xmax for VOC's 1-based inclusive pixels). So ``x2 - x1`` is VOC's
``xmax - xmin + 1``, ``min(x2) - max(x1)`` is VOC's ``min(xmax) - max(xmin) + 1``, and the IoU equals that
of the development kit, including its "+1".

``difficult`` boxes are ignored; metrics with ``_with_difficult`` count them as any other. Under COCO's
rule, which has no such flag, an ignored difficult box is treated as a box outside the area range: its IoU
is the ordinary one, and it excuses one detection. (MMDetection's ``CocoMetric`` treats them as crowds,
which excuse any number of detections at a less strict overlap.) Under VOC's rule, which has no crowds, a
crowd is ignored like a difficult box, in both kinds of metrics.

Deviations:

- The 11 recalls are 0.1 * k in floating point, as in MMDetection: a recall of exactly 3/10, 6/10 or 7/10
  misses its point by one rounding (VOC2007's Matlab code misses only 3/10).
- COCO: an annotation with id 0 is matched like any other (COCOeval takes its match for none); no
  ``np.spacing(1)`` in the precision (2e-16).
- Classes without ground truth are excluded from means and are None, never -1 or NaN.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from compactdet.console import render
from compactdet.data.annotations import Annotations, Detections
from compactdet.evaluation.average_precision import AREAS, COCO_IOUS, mean_over_classes, metrics_per_class
from compactdet.evaluation.matching import MatchTable, Pairs, find_pairs, match_coco, match_voc

VERSION = 1  # increased whenever a metric can change; part of the protocol


def match(
    gt: Annotations,
    dt: Detections,
    voc_ious: Sequence[float] = (0.5,),
    *,
    with_difficult: bool = False,
    pairs: Pairs | None = None,
) -> dict[str, MatchTable]:
    """Match by both rules; return the tables ``voc``, ``all``, ``small``, ``medium`` and ``large``."""
    if pairs is None:
        pairs = find_pairs(gt, dt, min(0.5, *voc_ious))
    ignore = gt.crowd if with_difficult else gt.crowd | gt.difficult
    coco = match_coco(gt, dt, pairs, COCO_IOUS, ignore, list(AREAS.values()))
    voc = match_voc(gt, dt, pairs, np.array(voc_ious, float), ignore)
    return {'voc': voc, **dict(zip(AREAS, coco, strict=True))}


def evaluate(gt: Annotations, dt: Detections, voc_ious: Sequence[float] = (0.5,)) -> dict[str, Any]:
    """Compute every metric.

    Args:
        gt: Ground truth.
        dt: Detections.
        voc_ious: IoU thresholds of the VOC metrics.

    Returns:
        ``{'evaluator_version', 'images', 'boxes', 'detections', 'voc': {...}, 'coco': {...}}``. The
        last two hold metrics as plain floats (``ap50_11point``, ``ap50_11point_with_difficult``,
        ``ap``, ``ar_100``, ...), None if no class has ground truth, and the same by class name
        under ``per_class``.
    """
    pairs = find_pairs(gt, dt, min(0.5, *voc_ious))
    values = counted = metrics_per_class(match(gt, dt, voc_ious, pairs=pairs), voc_ious)
    if gt.difficult.any():
        tables = match(gt, dt, voc_ious, with_difficult=True, pairs=pairs)
        counted = metrics_per_class(tables, voc_ious)
    values = values | {f'{name}_with_difficult': value for name, value in counted.items()}
    result: dict[str, Any] = {
        'evaluator_version': VERSION,
        'images': len(gt.image_ids),
        'boxes': len(gt.boxes),
        'detections': len(dt.scores),
    }
    for rule in ('voc', 'coco'):
        own = {name.split('/')[1]: value for name, value in values.items() if name.startswith(rule)}
        result[rule] = {name: _mean(value) for name, value in own.items()}
        result[rule]['per_class'] = {
            label: {name: _mean(value[i : i + 1]) for name, value in own.items()}
            for i, label in enumerate(gt.classes)
        }
    return result


def _mean(values: np.ndarray) -> float | None:
    """Return the mean of (n,), ignoring NaN; None if all are."""
    mean = float(mean_over_classes(values))
    return None if np.isnan(mean) else mean


def format_table(result: dict[str, Any]) -> str:
    """Format the main metrics of `evaluate`, by class and as means, in percent."""
    columns = {
        'voc': [name for name in result['voc'] if name.startswith('ap') and 'with' not in name],
        'coco': ['ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large', 'ar_100'],
    }
    table = Table('class')
    for rule, names in columns.items():
        for name in names:
            table.add_column(f'{rule}\n{name}', justify='right')
    classes = result['voc']['per_class']
    for label in [*classes, None]:
        if label is None:
            table.add_section()
        metrics = [
            (result[rule] if label is None else result[rule]['per_class'][label])[name]
            for rule, names in columns.items()
            for name in names
        ]
        texts = ['-' if metric is None else f'{100 * metric:.1f}' for metric in metrics]
        table.add_row(label or 'mean', *texts)
    return render(table)
