"""Measure top-1 and top-5 accuracy of a weights file on a folder of labeled images."""

from collections.abc import Iterator
from pathlib import Path

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

# Data sets of small images, which are not cropped.
SMALL = {kind.title for kind in SETS.values() if kind.size}


def read_class_index(path: str | Path) -> dict[str, int]:
    """Read a list of classes with lines ``NUMBER NAME``; return them by name and by WordNet id.

    In a line such as ``0 n01440764_tench`` both ``n01440764_tench`` and ``n01440764`` are names.

    Raises:
        UserError: The file is missing or a line is not of that form.
    """
    try:
        lines = Path(path).read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f'cannot read the class list {path}: {error}') from error
    index: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if len(fields) != 2 or not fields[0].isdecimal():
            raise UserError(f'{path}, line {number}: {line[:60]!r}; it has to be `NUMBER NAME`')
        index[fields[1]] = index[fields[1].split('_')[0]] = int(fields[0])
    return index


def find_images(folder: str | Path, class_index: str | Path | None = None) -> list[tuple[Path, int]]:
    """Return the images of a folder and their classes.

    The class is in the file name (``n01440764_tench.JPEG``) or the folder name (``n01440764/1.jpg``). The
    class numbers are those of ``class_index``, by default of ``class_index*.txt`` in the folder; without
    one the subfolders are numbered in order of their names.

    Raises:
        UserError: There is no such folder, no image, or an image's class is not in the list.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f'no such folder of images: {folder}')
    try:
        paths = sorted(folder / name for name in images_in(folder))
    except OSError as error:
        raise UserError(f'cannot read {error.filename}: {error.strerror}') from error
    if not paths:
        raise UserError(f'{folder} holds no image ({", ".join(sorted(SUFFIXES))})')
    lists = [class_index] if class_index else sorted(folder.glob('class_index*.txt'))
    if lists:
        index = read_class_index(lists[0])
    else:
        classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))
        index = {name: i for i, name in enumerate(classes)}
        if len(index) < 2:
            raise UserError(
                f'{folder} has no folder for each class; give the classes by --class-index FILE'
            )
    images = []
    for path in paths:
        name = path.stem if path.parent == folder else path.relative_to(folder).parts[0]
        number = index.get(name, index.get(name.split('_')[0]))
        if number is None:
            raise UserError(f'{path}: class {name!r} is not in {lists[0] if lists else folder}')
        images.append((path, number))
    return images


def load_image(path: Path, preprocessing: Preprocessing, size: int = 224, whole: bool = False) -> Tensor:
    """Read an image as in training: (3, size, size).

    The shorter side is resized to size / 224 * 256 (bilinear) and the center is cropped. With ``whole`` the
    image is resized completely, after the preprocessing. ``tools/pretrain.py`` does the same.

    Raises:
        UserError: The image cannot be decoded.
    """
    try:
        values = decode(path.read_bytes())
    except OSError as error:
        raise UserError(f'cannot read the image {path}: {error.strerror}') from error
    if values is None:
        raise UserError(f'cannot read the image {path}: it is damaged, or none; get it again')
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


def ranks(
    weights: str | Path, images: list[tuple[Path, int]], batch_size: int = 32, size: int | None = None
) -> Iterator[Tensor]:
    """Yield for each batch of images the rank of the correct class, 0 for the best: (N,) each.

    ``size`` is the input size (see ``load_image``); None for that of the weights file.

    Raises:
        WeightsError: The weights cannot be read.
        UserError: They do not match their network, or an image has a class that it does not have.
    """
    state_dict, info = read_weights(weights)
    size, whole = size or info.pretraining.size or 224, info.pretraining.data in SMALL
    num_classes = num_classes_of(state_dict, info.arch)
    if num_classes is None:
        raise UserError(f'{weights} has no classifier, so no accuracy')
    beyond = [path for path, number in images if number >= num_classes]
    if beyond:
        raise UserError(f'{beyond[0]}: its class is beyond the {num_classes} of {weights}')
    try:
        model = build_classifier(info.arch, num_classes, conventions=info.conventions)
        model.load_state_dict(state_dict)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f'{weights} does not fit {info.arch}: {" ".join(str(error).split())[:300]}'
        ) from error
    model.eval()
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        inputs = torch.stack([load_image(path, info.preprocessing, size, whole) for path, _ in batch])
        try:
            with torch.inference_mode():
                logits = model(inputs)
        except (RuntimeError, ValueError) as error:
            raise UserError(f'{info.arch} takes no images of {size}x{size} pixels ({error})') from error
        if not logits.isfinite().all():
            raise UserError(f'{weights} gives no finite logits for {batch[0][0]} or those after it')
        right = logits.gather(1, torch.tensor([[number] for _, number in batch]))
        yield (logits >= right).sum(1) - 1  # a tie counts against the correct class


def accuracy(weights: str | Path, images: list[tuple[Path, int]]) -> dict[str, float]:
    """Return top-1 and top-5 accuracy in percent, and the number of images.

    Raises:
        WeightsError: See ``ranks``.
        UserError: See ``ranks``.
    """
    rank = torch.cat([*ranks(weights, images)])
    return {
        'top1': 100 * (rank < 1).double().mean().item(),
        'top5': 100 * (rank < 5).double().mean().item(),
        'num_images': len(rank),
    }
