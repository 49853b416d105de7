"""What tools/analyze.py works on: ground truth, predictions and images, of a run or of plain files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from compactdet.data.annotations import Annotations, Detections
from compactdet.data.readers import read_coco, read_predictions, read_voc
from compactdet.errors import UserError
from compactdet.files import load_json


@dataclass(frozen=True)
class Material:
    """What is analyzed.

    Attributes:
        title: What the report calls it.
        gt: Ground truth.
        dt: Detections.
        in_voc: Whether the ground truth is in VOC's format, whose rule the curves then follow.
        files: The images that are there, by index.
        notes: What the reader should know.
        recorded: AP50 in the run's record, if there is a run.
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
    """Reads ground truth, predictions, and where the images are.

    Args:
        gt_path: COCO annotation file, or folder in VOC format.
        dt_path: predictions.json.
        split: Of a VOC folder.
        classes: Of a VOC folder, in the order of the predictions' numbers; None as in `read_voc`.
        title: None takes the predictions' path.

    Raises:
        UserError: One of them is absent or bad, or there is no image.
    """
    in_voc = gt_path.is_dir()
    gt = read_voc(gt_path, split, classes) if in_voc else read_coco(gt_path)
    if len(gt.image_ids) == 0:
        raise UserError(f'{gt_path}: has no images')
    dt = read_predictions(dt_path, gt)
    files = _voc_images(gt_path, gt) if in_voc else _coco_images(gt_path, gt)
    notes = list(gt.notes)
    if not files:
        notes.append(f'no image of {gt_path} was found, so none is drawn')
    return Material(title or str(dt_path), gt, dt, in_voc, files, notes)


def from_run(
    run_dir: Path,
    gt_path: Path | None = None,
    dt_path: Path | None = None,
    split: str | None = None,
) -> Material:
    """Reads what a run of tools/train.py was tested on, and the predictions of that test.

    Args:
        run_dir: The run's folder.
        gt_path: In place of the data set that the run's config names.
        dt_path: In place of the folder's predictions.json.
        split: Of a VOC folder, in place of the config's.

    Raises:
        UserError: The folder is no finished run, its predictions or data are not there, or they are bad;
            says what to do.
    """
    from compactdet.records import record_file
    from compactdet.training.predict import find_checkpoint, parse_resolved  # late: loads MMDetection

    file = run_dir / 'record.json'
    if not file.is_file():
        raise UserError(f'{run_dir} is no finished run of tools/train.py: it has no record.json')
    record = record_file.read(file)
    dt_path = dt_path or run_dir / 'predictions.json'
    if not dt_path.is_file():
        config = run_dir / record['config']['file']
        raise UserError(
            f'{dt_path} is not there; make it: python tools/test.py {config} '
            f'{find_checkpoint(run_dir, record)} --out {dt_path}'
        )
    dataset = parse_resolved(record['config']['text'], f'{file}: config.text').test_dataloader.dataset
    if gt_path is None:
        gt_path = _data_of(dataset)
    if split is None:
        split = Path(dataset.get('ann_file', 'test')).stem.removeprefix('instances_')
    name = record['dataset']['name']
    title = f'{record["arch"]} · {record["detector"]} · {name} {split} ({run_dir})'
    material = from_files(gt_path, dt_path, split, record['dataset']['classes'], title)
    return replace(material, recorded=record['metrics']['test'].get('coco/ap50'))


def _data_of(dataset: Any) -> Path:
    """The VOC folder or COCO file that a config's test data set names."""
    from compactdet.data.coco_file import find_annotation_file
    from compactdet.data.voc_files import find_set

    hint = 'Name the data with --gt (a folder in VOC format, or a COCO annotation file).'
    if 'ann_file' not in dataset:
        raise UserError(f'the config of the run does not say where its test data is. {hint}')
    if Path(dataset.ann_file).suffix == '.json':
        return find_annotation_file(dataset.data_root, dataset.ann_file, hint)
    return find_set(dataset.data_root, dataset.ann_file, hint)[0]


def _voc_images(folder: Path, gt: Annotations) -> dict[int, Path]:
    from compactdet.data.voc_files import image_file

    found = (image_file(folder, str(image_id)) for image_id in gt.image_ids)
    return {i: path for i, path in enumerate(found) if path.is_file()}


def _coco_images(path: Path, gt: Annotations) -> dict[int, Path]:
    from compactdet.data.coco_file import find_images

    names = {image['id']: image.get('file_name') for image in load_json(path)['images']}
    there = [i for i, image_id in enumerate(gt.image_ids) if isinstance(names[image_id], str)]
    root = path.parent.parent if path.parent.name == 'annotations' else path.parent
    found = find_images(root, path, [names[gt.image_ids[i]] for i in there])
    return {i: file for i, file in zip(there, found, strict=True) if file.is_file()}
