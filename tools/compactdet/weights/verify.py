"""Measure top-1 and top-5 accuracy of a weights file on a folder of labeled images."""

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import CenterCrop, Compose, Resize

from backbones import Preprocessing, build_classifier
from backbones.weights import num_classes_of, read_weights
from compactdet.classification.archives import SUFFIXES, decode, images_in, is_hidden
from compactdet.classification.dataset import SETS
from compactdet.errors import UserError

# Data sets of small images, which are tested without cropping.
SMALL_IMAGE_SETS = {kind.title for kind in SETS.values() if kind.size}

BATCH_SIZE = 32
WORDNET_ID = re.compile(r'n\d{8}')


class Accuracy(TypedDict):
    """Accuracy of a classifier.

    Attributes:
        top1: Top-1 accuracy in percent.
        top5: Top-5 accuracy in percent.
        num_images: Number of images.
    """

    top1: float
    top5: float
    num_images: int


def read_class_index(path: str | Path) -> dict[str, int]:
    """Return the class numbers of a list with lines ``NUMBER NAME``, by class name.

    A line such as ``0 n01440764_tench`` gives two names: ``n01440764_tench`` and the WordNet id.

    Raises:
        UserError: The file is missing or a line does not have this form.
    """
    try:
        lines = Path(path).read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'cannot read the class list {path}: {error}') from error
    index: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if len(fields) != 2 or not fields[0].isdecimal():
            raise UserError(f'{path}, line {number}: {line[:60]!r} is not `NUMBER NAME`')
        index[fields[1]] = index[fields[1].split('_')[0]] = int(fields[0])
    return index


def imagenet_index() -> dict[str, int]:
    """Return the class numbers of ImageNet's 1,000 WordNet ids, from timm.

    Raises:
        UserError: timm is not installed.
    """
    try:
        names = (
            files('timm').joinpath('data/_info/imagenet_synsets.txt').read_text(encoding='utf-8').split()
        )
    except (ImportError, OSError) as error:
        raise UserError(
            'the class numbers of WordNet ids are read from timm, which is not installed: pip install '
            "'compactdet[timm]', or give --class-index FILE"
        ) from error
    return {name: i for i, name in enumerate(names)}


def find_images(
    folder: str | Path, class_index: str | Path | None = None, num_classes: int | None = None
) -> list[tuple[Path, int]]:
    """Return the images of a folder and their classes.

    The name of the class is that of the subfolder (``n01440764/1.jpg``), or that of the file if there is no
    subfolder (``n01440764_tench.JPEG``). The class numbers are those of ``class_index``, by default of
    ``class_index*.txt`` in the folder. Without such a list, the subfolders are numbered in order of their
    names; WordNet ids that are fewer than ``num_classes`` are looked up in ImageNet's 1,000.

    Args:
        folder: The folder.
        class_index: List of the classes; see ``read_class_index``.
        num_classes: Number of classes of the weights, if known.

    Raises:
        UserError: There is no such folder, no image, or the class of an image is not in the list; or there
            are fewer subfolders than classes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f'no such folder of images: {folder}')
    try:
        paths = sorted(folder / name for name in images_in(folder))
    except OSError as error:
        raise UserError(f'cannot read {error.filename}: {error.strerror}') from error
    if not paths:
        raise UserError(f'{folder} contains no image ({", ".join(sorted(SUFFIXES))})')
    lists = [class_index] if class_index else sorted(folder.glob('class_index*.txt'))
    if lists:
        index = read_class_index(lists[0])
    else:
        classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))
        index = {name: i for i, name in enumerate(classes)}
        if num_classes == 1000 and len(classes) < 1000 and all(map(WORDNET_ID.fullmatch, classes)):
            index = imagenet_index()
        elif len(index) < 2:
            raise UserError(
                f'{folder} does not have a subfolder per class; give the classes with --class-index FILE'
            )
        elif num_classes and len(classes) < num_classes:
            raise UserError(
                f'{folder} has {len(classes)} subfolders, the weights have {num_classes} classes; name the '
                'classes: --class-index FILE with lines of `NUMBER NAME`'
            )
    images = []
    for path in paths:
        name = path.stem if path.parent == folder else path.relative_to(folder).parts[0]
        number = index.get(name, index.get(name.split('_')[0]))
        if number is None:
            raise UserError(f'{path}: class {name!r} is not in {lists[0] if lists else folder}')
        images.append((path, number))
    return images


def classes_in(weights: str | Path) -> int | None:
    """Return the number of classes of a weights file; None if it has no classifier.

    Raises:
        WeightsError: The weights cannot be read.
    """
    state_dict, info = read_weights(weights)
    return num_classes_of(state_dict, info.arch)


def load_image(path: Path, preprocessing: Preprocessing, size: int = 224, whole: bool = False) -> Tensor:
    """Read a test image as ``tools/pretrain.py`` does.

    Args:
        path: The image.
        preprocessing: Preprocessing of the network.
        size: Side of the result in pixels.
        whole: Whether to resize the whole image, after the preprocessing. Otherwise its shorter side is
            resized to size / 224 * 256 (bilinear) and the center is cropped.

    Returns:
        (3, size, size).

    Raises:
        UserError: The image cannot be read or decoded.
    """
    try:
        values = decode(path.read_bytes())
    except OSError as error:
        raise UserError(f'cannot read the image {path}: {error.strerror}') from error
    if values is None:
        raise UserError(f'cannot read the image {path}: it is damaged or not an image')
    if not whole:
        fit = Compose([Resize(size * 256 // 224), CenterCrop(size)])
        values = np.asarray(fit(Image.fromarray(values)))
    if preprocessing.channel_order == 'rgb':
        values = values[..., ::-1]
    normalized = (values - np.array(preprocessing.mean)) / np.array(preprocessing.std)
    result = torch.from_numpy(normalized.transpose(2, 0, 1)).float()
    if whole:
        result = F.interpolate(result[None], (size, size), mode='bilinear', align_corners=False)[0]
    return result


def correct_class_ranks(weights: str | Path, images: list[tuple[Path, int]]) -> Iterator[Tensor]:
    """Yield the ranks of the correct classes for each batch of images.

    Args:
        weights: Weights file of a classifier.
        images: Images and their class numbers.

    Yields:
        (N,) for each of the N images, the number of other classes whose logit is at least that of the
        correct class.

    Raises:
        WeightsError: The weights cannot be read.
        UserError: They do not match their network, or a class number is too large.
    """
    state_dict, info = read_weights(weights)
    size, whole = info.pretraining.size or 224, info.pretraining.data in SMALL_IMAGE_SETS
    num_classes = num_classes_of(state_dict, info.arch)
    if num_classes is None:
        raise UserError(f'{weights} has no classifier')
    for path, number in images:
        if number >= num_classes:
            raise UserError(f'{path}: class number {number}, but {weights} has {num_classes} classes')
    try:
        model = build_classifier(info.arch, num_classes, conventions=info.conventions)
        model.load_state_dict(state_dict)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f'{weights} does not fit {info.arch}: {" ".join(str(error).split())[:300]}'
        ) from error
    model.eval()
    for start in range(0, len(images), BATCH_SIZE):
        batch = images[start : start + BATCH_SIZE]
        inputs = torch.stack([load_image(path, info.preprocessing, size, whole) for path, _ in batch])
        try:
            with torch.inference_mode():
                logits = model(inputs)
        except (RuntimeError, ValueError) as error:
            raise UserError(f'{info.arch} cannot process {size}x{size} pixels ({error})') from error
        if not logits.isfinite().all():
            raise UserError(
                f'{weights} gives NaN or infinite logits for {batch[0][0]} or a following image'
            )
        correct = logits.gather(1, torch.tensor([[number] for _, number in batch]))
        yield (logits >= correct).sum(1) - 1


def accuracy(weights: str | Path, images: list[tuple[Path, int]]) -> Accuracy:
    """Return the accuracy of a weights file on images with class numbers.

    Raises:
        WeightsError: See ``correct_class_ranks``.
        UserError: See ``correct_class_ranks``.
    """
    rank = torch.cat([*correct_class_ranks(weights, images)])
    return {
        'top1': 100 * (rank < 1).double().mean().item(),
        'top5': 100 * (rank < 5).double().mean().item(),
        'num_images': len(rank),
    }
