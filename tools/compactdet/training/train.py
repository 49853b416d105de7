"""One training run of a detector, from the config to the record."""

from __future__ import annotations

from pathlib import Path

from mmengine.dist import barrier, get_world_size, is_main_process

from backbones.weights import WeightsError
from compactdet import distributed
from compactdet.config import strict
from compactdet.config.detector import detector_name
from compactdet.config.options import TrainOptions, check_initial_weights, config_from_options
from compactdet.config.schedule import describe_long_warm_up
from compactdet.data.base_dataset import innermost
from compactdet.records import display, environment, record_file, unfinished
from compactdet.records.protocol import protocol_of
from compactdet.records.record_types import RecordContent
from compactdet.training.dry_run import dry_run
from compactdet.training.finished import is_finished
from compactdet.training.model_checks import unwrap_model
from compactdet.training.record_facts import (
    cost_facts,
    detections_writer,
    image_intervals,
    init_class,
    init_facts,
    last_validation,
    metric_values,
    record_heading,
    run_facts,
    split_facts,
    training_facts,
)
from compactdet.training.run_stages import (
    REPO,
    Evaluation,
    build_datasets,
    build_runner,
    evaluate_test_split,
    find_training_images,
    print_training_start,
)
from compactdet.training.threads import set_threads


def show(options: TrainOptions) -> None:
    """Print the resolved config of a command line and its protocol; the data set is not needed.

    Raises:
        UserError: As for ``compose``.
        WeightsError: As for ``compose``.
    """
    cfg = config_from_options(options)
    distributed.start(cfg.launcher, cfg.get('env_cfg', {}))
    if not is_main_process():
        return
    print(strict.resolved_text(cfg))
    try:
        initialization = init_class(cfg)
    except WeightsError:  # the file may not exist yet
        initialization = 'absent'
    display.show_protocol(protocol_of(cfg, {}, initialization, get_world_size()), with_key=False)


def train(options: TrainOptions) -> Path:
    """Train a detector, evaluate it on the test split, write ``record.json`` and return its path.

    The evaluated checkpoint is the best on the validation split if the config chooses one, otherwise the
    last. If the run is resumed and has finished, only the path is returned. Parts of the config that do
    not fit together, and facts that the record needs, are found before the first step.

    Raises:
        UserError: The user can correct the error; no partial file is left.
        WeightsError: The initial weights are absent or do not fit.
    """
    cfg = config_from_options(options)
    distributed.start(cfg.launcher, cfg.get('env_cfg', {}))
    set_threads(options.threads)
    check_initial_weights(cfg)
    record_path = Path(cfg.work_dir) / 'record.json'
    if is_finished(cfg, record_path):
        return record_path
    datasets = build_datasets(cfg)
    sources = {
        name: innermost(dataset, f'{cfg.filename}: {name}_dataloader.dataset', several=name == 'train')
        for name, dataset in datasets.items()
    }
    leaks = find_training_images(cfg, sources)
    splits = {name: split_facts(dataset, leaks.get(name)) for name, dataset in sources.items()}
    protocol = protocol_of(cfg, splits, init_class(cfg), get_world_size())
    costs = cost_facts(cfg, sources['test'])
    runner = build_runner(cfg, datasets, protocol)
    git = environment.git_state(REPO)  # before the training: the checkout may change during it
    command = options.command or f'tools/train.py {cfg.filename}'

    # Everything that can fail in a record fails here, before the training.
    draft: RecordContent = {
        'schema_version': record_file.SCHEMA_VERSION,
        **record_heading(cfg),
        'detector': detector_name(cfg.model),
        'dataset': {
            'name': sources['test'].metainfo.get('name', 'custom'),
            'classes': list(sources['test'].metainfo['classes']),
            'splits': splits,
        },
        'protocol': protocol,
        'init': init_facts(unwrap_model(runner.model)),
        **run_facts(cfg, runner.seed, command, git, training_facts(runner), Evaluation({}, 0, 1.0)),
        'costs': costs,
        'metrics': {'val': None, 'test': {}},
    }
    record_file.finish(draft)
    dry_run(runner, datasets)
    if is_main_process():
        display.show_protocol(protocol)
        if line := describe_long_warm_up(cfg, runner.max_iters):
            print(line)
        print_training_start(cfg, splits['train']['images'])

    runner.train()
    training = training_facts(runner)
    init = init_facts(unwrap_model(runner.model))
    val = last_validation(runner)
    if training['chosen']:
        barrier()  # the main process wrote the checkpoint
        runner.load_checkpoint(str(Path(cfg.work_dir) / training['chosen']['checkpoint']))
        val = runner.val()
    test = evaluate_test_split(runner)
    if not is_main_process():
        return record_path
    record: RecordContent = {
        **draft,
        'created_utc': record_heading(cfg)['created_utc'],
        'protocol': protocol | {'init': init['class']},
        'init': init,
        'training': training,
        'evaluation': {'wall_s': test.wall_s, 'images_per_s': test.images_per_s},
        'metrics': {
            'val': None if val is None else metric_values(val),
            'test': metric_values(test.metrics | image_intervals(runner)),
        },
    }
    return unfinished.write_record(record_path.parent, record, detections_writer(runner))
