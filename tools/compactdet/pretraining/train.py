"""One classification training, from the config to the weights file and the record."""

from __future__ import annotations

from pathlib import Path

from mmengine.config import Config
from mmengine.dist import get_world_size, is_main_process

from backbones.weights import file_sha256, save_weights
from compactdet import distributed
from compactdet.classification.dataset import ClassificationSet
from compactdet.config import strict
from compactdet.errors import UserError
from compactdet.pretraining.display import show_protocol
from compactdet.pretraining.network import check_initial_weights
from compactdet.pretraining.options import PretrainOptions, config_from_options
from compactdet.pretraining.record_facts import (
    accuracies,
    cost_facts,
    init_facts,
    protocol_of,
    weights_info,
)
from compactdet.records import environment, record_file, unfinished
from compactdet.records.pretraining_types import PretrainingRecordContent, SplitAccuracies
from compactdet.training.finished import is_finished
from compactdet.training.model_checks import unwrap_model
from compactdet.training.record_facts import record_heading, run_facts, training_facts
from compactdet.training.run_stages import (
    REPO,
    build_datasets,
    build_runner,
    evaluate_test_split,
    print_training_start,
)
from compactdet.training.threads import set_threads

WEIGHTS = 'weights.safetensors'


def show(options: PretrainOptions) -> None:
    """Print the resolved config of a command line and its protocol; the data set is not needed.

    Raises:
        UserError: As for ``compose``.
    """
    cfg = config_from_options(options)
    print(strict.resolved_text(cfg))
    show_protocol(protocol_of(cfg, {}))


def train(options: PretrainOptions) -> Path:
    """Train a network, evaluate it, write its weights and ``record.json``; return the record's path.

    The weights are those of the last epoch. If the run is resumed and has finished, only the path is
    returned.

    Raises:
        UserError: The user can correct the error; no partial file is left.
        WeightsError: The initial weights are absent or do not fit.
    """
    cfg = config_from_options(options)
    distributed.start(cfg.launcher, cfg.get('env_cfg', {}))
    set_threads(options.threads)
    network = cfg.model.backbone
    if network.get('init'):
        check_initial_weights(network.arch, network.init)
    record_path = Path(cfg.work_dir) / 'record.json'
    if is_finished(cfg, record_path, record_file.read_pretraining):
        return record_path
    datasets = build_datasets(cfg)
    check_data(cfg, datasets['train'])
    splits = {name: dataset.facts() for name, dataset in datasets.items()}
    protocol = protocol_of(cfg, splits, get_world_size())
    runner = build_runner(cfg, datasets, protocol)
    if is_main_process():
        show_protocol(protocol)
        print_training_start(cfg, splits['train']['images'])

    git = environment.git_state(REPO)  # before the training: the checkout may change during it
    runner.train()
    training = training_facts(runner)
    val = runner.val() if 'val' in datasets else None
    test = evaluate_test_split(runner)
    if not is_main_process():
        return record_path
    metrics: SplitAccuracies = {
        'val': None if val is None else accuracies(val),
        'test': accuracies(test.metrics),
    }
    data, model = datasets['train'], unwrap_model(runner.model)
    weights = Path(cfg.work_dir) / WEIGHTS
    save_weights(weights, model.backbone.state_dict(), weights_info(cfg, model, data, metrics, git))
    command = options.command or f'tools/pretrain.py {cfg.filename}'
    record: PretrainingRecordContent = {
        'schema_version': record_file.SCHEMA_VERSION,
        'kind': record_file.PRETRAINING,
        **record_heading(cfg),
        'dataset': {'name': data.title, 'classes': list(data.metainfo['classes']), 'splits': splits},
        'protocol': protocol,
        'init': init_facts(model.backbone),
        **run_facts(cfg, runner.seed, command, git, training, test),
        'costs': cost_facts(cfg, model.backbone),
        'metrics': metrics,
        'weights': {'file': WEIGHTS, 'sha256': file_sha256(weights)},
    }
    return unfinished.write_record(record_path.parent, record)


def check_data(cfg: Config, train_set: ClassificationSet) -> None:
    """Compare the config with the training images.

    Raises:
        UserError: The number of classes differs, or there are fewer images than one step needs.
    """
    classes, batch = train_set.metainfo['classes'], cfg.train_dataloader.batch_size
    if cfg.model.backbone.num_classes != len(classes):
        raise UserError(
            f'{cfg.filename}: num_classes={cfg.model.backbone.num_classes}, but {train_set.title} has '
            f'{len(classes)} classes'
        )
    if len(train_set) < batch * get_world_size():
        raise UserError(
            f'{len(train_set)} training images are fewer than the {batch * get_world_size()} of one step; '
            'lower --cfg-options train_dataloader.batch_size=N'
        )
