"""Inputs of tools/analyze.py: ground truth, predictions and images, of a run or from files."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compactdet.data.annotations import Annotations, Detections
from compactdet.data.coco_file import find_annotation_file
from compactdet.data.coco_images import find_images
from compactdet.data.problems import DataError
from compactdet.data.readers import note_on_predictions, read_coco, read_predictions, read_voc
from compactdet.data.voc_files import find_set, image_file
from compactdet.errors import UserError
from compactdet.files import load_json


@dataclass(frozen=True)
class Material:
    """The inputs of an analysis.

    Attributes:
        title: Title of the report.
        gt: Ground truth.
        dt: Detections.
        in_voc: Whether the ground truth is in VOC format; the curves then follow VOC's rule.
        files: Files of the existing images, by index.
        notes: Notes for the reader.
        recorded: AP50 in the record of the run, if there is a run.
    """

    title: str
    gt: Annotations
    dt: Detections
    in_voc: bool
    files: Mapping[int, Path]
    notes: list[str] = field(default_factory=list)
    recorded: float | None = None


def from_files(
    gt_path: Path,
    dt_path: Path,
    split: str = 'test',
    classes: Sequence[str] | None = None,
    title: str | None = None,
) -> Material:
    """Read ground truth and predictions, and find the images.

    Args:
        gt_path: COCO annotation file, or folder in VOC format.
        dt_path: predictions.json.
        split: Split of a VOC folder.
        classes: Classes of a VOC folder in the order of category_id; None as in `read_voc`.
        title: Title of the report; None for the path of the predictions.

    Raises:
        UserError: A file is missing or not valid, or there is no image.
    """
    in_voc = gt_path.is_dir()
    gt = read_voc(gt_path, split, classes) if in_voc else read_coco(gt_path)
    if len(gt.image_ids) == 0:
        raise UserError(f'{gt_path}: has no images')
    dt = read_predictions(dt_path, gt)
    notes = list(gt.notes)
    if note := note_on_predictions(dt_path, gt, dt):
        notes.append(note)
    found = len(notes)
    try:
        files = _voc_images(gt_path, gt) if in_voc else _coco_images(gt_path, gt)
    except DataError as error:  # the metrics do not need the images
        files = {}
        notes.append(f'no image is drawn: {error}')
    if not files and len(notes) == found:
        notes.append(f'no image of {gt_path} was found, so none is drawn')
    return Material(title or str(dt_path), gt, dt, in_voc, files, notes)


def from_run(
    run_dir: Path,
    gt_path: Path | None = None,
    dt_path: Path | None = None,
    split: str | None = None,
) -> Material:
    """Read the test data of a run and the predictions of its test.

    Args:
        run_dir: The run folder.
        gt_path: Replaces the data set of the run's config.
        dt_path: Replaces predictions.json of the run folder.
        split: Split of a VOC folder; replaces that of the config.

    Raises:
        UserError: It is not a finished run, or its predictions or data are missing or not valid. The
            message states what to do.
    """
    # here: loads MMDetection
    from compactdet.config.resolved import read_resolved_config
    from compactdet.records import record_file
    from compactdet.training.predict import find_checkpoint

    file = run_dir / 'record.json'
    if not file.is_file():
        raise UserError(f'{run_dir} is no finished run of tools/train.py: it has no record.json')
    record = record_file.read(file)
    dt_path = dt_path or run_dir / 'predictions.json'
    if not dt_path.is_file():
        config_file, checkpoint = run_dir / record['config']['file'], find_checkpoint(run_dir, record)
        command = ['python', 'tools/test.py', config_file, checkpoint, '--out', dt_path]
        raise UserError(f'{dt_path} is not there; make it: {shlex.join(map(str, command))}')
    config = read_resolved_config(record['config']['text'], f'{file}: config.text')
    dataset = config.test_dataloader.dataset
    if gt_path is None:
        gt_path = _data_of(dataset)
    if split is None:
        split = Path(dataset.get('ann_file', 'test')).stem.removeprefix('instances_')
    name = record['dataset']['name']
    title = f'{record["arch"]} · {record["detector"]} · {name} {split} ({run_dir})'
    material = from_files(gt_path, dt_path, split, record['dataset']['classes'], title)
    return replace(material, recorded=record['metrics']['test'].get('coco/ap50'))


def _data_of(dataset: Any) -> Path:
    """Return the VOC folder or COCO file of a config's test data set."""
    hint = 'Name the data with --gt (a folder in VOC format, or a COCO annotation file).'
    if 'ann_file' not in dataset:
        raise UserError(f'the config of the run does not say where its test data is. {hint}')
    if Path(dataset.ann_file).suffix == '.json':
        return find_annotation_file(dataset.data_root, dataset.ann_file, hint)
    return find_set(dataset.data_root, dataset.ann_file, hint)[0]


def _voc_images(folder: Path, gt: Annotations) -> dict[int, Path]:
    found = (image_file(folder, str(image_id)) for image_id in gt.image_ids)
    return {i: path for i, path in enumerate(found) if path.is_file()}


def _coco_images(path: Path, gt: Annotations) -> dict[int, Path]:
    names = {image['id']: image.get('file_name') for image in load_json(path)['images']}
    there = [i for i, image_id in enumerate(gt.image_ids) if isinstance(names[image_id], str)]
    root = path.parent.parent if path.parent.name == 'annotations' else path.parent
    found = find_images(root, path, [names[gt.image_ids[i]] for i in there])
    return {i: file for i, file in zip(there, found, strict=True) if file.is_file()}
