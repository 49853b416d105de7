"""Classification data sets: their properties, and their samples for training.

Data sets of small images are held in memory as bytes; larger images are read one by one from folders, zip
or tar files. All give BGR images, as MMCV does.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.dataset import Compose
from mmengine.registry import DATASETS

from backbones.weights.file import IMAGENET
from compactdet.classification.archives import Images, decoded, find
from compactdet.classification.arrays import READERS, Arrays
from compactdet.errors import UserError

HOLD_OUT_SEED = 0  # seed of the held-out images, the same in every run


@dataclass(frozen=True)
class Set:
    """A data set.

    Attributes:
        title: Name in records and weights files; weights with the same title are ranked together.
        num_classes: Number of classes; None for the number of folders.
        size: Side of its square images in pixels; None for images of any size.
        upright: Whether images must not be mirrored (digits).
        files: Files expected in its folder, for messages.
    """

    title: str
    num_classes: int | None
    size: int | None = None
    upright: bool = False
    files: str = ''

    @property
    def splits(self) -> dict[str, tuple[str, ...]]:
        """Possible names of the folders or archives of each split."""
        return {'train': ('train', 'training'), 'test': ('test', 'testing', 'val', 'validation')}


SETS = {
    'imagenet': Set(IMAGENET, 1000),
    'cifar10': Set('CIFAR-10', 10, 32, files='cifar-10-python.tar.gz or cifar-10-binary.tar.gz'),
    'cifar100': Set('CIFAR-100', 100, 32, files='cifar-100-python.tar.gz or cifar-100-binary.tar.gz'),
    'svhn': Set('SVHN', 10, 32, upright=True, files='train_32x32.mat and test_32x32.mat'),
    'mnist': Set('MNIST', 10, 28, upright=True, files='train-images-idx3-ubyte.gz and the other three'),
    'folder': Set('', None),
}


def title_of(name: str, root: str | Path) -> str:
    """Return the name of a data set in records: its title, or the name of its folder."""
    return SETS[name].title or Path(root).resolve().name


@functools.lru_cache(maxsize=4)
def load(name: str, root: str, split: str) -> Images | Arrays:
    """Return all samples of 'train' or 'test'.

    Raises:
        UserError: They are missing, damaged, or not of this data set.
    """
    kind, folder = SETS[name], Path(root)
    if not folder.exists():
        what = f'{kind.files}, or ' if kind.files else ''
        raise UserError(
            f'{folder}: no such folder; put {kind.title or "the set"} there ({what}train/CLASS/FILE and '
            'test/CLASS/FILE, or zip or tar files of them), or say where it is: --data-root DIR'
        )
    reader = READERS.get(name)
    samples: Images | Arrays | None = reader(folder, split) if reader else None
    if samples is None:
        try:
            images = find(folder, kind.splits[split])
        except UserError as error:
            raise UserError(f'{error} (or {kind.files})' if kind.files else str(error)) from None
        samples = images
        if kind.size:
            samples = Arrays(decoded(images, kind.size), images.labels, images.classes, images.source)
    if kind.size and samples[0].shape != (kind.size, kind.size, 3):
        raise UserError(f'{folder}: images of {samples[0].shape}, those of {kind.title} have {kind.size}')
    if kind.num_classes and len(samples.classes) != kind.num_classes:
        raise UserError(
            f'{folder}, {split}: {len(samples.classes)} classes, {kind.title} has {kind.num_classes}; '
            'for a part of it or a set of your own: --dataset folder'
        )
    if split == 'train' and len(samples.classes) < 2:
        raise UserError(
            f'{folder}, {split}: its images lie in one folder, {samples.classes[0]!r}; a folder a class is '
            'needed: CLASS/FILE'
        )
    return samples


@DATASETS.register_module()
class ClassificationSet:
    """Labeled images of one split, passed through a pipeline.

    Args:
        name: A key of ``SETS``.
        data_root: Its folder.
        split: 'train', 'test', or 'val' for the images held out of train.
        pipeline: Transforms of mmpretrain, which get ``img`` (H, W, 3; BGR) and ``gt_label``.
        hold_out: Number of training images that become 'val', independent of the seed of the run.

    Raises:
        UserError: The data cannot be read, or no training image would be left.
    """

    def __init__(
        self, name: str, data_root: str, split: str, pipeline: Sequence[Any] = (), hold_out: int = 0
    ):
        if name not in SETS:
            raise UserError(f'no classification data set {name!r}; known: {", ".join(SETS)}')
        if split not in ('train', 'val', 'test'):
            raise UserError(f"split={split!r}; it is 'train', 'val' or 'test'")
        self.samples = load(name, str(data_root), 'test' if split == 'test' else 'train')
        classes = self.samples.classes
        if split == 'test' and classes != (train := load(name, str(data_root), 'train').classes):
            odd = sorted({*classes} ^ {*train})
            raise UserError(f'{data_root}: train and test have not the same classes: {", ".join(odd[:5])}')
        self.title = title_of(name, data_root)
        self.metainfo = {'name': self.title, 'classes': tuple(classes)}
        self.split = split
        self.indices: np.ndarray = np.arange(len(self.samples))
        if split != 'test' and hold_out:
            if not 0 < hold_out < len(self.samples):
                raise UserError(f'hold out from 1 to {len(self.samples) - 1} images, not {hold_out}')
            order = np.random.default_rng(HOLD_OUT_SEED).permutation(len(self.samples))
            self.indices = np.sort(order[:hold_out] if split == 'val' else order[hold_out:])
        self.pipeline = Compose(pipeline)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        """Return a sample after the pipeline."""
        sample = int(self.indices[index])
        image = self.samples[sample]
        size = image.shape[:2]
        label = int(self.samples.labels[sample])
        return self.pipeline(
            {'img': image, 'img_shape': size, 'ori_shape': size, 'gt_label': label, 'sample_idx': sample}
        )

    def facts(self) -> dict[str, Any]:
        """Return the row of the split in a record."""
        return {'images': len(self), 'source': self.samples.source, 'sha256': self.samples.sha256}
