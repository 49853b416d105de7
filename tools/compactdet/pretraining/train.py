"""One classification training: from a config to weights that a detector starts from, and a record."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process
from mmengine.registry import DATASETS, init_default_scope

from backbones import get_arch
from backbones.weights import file_sha256, save_weights
from compactdet import distributed
from compactdet.classification.dataset import ClassificationSet
from compactdet.config import strict
from compactdet.config.options import Options, set_common
from compactdet.errors import UserError
from compactdet.pretraining.config import composed
from compactdet.pretraining.display import show_protocol
from compactdet.pretraining.network import check_init
from compactdet.pretraining.options import PretrainChoice
from compactdet.pretraining.record_facts import cost_facts, info_of, init_facts, protocol_of, shares
from compactdet.records import environment, record_file
from compactdet.training.checkpoints import take
from compactdet.training.runner import SafeRunner, unwrapped
from compactdet.training.train import REPO, is_finished, learning_rate_line, open_work_dir, training_facts

WEIGHTS = 'weights.safetensors'


@dataclass
class PretrainOptions(Options):
    """What a command line says; None leaves the config's value.

    Attributes:
        config: A config file, or a choice of pieces.
        epochs: The schedule is stretched or shrunk to them.
        hold_out: Number of training images that are kept back and validated on.
    """

    config: str | PretrainChoice  # type: ignore[assignment]
    epochs: int | None = None
    hold_out: int | None = None


def compose(options: PretrainOptions) -> Config:
    """The config that a command line asks for, checked as far as it can be without its data.

    Raises:
        UserError: Something in it cannot be used.
        WeightsError: The initial weights cannot be used.
    """
    choice = options.config
    cfg = composed(choice) if isinstance(choice, PretrainChoice) else strict.load(choice)
    if (cfg.get('model') or {}).get('type') != 'mmpretrain.ImageClassifier':
        raise UserError(f'{cfg.filename} is no pretraining; a detector is trained by tools/train.py')
    set_common(cfg, options)
    if options.epochs is not None:
        set_epochs(cfg, options.epochs)
    if options.hold_out:
        hold_out(cfg, options.hold_out)
    if options.init is not None:
        cfg.model.backbone.init = None if options.init == 'none' else options.init
    return cfg


def set_epochs(cfg: Config, epochs: int) -> None:
    """Stretches or shrinks the whole schedule to a number of epochs.

    Raises:
        UserError: The config does not count epochs.
    """
    if 'max_epochs' not in (cfg.get('train_cfg') or {}):
        raise UserError(f'--epochs {epochs}: {cfg.filename} has no train_cfg.max_epochs; leave it out')
    factor = epochs / cfg.train_cfg.max_epochs
    cfg.train_cfg.max_epochs = epochs
    for scheduler in cfg.param_scheduler:
        for key in ('begin', 'end', 'T_max'):
            if key in scheduler and math.isfinite(scheduler[key]):
                scheduler[key] = scheduler[key] * factor
        if 'milestones' in scheduler:
            scheduler.milestones = [epoch * factor for epoch in scheduler.milestones]


def hold_out(cfg: Config, number: int) -> None:
    """Keeps training images back and validates on them after every epoch; nothing is chosen by it."""
    cfg.train_dataloader.dataset.hold_out = number
    cfg.val_dataloader = dict(
        cfg.test_dataloader, dataset=dict(cfg.test_dataloader.dataset, split='val', hold_out=number)
    )
    cfg.val_evaluator = cfg.test_evaluator
    cfg.val_cfg = dict(type='ValLoop')


def show(options: PretrainOptions) -> None:
    """Prints the config that a command line asks for, resolved, and its protocol; needs no data.

    Raises:
        UserError: As for ``compose``.
    """
    cfg = compose(options)
    print(strict.resolved_text(cfg))
    show_protocol(protocol_of(cfg, {}))


def train(options: PretrainOptions) -> Path:
    """Trains, evaluates on the test split, writes weights and ``record.json``; returns the record's path.

    The last epoch's weights are taken: nothing is chosen by a figure. To resume a finished run is to return
    its path.

    Raises:
        UserError: Something the user can mend; nothing half-written is left.
        WeightsError: The initial weights are absent or do not fit.
    """
    cfg = compose(options)
    distributed.start(cfg.launcher, cfg.get('env_cfg', {}))
    network = cfg.model.backbone
    if network.get('init'):
        check_init(network.arch, network.init)
    record_path = Path(cfg.work_dir) / 'record.json'
    if is_finished(cfg, record_path, record_file.PRETRAINING):
        return record_path
    init_default_scope(cfg.default_scope)
    built = {
        name: DATASETS.build(loader.dataset)
        for name in ('train', 'val', 'test')
        if (loader := cfg.get(f'{name}_dataloader'))
    }
    check_data(cfg, built['train'])
    work_dir = open_work_dir(cfg.work_dir)
    if is_main_process():
        take(work_dir)
    runner = SafeRunner.from_cfg(cfg)
    runner.use_datasets(built)
    splits = {name: dataset.facts() for name, dataset in built.items()}
    runner.protocol = protocol = protocol_of(cfg, splits, get_world_size())
    if is_main_process():
        show_protocol(protocol)
        if line := learning_rate_line(cfg, get_world_size()):
            print(line)
        images = splits['train']['images']
        print(f'{network.arch}: training on {images} images; log in {work_dir}', flush=True)

    git = environment.git_state(REPO)  # of the code that trains, not of what the checkout is by its end
    runner.train()
    training = training_facts(runner)
    val = runner.val() if 'val' in built else None
    start = time.perf_counter()
    test = runner.test()
    wall_s = time.perf_counter() - start
    if not is_main_process():
        return record_path
    metrics = {'val': val and shares(val), 'test': shares(test)}
    weights = work_dir / WEIGHTS
    model = unwrapped(runner)
    save_weights(weights, model.backbone.state_dict(), info_of(cfg, model, built['train'], metrics, git))
    data = built['train']
    record_file.write(
        record_path,
        {
            'schema_version': record_file.SCHEMA_VERSION,
            'kind': record_file.PRETRAINING,
            'created_utc': datetime.now(timezone.utc).strftime('%Y-%m-%dT%H:%M:%SZ'),
            'arch': network.arch,
            'family': get_arch(network.arch).family,
            'dataset': {'name': data.title, 'classes': list(data.metainfo['classes']), 'splits': splits},
            'protocol': protocol,
            'init': init_facts(model.backbone),
            'seed': int(runner.seed),
            'config': {'file': Path(cfg.filename).name, 'text': strict.resolved_text(cfg)},
            'command': options.command or f'tools/pretrain.py {cfg.filename}',
            'git': git,
            'versions': environment.versions(),
            'hardware': environment.hardware(),
            'training': training,
            'evaluation': {'wall_s': wall_s, 'images_per_s': len(built['test']) / wall_s},
            'costs': cost_facts(cfg, model.backbone),
            'metrics': metrics,
            'weights': {'file': WEIGHTS, 'sha256': file_sha256(weights)},
        },
    )
    return record_path


def check_data(cfg: Config, train_set: ClassificationSet) -> None:
    """Compares the classifier with the data.

    Raises:
        UserError: The numbers of classes differ, or there is not one whole batch.
    """
    classes, batch = train_set.metainfo['classes'], cfg.train_dataloader.batch_size
    if cfg.model.backbone.num_classes != len(classes):
        raise UserError(
            f'{cfg.filename}: num_classes={cfg.model.backbone.num_classes}, but {train_set.title} has '
            f'{len(classes)} classes'
        )
    if len(train_set) < batch * get_world_size():
        raise UserError(
            f'{len(train_set)} training images are less than one step of {batch * get_world_size()}; '
            '--cfg-options train_dataloader.batch_size=N takes fewer'
        )
