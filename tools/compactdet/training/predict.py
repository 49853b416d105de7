"""Detections on a user's own images, from a run's directory alone.

The record says the config and which checkpoint to take. Both are read as data: no code in them is
executed. (The modules that the config's ``custom_imports`` name are imported, from what is installed.)
"""

from __future__ import annotations

import ast
import copy
import json
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
from compactdet.drawing import draw_detections, write_image
from compactdet.errors import UserError
from compactdet.files import write_whole
from compactdet.mmdetection import MODELS
from compactdet.records import record_file as records
from compactdet.training.checkpoints import check_fit, read_checkpoint
from compactdet.training.runner import check_inputs

FORMATS = ('JPEG', 'PNG', 'BMP')  # Pillow's names
SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp')
PREDICTIONS = 'predictions.json'


@dataclass
class Detector:
    """A trained detector with what it needs to take an image file.

    Attributes:
        model: On its device, in eval mode.
        pipeline: Of the config's test images, without annotations.
        classes: Names, by label.
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
    """Detects in an image or a folder of images, draws the detections and writes them as JSON.

    Each drawn image has its file's name, so no two can meet; ``predictions.json`` is written last.
    All images are checked before the first is used.

    Args:
        run_dir: A finished run of ``tools/train.py``.
        source: An image file, or a folder (those in it; not those in folders of it).
        out: Folder of the results; None is ``RUN_DIR/predictions``.
        score: Detections below it are left out.
        device: 'cpu' or 'cuda'; None takes a GPU where there is one.

    Returns:
        The folder of the results.

    Raises:
        UserError: Something of these cannot be used or written.
        WeightsError: The checkpoint is absent, cut short, or holds code.
    """
    run_dir = Path(run_dir)
    out = Path(out) if out is not None else run_dir / 'predictions'
    images = find_images(Path(source))
    if out.resolve() == images[0].parent.resolve():
        raise UserError(f'--out {out} is the folder of the images: it would overwrite them; name another')
    for path in images:
        check_image(path)
    detector = load_detector(run_dir, device)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f'cannot make the folder {out} ({error.strerror}); choose another --out') from error

    entries = []
    for path in images:
        image = read_image(path)
        try:
            boxes, labels, scores = detect(detector, image, score)
        except cv2.error as error:  # a side shrinks to nothing
            raise UserError(
                f"{path}: {image.shape[1]}x{image.shape[0]} cannot be brought to the detector's input size"
            ) from error
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
    return out


def find_images(source: Path) -> list[Path]:
    """An image file, or the images in a folder, by name.

    Raises:
        UserError: There is none, or the file is of another kind.
    """
    known = ', '.join(SUFFIXES)
    if source.is_dir():
        try:
            files = [p for p in source.iterdir() if not p.is_dir() and not p.name.startswith('.')]
        except OSError as error:
            raise UserError(f'{source}: cannot be read ({error.strerror})') from error
        found = [p for p in files if p.suffix.lower() in SUFFIXES]
        if not found:
            raise UserError(f'{source}: no image in this folder ({known}; folders in it are not searched)')
        return sorted(found)
    if not source.exists():
        raise UserError(f'{source}: no such image or folder')
    if source.suffix.lower() not in SUFFIXES:
        raise UserError(f'{source}: not an image by its name; must end in one of {known}')
    return [source]


def check_image(path: Path) -> None:
    """Decodes a whole image: some versions of OpenCV, which reads it for the detector, take half ones.

    Raises:
        UserError: It is no image, is cut short, or cannot be read.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
    except Exception as error:  # Pillow's readers raise many kinds on broken files
        raise UserError(f'{path}: not a readable image, or cut short ({error}); get it anew') from error


def read_image(path: Path) -> np.ndarray:
    """An image upright, (H, W, 3) uint8 BGR.

    Raises:
        UserError: It cannot be decoded.
    """
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise UserError(f'{path}: OpenCV cannot decode it; save it anew as JPEG or PNG')
    return image


def detect(
    detector: Detector, image: np.ndarray, score: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Detections on one image, the surest first.

    Args:
        detector: From ``load_detector``.
        image: (H, W, 3) uint8 BGR.
        score: Detections below it are left out.

    Returns:
        Boxes (n, 4) as continuous x1, y1, x2, y2 in the image's pixels, labels (n,), scores (n,).
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
    """The detector that a run left: its chosen checkpoint, or else its last one.

    Raises:
        UserError: The folder is no finished run, its record or checkpoint does not serve, or there is no
            such device.
        WeightsError: The checkpoint is absent, cut short, or holds code.
    """
    if device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda needs a CUDA GPU, and this machine shows none; leave it out')
    record_file = run_dir / 'record.json'
    if not record_file.is_file():
        raise UserError(f'{run_dir} is no finished run of tools/train.py: it has no record.json')
    record = records.read(record_file)
    cfg = parse_resolved(record['config']['text'], f'{record_file}: config.text')
    import_custom(cfg, record_file)
    strict.check_keys(cfg)
    classes = record['dataset']['classes']
    head = cfg.model.get('roi_head', cfg.model).bbox_head
    if head.num_classes != len(classes):
        raise UserError(
            f'{record_file}: the detector has {head.num_classes} classes, but dataset.classes names '
            f'{len(classes)}; restore the file or run again'
        )
    checkpoint_file = find_checkpoint(run_dir, record)
    checkpoint = read_checkpoint(checkpoint_file)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = MODELS.build(cfg.model)
    check_fit(checkpoint_file, model.state_dict(), checkpoint['state_dict'])
    check_inputs(checkpoint_file, model, checkpoint['meta'])
    model.load_state_dict(checkpoint['state_dict'])
    model.to(device or ('cuda' if torch.cuda.is_available() else 'cpu')).eval()
    return Detector(model, image_pipeline(cfg), classes)


def import_custom(cfg: Config, source: Path) -> None:
    """Imports the installed modules that register the config's classes.

    Raises:
        UserError: One is not installed here.
    """
    try:
        import_modules_from_strings(**cfg.get('custom_imports', {'imports': []}))
    except (ImportError, TypeError) as error:
        raise UserError(
            f'{source}: custom_imports: {error}; install what the training had installed'
        ) from error


def find_checkpoint(run_dir: Path, record: records.Record) -> Path:
    """The checkpoint that the run's figures are of.

    Raises:
        UserError: The run does not say which.
    """
    chosen = record['training']['chosen']
    if chosen is not None:
        return run_dir / Path(chosen['checkpoint']).name
    last = run_dir / 'last_checkpoint'  # MMEngine writes the path that it had in training
    try:
        return run_dir / Path(last.read_text(encoding='utf-8').strip()).name
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{last}: cannot be read; it names the run's last checkpoint") from error


def image_pipeline(cfg: Config) -> Compose:
    """The test images' pipeline for an image in memory without annotations."""
    steps = []
    for step in copy.deepcopy(cfg.test_dataloader.dataset.pipeline):
        if step.type == 'LoadImageFromFile':
            # A user's own image is taken upright, as OpenCV reads it and every viewer shows it; the
            # data sets' images are taken as stored.
            steps.append({'type': 'LoadImageFromNDArray'})
        elif step.type != 'LoadAnnotations':
            steps.append(step)
    return Compose(steps)


def parse_resolved(text: str, source: str = 'config') -> Config:
    """Reads a resolved config's text without executing it.

    Only what ``Config.pretty_text`` writes is taken: assignments of plain values, lists, tuples, dicts
    and ``dict(...)``.

    Args:
        text: Python text.
        source: What messages call it.

    Raises:
        UserError: It holds anything else; names the line.
    """
    try:
        return Config(dict(_assigned(node) for node in ast.parse(text).body), cfg_text=text)
    except SyntaxError as error:
        raise UserError(f'{source}, line {error.lineno}: syntax error: {error.msg}') from error
    except _NotPlainError as error:
        node = error.args[0]
        raise UserError(
            f'{source}, line {node.lineno}: {(ast.get_source_segment(text, node) or "")[:60]!r} is not a '
            'plain value; a record holds a config with every value resolved, and nothing in it is executed'
        ) from error
    except (KeyError, TypeError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f'{source}: not a config: {error}') from error


class _NotPlainError(Exception):
    """Holds the syntax node that is no plain value."""


def _assigned(node: ast.stmt) -> tuple[str, Any]:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, _plain(value)
    raise _NotPlainError(node)


def _plain(node: ast.expr) -> Any:
    match node:
        case ast.List(elts=items):
            return [_plain(item) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_plain(item) for item in items)
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_plain(k): _plain(v) for k, v in zip(keys, values, strict=True) if k is not None}
        case ast.Call(func=ast.Name(id='dict'), args=[], keywords=items) if all(i.arg for i in items):
            return {item.arg: _plain(item.value) for item in items}
        case ast.Call(func=ast.Name(id='dict'), args=[ast.Dict() as display], keywords=[]):
            return _plain(display)
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
    raise _NotPlainError(node)
