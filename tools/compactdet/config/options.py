"""Command-line options of a training, and the config that they give."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from backbones import get_arch
from backbones.libraries.pretrained import library_weights
from backbones.weights import how_to_get
from backbones.wiring import halves, set_init
from compactdet.config import strict
from compactdet.config.argument_types import LrChoice
from compactdet.config.choice import DetectorChoice
from compactdet.config.compose import compose_config
from compactdet.config.detector import head_classes
from compactdet.config.log_services import set_log_services
from compactdet.config.schedule import limit_warm_up, set_batch_size, set_epochs
from compactdet.distributed import check_launcher
from compactdet.errors import UserError

# Images of each split in a trial run.
QUICK_IMAGES = {'train': 160, 'val': 40, 'test': 40}


@dataclass
class TrainOptions:
    """Command-line options of the training of a detector; None keeps the value of the config.

    Attributes:
        config: A config file, or a choice of network, detector and data set.
        work_dir: The run folder; None is that of the config, or ``work_dirs/NAME_OF_THE_CONFIG``.
        resume: A training state, or 'auto' for the newest one in the run folder; None starts a new run.
        seed: Seed of all random numbers.
        data_root: Folder of the data set.
        init: Weights file with the initial weights, 'library' for those that a library publishes for its
            network, or 'none' for random initialization.
        lr: Learning rate of the optimizer, before it is scaled with the batch size.
        lr_choice: How ``lr`` was chosen, if by a metric.
        epochs: Number of epochs, to which the whole schedule is scaled.
        batch_size: Training images per step and process; the learning rate is scaled with it.
        quick: Whether to train for one epoch, or for ``epochs``, on the first images of each split.
        precision: 'fp32', 'tf32', 'bf16' or 'fp16'; None keeps that of the config.
        cuda_graphs: Whether the backbone's training pass is captured as CUDA graphs.
        threads: Number of CPU threads; None keeps PyTorch's.
        log: Services to which the training also logs, of ``log_services.SERVICES``.
        launcher: 'none', 'pytorch' (torchrun) or 'slurm'.
        cfg_options: Values by dotted key that replace those of the config.
        command: The command line, for the record; empty for the tool's name and the config.
    """

    config: str | DetectorChoice
    work_dir: str | None = None
    resume: str | None = None
    seed: int | None = None
    data_root: str | None = None
    init: str | None = None
    lr: float | None = None
    lr_choice: LrChoice | None = None
    epochs: int | None = None
    batch_size: int | None = None
    quick: bool = False
    precision: str | None = None
    cuda_graphs: bool = False
    threads: int | None = None
    log: Sequence[str] = ()
    launcher: str = 'none'
    cfg_options: dict[str, Any] = field(default_factory=dict)
    command: str = ''


def config_from_options(options: TrainOptions) -> Config:
    """Return the config that options give, after all checks that do not need the data set.

    Raises:
        UserError: The config or an option is not valid; see ``compactdet.config.strict``.
        WeightsError: The initial weights cannot be used.
    """
    choice = options.config
    cfg = compose_config(choice) if isinstance(choice, DetectorChoice) else strict.load(choice)
    if cfg.get('model', {}).get('type') == 'mmpretrain.ImageClassifier':
        raise UserError(
            f'{cfg.filename} is the config of a pretraining; run '
            f'`python tools/pretrain.py {shlex.quote(cfg.filename)}`'
        )
    apply_common_options(cfg, options)
    if options.init == 'library':
        set_init(cfg.model, str(library_weights(cfg.model.backbone.arch)))
    elif options.init is not None:
        set_init(cfg.model, None if options.init == 'none' else options.init)
    check_num_classes(cfg)
    return cfg


def apply_common_options(cfg: Config, options: TrainOptions) -> None:
    """Apply the options that all trainings have to a config, in place.

    Raises:
        UserError: An option cannot be used.
    """
    if options.epochs is not None:
        set_epochs(cfg, options.epochs)
    if options.batch_size is not None:
        set_batch_size(cfg, options.batch_size)
    if options.quick:
        _set_quick(cfg, options.epochs)
    strict.merge_options(cfg, options.cfg_options)  # after the schedule: its values are not scaled
    check_launcher(options.launcher)
    cfg.launcher = options.launcher
    if options.data_root is not None:
        train = list(_innermost_configs((cfg.get('train_dataloader') or {}).get('dataset')))
        roots = sorted({str(dataset.get('data_root')) for dataset in train})
        if len(roots) > 1:
            raise UserError(
                f'--data-root {options.data_root}: the config trains on several data sets '
                f'({", ".join(roots)}); set their data_root in the config'
            )
        for dataset in dataset_configs(cfg):
            dataset.data_root = options.data_root
    if options.lr is not None:
        set_learning_rate(cfg, options.lr)
    if options.lr_choice is not None:
        cfg.lr_choice = options.lr_choice
    if options.seed is not None:
        cfg.randomness = dict(cfg.get('randomness', {}), seed=options.seed)
    if options.precision is not None:
        set_precision(cfg, options.precision)
    if options.cuda_graphs:
        set_cuda_graphs(cfg, options.launcher)
    if options.log:
        set_log_services(cfg, options.log)
    name = Path(cfg.filename).stem + ('_quick' if options.quick else '')
    cfg.work_dir = options.work_dir or cfg.get('work_dir') or f'work_dirs/{name}'
    if options.resume is not None:
        cfg.resume = True
        cfg.load_from = None if options.resume == 'auto' else options.resume


def _set_quick(cfg: Config, epochs: int | None) -> None:
    """Reduce a config to a trial run on the first images of each split, in place.

    Args:
        cfg: The config.
        epochs: Number of epochs that was already set; None to set one.

    Raises:
        UserError: The config's training is not counted in epochs.
    """
    for split, number in QUICK_IMAGES.items():
        for dataset in _innermost_configs((cfg.get(f'{split}_dataloader') or {}).get('dataset')):
            dataset.indices = number
    if epochs is None:
        set_epochs(cfg, 1)
    steps = (epochs or 1) * QUICK_IMAGES['train'] // cfg.train_dataloader.batch_size
    limit_warm_up(cfg, max(1, steps // 10))


def set_precision(cfg: Config, precision: str) -> None:
    """Set the precision of a training in a config, in place.

    Raises:
        UserError: This machine cannot train in that precision.
    """
    if precision in ('tf32', 'fp16') and not torch.cuda.is_available():
        alias = ' (--amp)' if precision == 'fp16' else ''
        raise UserError(
            f'--precision {precision}{alias} needs a CUDA GPU, and this machine has none; omit the option'
        )
    if precision == 'bf16':
        cfg.optim_wrapper.type = 'Bf16OptimWrapper'
    elif precision == 'fp16':
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.loss_scale = 'dynamic'
    elif torch.cuda.is_available():  # a CPU has no TF32: 'fp32' is what it does without the option
        cfg.env_cfg = dict(cfg.get('env_cfg', {}), tf32=precision == 'tf32')


def set_cuda_graphs(cfg: Config, launcher: str) -> None:
    """Set in a config that the backbone's training pass is captured as CUDA graphs, in place.

    Raises:
        UserError: This machine has no CUDA GPU, or several processes train.
    """
    if not torch.cuda.is_available():
        raise UserError('--cuda-graphs needs a CUDA GPU, and this machine has none; omit the option')
    if launcher != 'none':
        raise UserError('--cuda-graphs is for one process, and this training has several; omit the option')
    cfg.cuda_graphs = True


def dataset_configs(cfg: Config) -> Iterator[Any]:
    """Yield the innermost data set configs of all data loaders."""
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        yield from _innermost_configs((cfg.get(name) or {}).get('dataset'))


def _innermost_configs(dataset: Any) -> Iterator[Any]:
    """Yield the data set configs inside the configs of wrappers."""
    inner = dataset and (dataset.get('datasets') or [dataset.get('dataset')])
    if inner and inner[0]:
        for part in inner:
            yield from _innermost_configs(part)
    elif dataset:
        yield dataset


def set_learning_rate(cfg: Config, lr: float) -> None:
    """Set the learning rate of the optimizer in a config, in place.

    Raises:
        UserError: The optimizer of the config has no learning rate.
    """
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    if 'lr' not in optimizer:
        raise UserError(f'--lr {lr:g}: {cfg.filename} has no optim_wrapper.optimizer.lr; omit --lr')
    cfg.optim_wrapper.optimizer.lr = lr


def check_num_classes(cfg: Config) -> None:
    """Raise UserError if the head and the data set have different numbers of classes.

    Raises:
        UserError: The numbers differ.
    """
    numbers = head_classes(cfg.model)
    for dataset in dataset_configs(cfg):
        classes = (dataset.get('metainfo') or {}).get('classes') or ()
        for number in numbers:
            if classes and number != len(classes):
                raise UserError(
                    f'{cfg.filename}: num_classes={number}, but the data set has {len(classes)} '
                    f'classes ({", ".join(classes)}); pass that number to the wiring function'
                )


def check_initial_weights(cfg: Config) -> None:
    """Raise UserError if the initial weights are missing.

    Raises:
        UserError: The message states how to get them.
    """
    for half in halves(cfg.model):
        checkpoint = (half.get('init_cfg') or {}).get('checkpoint')
        if checkpoint and not Path(checkpoint).is_file():
            arch = get_arch(half['arch'])
            raise UserError(how_to_get(arch.name, arch.family, checkpoint))
