"""The report of tools/analyze.py: a folder with tables, pictures and all numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from compactdet.analysis.charts import NAMES, draw_curves, draw_errors
from compactdet.analysis.error_types import (
    BACKGROUND,
    CURVE_IOUS,
    ERRORS,
    FALSE,
    FOREGROUND,
    SPECIAL,
    Analysis,
    analyze,
    confusions,
)
from compactdet.analysis.example_sheets import draw_error_sheet, draw_image_sheet
from compactdet.analysis.examples import choose_errors, choose_images
from compactdet.analysis.inputs import Material
from compactdet.console import render
from compactdet.data.annotations import Annotations, Detections
from compactdet.errors import UserError
from compactdet.evaluation.average_precision import mean_over_classes
from compactdet.evaluation.evaluate import VERSION
from compactdet.files import write_whole

MEANING = {
    'cls': f'IoU ≥ {FOREGROUND} with a box of another class',
    'loc': f'IoU {BACKGROUND} to {FOREGROUND} with a box of its class',
    'both': f'IoU {BACKGROUND} to {FOREGROUND} with a box of another class',
    'dup': 'its box was taken by a higher-scored detection',
    'bkg': f'IoU below {BACKGROUND} with every box',
    'miss': 'box that is not found, nor the aim of one of the first two',
    'fp': 'every detection that is not right',
    'fn': 'every box that is not found',
}
PICTURES = {
    'errors.png': 'what each type of error costs',
    'pr_curves.png': 'precision-recall curves',
    'examples_errors.jpg': "each type's highest-scored errors, and the largest boxes missed",
    'examples_images.jpg': 'the images with most errors',
}


def write_report(material: Material, out: Path) -> Analysis:
    """Analyze and write analysis.md, analysis.json and the pictures; existing files are replaced.

    Raises:
        UserError: Something cannot be written, or an image cannot be read.
    """
    gt, dt, files = material.gt, material.dt, material.files
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'cannot make the folder {out} ({error.strerror}); choose another --out') from error
    analysis = analyze(gt, dt)
    ap50 = _mean(analysis.ap50)
    if material.recorded is not None and not abs(ap50 - material.recorded) < 1e-6:
        material.notes.append(
            f'AP50 of these predictions is {_percent(ap50)}, but the record of the run says '
            f'{_percent(material.recorded)}: they are of another checkpoint, split or version of the data'
        )
    contents: dict[str, bytes | None] = {
        'errors.png': draw_errors(gt.classes, analysis),
        'pr_curves.png': draw_curves(gt.classes, analysis, 'voc' if material.in_voc else 'coco'),
        'examples_errors.jpg': draw_error_sheet(gt, dt, analysis, files),
        'examples_images.jpg': draw_image_sheet(gt, dt, analysis, files),
    }
    for name, content in contents.items():
        if content is None:
            (out / name).unlink(missing_ok=True)  # from an earlier report
        else:
            write_whole(out / name, content)
    numbers = as_json(material, analysis)
    write_whole(out / 'analysis.json', json.dumps(numbers, indent=1, allow_nan=False) + '\n')
    drawn = [name for name, content in contents.items() if content is not None]
    write_whole(out / 'analysis.md', as_markdown(material, analysis, drawn))
    return analysis


def as_json(material: Material, analysis: Analysis) -> dict[str, Any]:
    """Return all numbers, AP in [0, 1], None for undefined values."""
    gt, dt, verdicts, point = material.gt, material.dt, analysis.verdicts, analysis.point
    counts = count(analysis)
    chosen = choose_errors(gt, dt, verdicts, material.files)
    return {
        'title': material.title,
        'notes': material.notes,
        'evaluator_version': VERSION,
        'thresholds': {'foreground': FOREGROUND, 'background': BACKGROUND},
        'images': len(gt.image_ids),
        'boxes': int(verdicts.wanted.sum()),
        'ignored_boxes': int((~verdicts.wanted).sum()),
        'detections': len(dt.scores),
        'right': int((verdicts.kind == 'right').sum()),
        'ignored_detections': int((verdicts.kind == 'ignored').sum()),
        'beyond_100_detections': int((verdicts.kind == 'beyond').sum()),
        'figures': {name: _by_class(gt, values) for name, values in analysis.metrics.items()},
        'errors': {
            name: {'count': counts[name], 'ap50_gain': _by_class(gt, analysis.gains[name])}
            for name in (*ERRORS, *SPECIAL)
        },
        'operating_point': {
            'score': point.score,
            'right': point.right,
            'wrong': point.wrong,
            'not_found': point.not_found,
            'precision': point.precision,
            'recall': point.recall,
            'f1': point.f1,
        },
        'confusions': [
            {'detected': detected, 'is': truth, 'count': number, 'count_at_operating_point': at}
            for detected, truth, number, at in confusions(gt, dt, verdicts, point.score)
        ],
        'curves': {
            rule: {
                f'iou {iou:g}': {
                    label: None if np.isnan(row).any() else row.tolist()
                    for label, row in zip(gt.classes, values[:, column], strict=True)
                }
                for column, iou in enumerate(CURVE_IOUS)
            }
            for rule, values in analysis.curves.items()
        },
        'examples': {
            'errors': {
                name: [_example(gt, dt, name, row) for row in rows] for name, rows in chosen.items()
            },
            'images': [
                gt.image_ids[i] for i in choose_images(gt, dt, verdicts, point.score, material.files)
            ],
        },
    }


def count(analysis: Analysis) -> dict[str, int]:
    """Return the number of detections (for ``miss`` and ``fn`` of boxes) of each of ``ERRORS`` and
    ``SPECIAL``.
    """
    verdicts = analysis.verdicts
    counts = {name: int((verdicts.kind == name).sum()) for name in FALSE}
    counts['miss'] = int(verdicts.missed.sum())
    counts['fp'] = sum(counts[name] for name in FALSE)
    counts['fn'] = int((verdicts.wanted & (verdicts.taker < 0)).sum())
    return counts


def _by_class(gt: Annotations, values: np.ndarray) -> dict[str, Any]:
    plain = {label: _plain(value) for label, value in zip(gt.classes, values.tolist(), strict=True)}
    return {'mean': _plain(_mean(values)), 'per_class': plain}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value


def _example(gt: Annotations, dt: Detections, name: str, row: int) -> dict[str, Any]:
    if name == 'miss':
        image, label, box = gt.image_index[row], gt.labels[row], gt.boxes[row]
        return {'image_id': gt.image_ids[image], 'category': gt.classes[label], 'box': box.tolist()}
    image, label, box = dt.image_index[row], dt.labels[row], dt.boxes[row]
    return {
        'image_id': gt.image_ids[image],
        'category': gt.classes[label],
        'box': box.tolist(),
        'score': float(dt.scores[row]),
    }


def as_markdown(material: Material, analysis: Analysis, pictures: Sequence[str]) -> str:
    """Return the report with tables and the pictures that were drawn."""
    gt, verdicts, point = material.gt, analysis.verdicts, analysis.point
    counts = count(analysis)
    metrics = ', '.join(
        f'{label} {_percent(_mean(analysis.metrics[name]))}' for label, name in _main_metrics(material)
    )
    ignored = int((~verdicts.wanted).sum())
    ignored_too = f' and {ignored} that are ignored (difficult, crowd)' if ignored else ''
    costs = [
        [NAMES[name], MEANING[name], str(counts[name]), _percent(_mean(analysis.gains[name]))]
        for name in (*ERRORS, *SPECIAL)
    ]
    lines = [
        f'# {_cell(material.title)}',
        '',
        f'{len(gt.image_ids)} images, {int(verdicts.wanted.sum())} boxes{ignored_too}, '
        f'{len(verdicts.kind)} detections. {metrics}.',
        '',
        *(f'Note: {_cell(note)}.\n' for note in material.notes),
        '## What the errors cost',
        '',
        *_table(['type', 'what it is', 'how many', 'points of AP50'], costs),
        '',
        'The types are those of TIDE (arXiv:2008.08115). The points are what AP50 (COCO, '
        f'{_percent(_mean(analysis.ap50))} now) gains when one type alone is put right; they do not add up '
        'to what is missing. The last two count the same errors in another way.',
        '',
        f'Of the detections scored {point.score:.3f} or more (highest F1) {point.right} are right and '
        f'{point.wrong} wrong, and {point.not_found} boxes are not found: precision '
        f'{_percent(point.precision)} %, recall {_percent(point.recall)} %. The images below show these '
        'detections.',
        '',
        '## By class',
        '',
        *_class_table(material, analysis),
    ]
    mixed = confusions(gt, material.dt, verdicts, point.score)[:10]
    if mixed:
        rows = [[detected, truth, str(number), str(at)] for detected, truth, number, at in mixed]
        head = ['detected', 'is', 'how often', f'scored {point.score:.3f} or more']
        lines += ['', '## Classes taken for one another', '', *_table(head, rows)]
    for name in pictures:
        lines += ['', f'## {PICTURES[name].capitalize()}', '', f'![{PICTURES[name]}]({name})']
    return '\n'.join(lines) + '\n'


def _main_metrics(material: Material) -> list[tuple[str, str]]:
    voc = [('VOC 11-point AP50', 'voc/ap50_11point')] if material.in_voc else []
    return [*voc, ('COCO AP', 'coco/ap'), ('AP50', 'coco/ap50'), ('AP75', 'coco/ap75')]


def _class_table(material: Material, analysis: Analysis) -> list[str]:
    """Return metrics and costs of the error types by class; classes without boxes are excluded."""
    gt, main = material.gt, _main_metrics(material)
    boxes = np.bincount(gt.labels[analysis.verdicts.wanted], minlength=len(gt.classes))
    columns = [analysis.metrics[name] for _, name in main] + [analysis.gains[name] for name in ERRORS]
    rows = [
        [gt.classes[k], str(boxes[k]), *(_percent(values[k]) for values in columns)]
        for k in np.flatnonzero(boxes)
    ]
    rows.append(['**mean**', str(boxes.sum()), *(_percent(_mean(values)) for values in columns)])
    head = ['class', 'boxes', *(label for label, _ in main), *(NAMES[name] for name in ERRORS)]
    return _table(head, rows)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ['---'] * len(head), *rows]
    return ['| ' + ' | '.join(_cell(text) for text in line) + ' |' for line in lines]


def summary(analysis: Analysis) -> str:
    """Return the costs of the errors as plain text."""
    table = Table('type', 'what it is')
    for title in ('how many', 'points of AP50'):
        table.add_column(title, justify='right')
    counts = count(analysis)
    for name in (*ERRORS, *SPECIAL):
        if name == SPECIAL[0]:
            table.add_section()
        gain = _percent(_mean(analysis.gains[name]))
        table.add_row(NAMES[name], MEANING[name], str(counts[name]), gain)
    return render(table)


def _cell(text: str) -> str:
    """Return a text that stays in one cell and line."""
    return ' '.join(text.split()).replace('|', '\\|')


def _percent(value: float) -> str:
    return '-' if math.isnan(value) else f'{100 * value:.1f}'


def _mean(values: np.ndarray) -> float:
    return float(mean_over_classes(values))
