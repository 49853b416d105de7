"""What a command line asks for: a config, checked as far as it can be without its data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from backbones import get_arch
from backbones.weights import how_to_get
from backbones.wiring import halves, set_init
from compactdet.config import strict
from compactdet.config.compose import Choice, composed
from compactdet.distributed import check_launcher
from compactdet.errors import UserError


@dataclass
class Options:
    """What a command line says; None leaves the config's value.

    Attributes:
        config: A config file, or a choice of pieces.
        lr: Learning rate of the optimiser, before it is scaled to the batch.
        lr_choice: Where ``lr`` comes from, if it was chosen by a figure: see ``protocol.parse_lr_choice``.
    """

    config: str | Choice
    work_dir: str | None = None
    resume: str | None = None
    seed: int | None = None
    data_root: str | None = None
    init: str | None = None
    lr: float | None = None
    lr_choice: dict[str, Any] | None = None
    amp: bool = False
    launcher: str = 'none'
    cfg_options: dict[str, Any] = field(default_factory=dict)
    command: str = ''


def compose(options: Options) -> Config:
    """The config that a command line asks for, checked as far as it can be without its data.

    Raises:
        UserError: Something in it cannot be used; see ``compactdet.config.strict``.
        WeightsError: The initial weights cannot be used.
    """
    choice = options.config
    cfg = composed(choice) if isinstance(choice, Choice) else strict.load(choice)
    if cfg.get('model', {}).get('type') == 'mmpretrain.ImageClassifier':
        raise UserError(f'{cfg.filename} is a pretraining: `python tools/pretrain.py {cfg.filename}`')
    set_common(cfg, options)
    if options.init is not None:
        set_init(cfg.model, None if options.init == 'none' else options.init)
    check_classes(cfg)
    return cfg


def set_common(cfg: Config, options: Options) -> None:
    """Puts into a config what a command line says of any training, in place.

    Raises:
        UserError: Something of it cannot be used.
    """
    strict.merge_options(cfg, options.cfg_options)
    check_launcher(options.launcher)
    cfg.launcher = options.launcher
    if options.data_root is not None:
        for dataset in datasets(cfg):
            dataset.data_root = options.data_root
    if options.lr is not None:
        set_lr(cfg, options.lr)
    if options.lr_choice is not None:
        cfg.lr_choice = options.lr_choice
    if options.seed is not None:
        cfg.randomness = dict(cfg.get('randomness', {}), seed=options.seed)
    if options.amp:
        if not torch.cuda.is_available():
            raise UserError('--amp needs a CUDA GPU, and this machine shows none; leave it out')
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    cfg.work_dir = options.work_dir or cfg.get('work_dir') or f'work_dirs/{Path(cfg.filename).stem}'
    if options.resume is not None:
        cfg.resume = True
        cfg.load_from = None if options.resume == 'auto' else options.resume


def datasets(cfg: Config) -> Iterator[Any]:
    """The innermost data set configs of every loader."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        dataset = (cfg.get(name) or {}).get('dataset')
        while dataset:
            inner = dataset.get('dataset')
            if inner is None:
                yield from dataset.get('datasets') or [dataset]
            dataset = inner


def set_lr(cfg: Config, lr: float) -> None:
    """Sets the optimiser's learning rate.

    Raises:
        UserError: The config's optimiser has none.
    """
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    if 'lr' not in optimizer:
        raise UserError(f'--lr {lr:g}: {cfg.filename} has no optim_wrapper.optimizer.lr; leave --lr out')
    cfg.optim_wrapper.optimizer.lr = lr


def check_classes(cfg: Config) -> None:
    """Compares the head's classes with the data set's.

    Raises:
        UserError: Their numbers differ.
    """
    head = cfg.model.get('roi_head', cfg.model).bbox_head
    for dataset in datasets(cfg):
        classes = (dataset.get('metainfo') or {}).get('classes')
        if classes and len(classes) != head.num_classes:
            raise UserError(
                f'{cfg.filename}: num_classes={head.num_classes}, but the data set has {len(classes)} '
                f'classes ({", ".join(classes)}); give the wiring call that number'
            )


def check_init(cfg: Config) -> None:
    """Sees that the initial weights are at hand.

    Raises:
        UserError: They are not; says how to get or make them, or to do without.
    """
    for half in halves(cfg.model):
        checkpoint = (half.get('init_cfg') or {}).get('checkpoint')
        if checkpoint and not Path(checkpoint).is_file():
            arch = get_arch(half['arch'])
            raise UserError(how_to_get(arch.name, arch.family, checkpoint))
