"""Config of a pretraining: the parts for a network and a data set, and configs composed without a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from mmengine.config import Config

from backbones import Preprocessing, build_classifier, get_arch
from backbones.sparsity import masked_convs
from compactdet.classification.dataset import SETS, load
from compactdet.config import strict
from compactdet.config.compose import BASE_CONFIGS, check_known
from compactdet.errors import UserError
from compactdet.pretraining.choice import PretrainChoice

# Input size in pixels to which small images are scaled for networks of stride 32.
SMALL_IMAGES_INPUT = 64


class Parts(NamedTuple):
    """The config variables that depend on network, data set and augmentation, in a leaf config's order."""

    model: dict[str, Any]
    train_dataloader: dict[str, Any]
    test_dataloader: dict[str, Any]
    test_evaluator: dict[str, Any]
    custom_hooks: list[dict[str, Any]]


def pretraining(
    arch: str,
    dataset: str,
    recipe: Mapping[str, Any],
    *,
    size: int | None = None,
    data_root: str | None = None,
    num_classes: int | None = None,
) -> Parts:
    """Return the config variables that wire a network, a data set and a recipe.

    Args:
        arch: A name from ``list_archs()``.
        dataset: A key of ``classification.SETS``.
        recipe: The recipe's ``name`` and ``batch_size``, and optionally ``augmented`` (default True: photos
            are cropped at random and flipped; small images are padded by an eighth, cropped and flipped;
            digits are never flipped), ``crop_area`` (range of the share of a photo's area that a crop has)
            and ``also`` (transforms after these).
        size: Side of the network's input in pixels. Default: the network's own, for small images up to 64.
        data_root: Folder of the data set; default: ``data/NAME``.
        num_classes: Number of classes, for a data set without a fixed number.

    Raises:
        UnknownArchError: There is no such arch.
        UserError: The network cannot use images of that size, or the number of classes is not given.
    """
    row, data = get_arch(arch), SETS[dataset]
    classes = data.num_classes or num_classes
    if classes is None:
        raise UserError(f'data set {dataset} has no fixed number of classes; set num_classes')
    size = size or (min(row.input_size, SMALL_IMAGES_INPUT) if data.size else row.input_size)
    if size < row.stages[-1].stride:
        raise UserError(f'--size {size} is smaller than the last stride of {arch}, {row.stages[-1].stride}')
    try:
        row.check_image(size, size)
    except ValueError as error:
        raise UserError(f'--size {size}: {error}') from error
    if data.size and size < data.size:
        raise UserError(
            f'--size {size} is smaller than the {data.size} pixels of {data.title}; omit --size'
        )

    train, test = _pipelines(data.size, data.upright, size, recipe)
    loader = dict(
        batch_size=recipe['batch_size'],
        num_workers=0 if data.size else 8,
        persistent_workers=not data.size,
        collate_fn=dict(type='default_collate'),
    )
    samples = dict(type='ClassificationSet', name=dataset, data_root=data_root or f'data/{dataset}')
    preprocessing = Preprocessing()
    with torch.device('meta'):
        learns_sparsity = bool(masked_convs(build_classifier(row, classes)))
    hooks = [dict(type='ProgressHook')]
    return Parts(
        model=dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='WholeNetwork', arch=arch, num_classes=classes, init=None),
            head=dict(
                type='mmpretrain.ClsHead', loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=1.0)
            ),
            data_preprocessor=dict(
                type='ScalingPreprocessor',
                size=size,
                mean=list(preprocessing.mean),
                std=list(preprocessing.std),
                to_rgb=True,
            ),
        ),
        train_dataloader=dict(
            **loader,
            sampler=dict(type='DefaultSampler', shuffle=True),
            # A last batch of one image would have no BN statistics.
            drop_last=True,
            dataset=dict(**samples, split='train', hold_out=0, pipeline=train),
        ),
        test_dataloader=dict(
            **{**loader, 'batch_size': 250},
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(**samples, split='test', pipeline=test),
        ),
        test_evaluator=dict(type='mmpretrain.Accuracy', topk=(1, 5) if classes >= 5 else (1,)),
        custom_hooks=[*hooks, dict(type='CondensingHook')] if learns_sparsity else hooks,
    )


def _pipelines(
    image_size: int | None, upright: bool, size: int, recipe: Mapping[str, Any]
) -> tuple[list[dict], list[dict]]:
    """Return mmpretrain's transforms for training and testing.

    Args:
        image_size: Side of the data set's small images, which the preprocessor scales; None: photos.
        upright: Whether images must not be flipped.
        size: Side of the network's input.
        recipe: As for ``pretraining``.
    """
    if image_size:
        crop = dict(type='mmpretrain.RandomCrop', crop_size=image_size, padding=image_size // 8)
        test: list[dict] = []
    else:
        scaling = dict(backend='pillow', interpolation='bilinear')
        test = [
            dict(type='mmpretrain.ResizeEdge', scale=size * 256 // 224, edge='short', **scaling),
            dict(type='mmpretrain.CenterCrop', crop_size=size),
        ]
        area = tuple(recipe.get('crop_area', (0.08, 1)))
        crop = dict(type='mmpretrain.RandomResizedCrop', scale=size, crop_ratio_range=area, **scaling)
    train = test
    if recipe.get('augmented', True):
        flip = [] if upright else [dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal')]
        train = [crop, *flip, *recipe.get('also', ())]
    pack = dict(type='mmpretrain.PackInputs', meta_keys=())
    return [*train, pack], [*test, pack]


def compose_config(choice: PretrainChoice) -> Config:
    """Compose the config of a choice, equal to a leaf config of the same base configs, and check its keys.

    Raises:
        UserError: There is no such recipe, or the user's own data set cannot be read.
        UnknownArchError: There is no such arch.
    """
    from compactdet.pretraining import network as _  # noqa: F401  here: needs MMPretrain, leaf configs do not

    num_classes = None
    if choice.dataset == 'folder':
        num_classes = len(load('folder', choice.data_root or '.', 'train').classes)
    content = strict.read(BASE_CONFIGS / 'pretraining.py').to_dict()
    content.update(strict.read(_recipe_file(choice.recipe_name)).to_dict())
    parts = pretraining(
        choice.arch, choice.dataset, content['recipe'], size=choice.size, data_root=choice.data_root,
        num_classes=num_classes,
    )  # fmt: skip
    content.update(parts._asdict())
    cfg = Config(content, cfg_text=f'# {choice}\n', filename=f'{choice.name}.py')
    strict.check_keys(cfg)
    return cfg


def list_recipes() -> list[str]:
    """Return the names of the recipes.

    Raises:
        UserError: The package is installed without the checkout.
    """
    names = sorted(path.stem for path in (BASE_CONFIGS / 'recipes').glob('*.py'))
    if not names:
        raise UserError(f'{BASE_CONFIGS}: no recipes; pretraining needs the checkout: pip install -e .')
    return names


def _recipe_file(name: str) -> Path:
    check_known(name, list_recipes(), 'recipe')
    return BASE_CONFIGS / 'recipes' / f'{name}.py'
