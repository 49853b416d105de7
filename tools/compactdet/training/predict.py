"""Detection in a user's own images with a finished run.

Config and checkpoint are those of the record. No code in either is executed; only installed modules that
the config names in ``custom_imports`` are imported.
"""

from __future__ import annotations

import copy
import json
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings
from PIL import Image

from compactdet.config import strict
from compactdet.config.resolved import current_module_names, read_resolved_config
from compactdet.drawing import draw_detections, write_image
from compactdet.errors import UserError
from compactdet.files import write_whole
from compactdet.mmdetection import MODELS
from compactdet.records import record_file
from compactdet.records.record_types import Record
from compactdet.training.checkpoints import read_checkpoint
from compactdet.training.model_checks import check_inputs, check_state_dict

FORMATS = ('JPEG', 'PNG', 'BMP', 'WEBP')  # names of Pillow's readers, by content
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')
PREDICTIONS = 'predictions.json'


@dataclass(frozen=True)
class Detector:
    """A trained detector with its image pipeline.

    Attributes:
        model: The model, on its device and in eval mode.
        pipeline: The config's test pipeline for an image array without annotations.
        classes: Class names by label.
    """

    model: Any
    pipeline: Compose
    classes: list[str]


def predict(
    run_dir: str | Path,
    source: str | Path,
    out: str | Path | None = None,
    *,
    score: float = 0.3,
    device: str | None = None,
) -> Path:
    """Detect objects in an image or a folder of images; write drawn images and ``predictions.json``.

    Each drawn image has the name of its original. All images are checked before the first detection, and
    ``predictions.json`` is written last. In a folder, images that cannot be used are skipped and reported;
    the error about them is raised after the results of the others are written.

    Args:
        run_dir: Folder of a finished run of ``tools/train.py``.
        source: An image file, or a folder with images; its subfolders are not searched.
        out: Folder of the results; None is ``RUN_DIR/predictions``.
        score: Lowest confidence score of a detection.
        device: 'cpu' or 'cuda'; None is a GPU if there is one.

    Returns:
        The folder of the results.

    Raises:
        UserError: An argument or an image cannot be used, or a file cannot be written.
        WeightsError: The checkpoint is absent, truncated, or contains code.
    """
    run_dir = Path(run_dir)
    out = Path(out) if out is not None else run_dir / 'predictions'
    images = find_images(Path(source))
    if out.resolve() == images[0].parent.resolve():
        raise UserError(
            f'--out {out} is the folder of the images, which would be overwritten; choose another'
        )
    skipped: list[UserError] = []

    def skip(error: UserError) -> None:
        if len(images) == 1:
            raise error
        print(f'skipped: {error}', file=sys.stderr)
        skipped.append(error)

    usable = []
    for path in images:
        try:
            check_image(path)
            usable.append(path)
        except UserError as error:
            skip(error)
    if not usable:
        raise UserError(f'{source}: none of the {len(images)} images can be used')
    detector = load_detector(run_dir, device)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f'cannot create the folder {out} ({error.strerror}); choose another --out'
        ) from error

    entries = []
    for path in usable:
        try:
            image = read_image(path)
            boxes, labels, scores = detect(detector, image, score)
        except UserError as error:
            skip(error)
            continue
        except cv2.error:  # resizing gives a side of 0 pixels
            size = f'{image.shape[1]}x{image.shape[0]}'
            skip(UserError(f"{path}: {size} cannot be resized to the detector's input size"))
            continue
        write_image(out / path.name, draw_detections(image, boxes, labels, scores, detector.classes))
        names = [detector.classes[label] for label in labels]
        entries.append(
            {
                'image': path.name,
                'width': image.shape[1],
                'height': image.shape[0],
                'detections': [
                    {'class': name, 'score': float(score), 'bbox': box.tolist()}
                    for name, score, box in zip(names, scores, boxes, strict=True)
                ],
            }
        )
        counts = ', '.join(f'{count} {name}' for name, count in Counter(names).most_common())
        print(f'{path.name}: {counts or "nothing"}', flush=True)
    write_whole(out / PREDICTIONS, json.dumps(entries, indent=1) + '\n')
    if skipped:
        raise UserError(
            f'{len(skipped)} of {len(images)} images were skipped (listed above); the results of the '
            f'others are in {out}'
        )
    return out


def find_images(source: Path) -> list[Path]:
    """Return an image file, or the images in a folder sorted by name.

    Raises:
        UserError: There is no image, or the file name has another suffix.
    """
    known = ', '.join(SUFFIXES)
    if source.is_dir():
        try:
            files = [p for p in source.iterdir() if not p.is_dir() and not p.name.startswith('.')]
        except OSError as error:
            raise UserError(f'{source}: cannot read the folder ({error.strerror})') from error
        found = [p for p in files if p.suffix.lower() in SUFFIXES]
        if not found:
            raise UserError(f'{source}: no image in this folder ({known}; subfolders are not searched)')
        return sorted(found)
    if not source.exists():
        raise UserError(f'{source}: no such image or folder')
    if source.suffix.lower() not in SUFFIXES:
        raise UserError(f'{source}: the file name of an image must end in one of {known}')
    return [source]


def check_image(path: Path) -> None:
    """Decode an image completely with Pillow: some versions of OpenCV accept truncated files.

    Raises:
        UserError: The file is not an image, is truncated, or cannot be read.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
    except Exception as error:  # Pillow's readers raise many types on damaged files
        raise UserError(
            f'{path}: not a readable image, or truncated ({error}); replace the file'
        ) from error


def read_image(path: Path) -> np.ndarray:
    """Read an image and rotate it according to its EXIF orientation: (H, W, 3) uint8 BGR.

    Raises:
        UserError: The image cannot be decoded.
    """
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f'{path}: OpenCV cannot decode the image; save it again as JPEG or PNG')
    return image


def detect(
    detector: Detector, image: np.ndarray, score: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detect objects in one image.

    Args:
        detector: From ``load_detector``.
        image: (H, W, 3) uint8 BGR.
        score: Lowest confidence score of a detection.

    Returns:
        Boxes (n, 4) as continuous x1, y1, x2, y2 in pixels of the image, labels (n,) and scores (n,), by
        descending score.
    """
    packed = detector.pipeline({'img': image, 'img_id': 0})
    batch = {'inputs': [packed['inputs']], 'data_samples': [packed['data_samples']]}
    with torch.inference_mode():
        found = detector.model.test_step(batch)[0].pred_instances.cpu()
    found = found[found.scores >= score]
    order = torch.argsort(found.scores, descending=True, stable=True)
    boxes, labels, scores = (found[name][order].numpy() for name in ('bboxes', 'labels', 'scores'))
    return boxes, labels, scores


def load_detector(run_dir: Path, device: str | None = None) -> Detector:
    """Load the detector of a run from the checkpoint that its record evaluates.

    Args:
        run_dir: Folder of a finished run.
        device: 'cpu' or 'cuda'; None is a GPU if there is one.

    Raises:
        UserError: The folder is not a finished run, its record or checkpoint cannot be used, or there is no
            GPU.
        WeightsError: The checkpoint is absent, truncated, or contains code.
    """
    if device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda needs a CUDA GPU, but none is available; omit --device')
    record_path = run_dir / 'record.json'
    if not record_path.is_file():
        raise UserError(f'{run_dir} is not a finished run of tools/train.py: it has no record.json')
    record = record_file.read(record_path)
    cfg = read_resolved_config(record['config']['text'], f'{record_path}: config.text')
    import_custom_modules(cfg, record_path)
    strict.check_keys(cfg)
    classes = record['dataset']['classes']
    head = cfg.model.get('roi_head', cfg.model).bbox_head
    if head.num_classes != len(classes):
        raise UserError(
            f'{record_path}: the detector has {head.num_classes} classes, but dataset.classes has '
            f'{len(classes)}; restore the file or repeat the run'
        )
    checkpoint_path = find_checkpoint(run_dir, record)
    checkpoint = read_checkpoint(checkpoint_path)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = MODELS.build(cfg.model)
    check_state_dict(checkpoint_path, model.state_dict(), checkpoint['state_dict'])
    check_inputs(checkpoint_path, model, checkpoint['meta'])
    model.load_state_dict(checkpoint['state_dict'])
    model.to(device or ('cuda' if torch.cuda.is_available() else 'cpu')).eval()
    return Detector(model, image_pipeline(cfg), classes)


def import_custom_modules(cfg: Config, source: Path) -> None:
    """Import the modules of ``custom_imports``, which register the config's classes.

    A module that the suite has renamed since the training is imported by its current name.

    Raises:
        UserError: A module is not installed.
    """
    try:
        options = dict(cfg.get('custom_imports') or {})
        import_modules_from_strings(**{**options, 'imports': current_module_names(options.get('imports'))})
    except (ImportError, TypeError, ValueError) as error:
        raise UserError(
            f'{source}: custom_imports: {error}; install the packages that the training used'
        ) from error


def config_of_run(run_dir: Path) -> Path:
    """Return the config of a finished run.

    Raises:
        UserError: It is not the folder of a finished run.
    """
    configs = sorted(run_dir.glob('*.py'))
    if len(configs) != 1 or not (run_dir / 'record.json').is_file():
        raise UserError(f"'{run_dir}' is not the folder of a finished run; give CONFIG and CHECKPOINT")
    return configs[0]


def find_checkpoint(run_dir: Path, record: Record) -> Path:
    """Return the checkpoint that a run's record evaluates: the chosen one, otherwise the last.

    Raises:
        UserError: The file that names the last checkpoint cannot be read.
    """
    chosen = record['training']['chosen']
    if chosen is not None:
        return run_dir / Path(chosen['checkpoint']).name
    last = run_dir / 'last_checkpoint'  # contains the path at the time of the training
    try:
        return run_dir / Path(last.read_text(encoding='utf-8').strip()).name
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{last}: cannot read the name of the run's last checkpoint; restore the file"
        ) from error


def image_pipeline(cfg: Config) -> Compose:
    """Build the config's test pipeline for an image array without annotations."""
    steps = []
    for step in copy.deepcopy(cfg.test_dataloader.dataset.pipeline):
        if step.type == 'LoadImageFromFile':
            # A user's image is upright, as viewers show it; images of data sets are used as stored.
            steps.append({'type': 'LoadImageFromNDArray'})
        elif step.type != 'LoadAnnotations':
            steps.append(step)
    return Compose(steps)
