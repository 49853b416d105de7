"""A pretraining's config: a leaf, or composed of the same pieces by network, data set and recipe."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from compactdet.errors import UserError
from compactdet.pretraining.options import PretrainChoice

if TYPE_CHECKING:
    from mmengine.config import Config

PIECES = Path(__file__).parents[3] / 'det_configs' / '_base_'
SMALL = 64  # pixels that small images are scaled to, where the network has stride 32


class Parts(NamedTuple):
    """What a config has of its network, its data and its recipe's way with images, in a leaf's order."""

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
    """Wires a network, a data set and a recipe.

    Args:
        arch: A name from ``list_archs()``.
        dataset: A key of ``classification.SETS``.
        recipe: ``name`` and ``batch_size``; ``augmented`` (default True: pictures are cropped and mirrored,
            small images padded by an eighth, cropped and mirrored; digits are never mirrored);
            ``crop_area``: shares of a picture's area that a crop has; ``also``: transforms after these.
        size: Pixels of the image that the network gets. Default: the network's own, for small images at
            most 64.
        data_root: Folder of the set; default: ``data/NAME``.
        num_classes: Of a set that does not have a number of its own.

    Raises:
        UnknownArchError: No such arch.
        UserError: The network cannot take images of that size.
    """
    import torch

    from backbones import Preprocessing, build_classifier, get_arch
    from backbones.sparsity import masked_convs
    from compactdet.classification.dataset import SETS

    row, kind = get_arch(arch), SETS[dataset]
    classes = kind.num_classes or num_classes
    if classes is None:
        raise UserError(f'{dataset}: say num_classes')
    size = size or (min(row.input_size, SMALL) if kind.size else row.input_size)
    if size < row.stages[-1].stride:
        raise UserError(f'--size {size} is below the last stride of {arch}, {row.stages[-1].stride}')
    if kind.size and size < kind.size:
        raise UserError(f'--size {size} is below the {kind.size} pixels of {kind.title}; leave it out')

    train, test = _pipelines(kind.size, kind.upright, size, recipe)
    loader = dict(
        batch_size=recipe['batch_size'],
        num_workers=0 if kind.size else 8,
        persistent_workers=not kind.size,
        collate_fn=dict(type='default_collate'),
    )
    samples = dict(type='ClassificationSet', name=dataset, data_root=data_root or f'data/{dataset}')
    preprocessing = Preprocessing()
    with torch.device('meta'):
        condenses = bool(masked_convs(build_classifier(row, classes)))
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
            # a rest of one image would have no BN statistics
            drop_last=True,
            dataset=dict(**samples, split='train', hold_out=0, pipeline=train),
        ),
        test_dataloader=dict(
            **{**loader, 'batch_size': 250},
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(**samples, split='test', pipeline=test),
        ),
        test_evaluator=dict(type='mmpretrain.Accuracy', topk=(1, 5) if classes >= 5 else (1,)),
        custom_hooks=[*hooks, dict(type='CondensingHook')] if condenses else hooks,
    )


def _pipelines(
    image_size: int | None, upright: bool, size: int, recipe: Mapping[str, Any]
) -> tuple[list[dict], list[dict]]:
    """Transforms of mmpretrain for training and testing; small images are scaled by the preprocessor."""
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
        mirror = [] if upright else [dict(type='mmpretrain.RandomFlip', prob=0.5, direction='horizontal')]
        train = [crop, *mirror, *recipe.get('also', ())]
    pack = dict(type='mmpretrain.PackInputs', meta_keys=())
    return [*train, pack], [*test, pack]


def composed(choice: PretrainChoice) -> Config:
    """The config that a leaf of the same pieces would be, with its keys checked.

    Raises:
        UserError: There is no such recipe or data set, or the set's own folder cannot be read.
        UnknownArchError: No such arch.
    """
    from mmengine.config import Config

    from compactdet.config import strict
    from compactdet.pretraining import network as _  # noqa: F401  registers

    num_classes = None
    if choice.dataset == 'folder':
        from compactdet.classification.dataset import load

        num_classes = len(load('folder', choice.data_root or '.', 'train').classes)
    content = strict.read(PIECES / 'pretraining.py').to_dict()
    content.update(strict.read(_recipe_file(choice.recipe_name)).to_dict())
    content.update(
        pretraining(
            choice.arch, choice.dataset, content['recipe'], size=choice.size, data_root=choice.data_root,
            num_classes=num_classes,
        )._asdict()
    )  # fmt: skip
    cfg = Config(content, cfg_text=f'# {choice}\n', filename=f'{choice.name}.py')
    strict.check_keys(cfg)
    return cfg


def recipes() -> list[str]:
    """Names of the recipes.

    Raises:
        UserError: There is no checkout.
    """
    names = sorted(path.stem for path in (PIECES / 'recipes').glob('*.py'))
    if not names:
        raise UserError(f'{PIECES}: no recipes there; pretraining needs the checkout: pip install -e .')
    return names


def _recipe_file(name: str) -> Path:
    if name not in recipes():
        near = difflib.get_close_matches(name, recipes(), n=3)
        hint = f'did you mean {" or ".join(near)}?' if near else f'known: {", ".join(recipes())}'
        raise UserError(f'no recipe {name!r}; {hint}')
    return PIECES / 'recipes' / f'{name}.py'
