"""Stages that detector training, detector testing and pretraining share."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, get_world_size, is_main_process
from mmengine.registry import DATASETS, init_default_scope

from compactdet import distributed
from compactdet.data.leaks import Leak, check_leaks, find_leaks
from compactdet.errors import UserError, one_line
from compactdet.training.command_line import command_line
from compactdet.training.run_folder import lock_run_folder, open_run_folder
from compactdet.training.runner import SafeRunner

AnyOptions = TypeVar('AnyOptions')

# Folder of the checkout, whose git state the record states.
REPO = Path(__file__).parents[3]


@dataclass(frozen=True)
class Evaluation:
    """Result of an evaluation on the test split.

    Attributes:
        metrics: Values by metric name, as the runner returns them.
        num_images: Number of test images.
        wall_s: Duration in seconds.
    """

    metrics: dict[str, Any]
    num_images: int
    wall_s: float

    @property
    def images_per_s(self) -> float:
        """Speed of the evaluation."""
        return self.num_images / self.wall_s


def run_training_command(
    args: argparse.Namespace,
    options_class: Callable[..., AnyOptions],
    train: Callable[[AnyOptions], Path],
    show_config: Callable[[AnyOptions], None],
    show_results: Callable[[Path], None],
) -> None:
    """Run the command of a training tool: train and print the results, or print the config.

    Args:
        args: Parsed options of ``command_line.add_training_options``, and those of ``options_class``.
        options_class: Class of the training's options.
        train: Trains, and returns the path of the record.
        show_config: Prints config and protocol, for ``--print-config``.
        show_results: Prints the results in a record.
    """
    arguments = vars(args)
    print_config = arguments.pop('print_config')
    options = options_class(**arguments, command=command_line())
    if print_config:
        show_config(options)
        return
    path = train(options)
    if is_main_process():
        show_results(path)
    distributed.stop()


def build_datasets(cfg: Config) -> dict[str, Any]:
    """Build the data sets of a training by split: 'train', 'val' if the config has it, 'test'.

    All splits are read before the first step, so that damaged files are found before the training.

    Raises:
        UserError: A data set is absent or damaged, or it cannot be built with its options.
    """
    init_default_scope(cfg.default_scope)
    with distributed.main_first():  # the main process draws the embedded data set
        return {
            name: _build_dataset(cfg, name)
            for name in ('train', 'val', 'test')
            if cfg.get(f'{name}_dataloader')
        }


def _build_dataset(cfg: Config, split: str) -> Any:
    place = f'{split}_dataloader.dataset'
    try:
        return DATASETS.build(cfg[f'{split}_dataloader'].dataset)
    except (UserError, OSError):
        raise
    except Exception as error:  # a data set or a transform of any library
        raise UserError(f'{cfg.filename}: {place} cannot be built: {one_line(error)}') from error


def find_training_images(cfg: Config, datasets: Mapping[str, Any]) -> dict[str, list[Leak]]:
    """Return the images of the validation and test splits that are also training images.

    Args:
        cfg: The composed config; ``allow_leaks`` allows such images.
        datasets: From ``build_datasets``.

    Raises:
        UserError: There are such images, and the config does not allow them.
    """
    found: list[Any] = [None]
    if is_main_process():
        entries = {
            name: [dataset.get_data_info(i) for i in range(len(dataset))]
            for name, dataset in datasets.items()
        }
        found = [find_leaks(entries)]
    broadcast_object_list(found)
    leaks: dict[str, list[Leak]] = found[0]
    if not cfg.get('allow_leaks'):
        check_leaks(leaks)
    return leaks


def build_runner(cfg: Config, datasets: Mapping[str, Any], protocol: dict[str, Any]) -> SafeRunner:
    """Create and lock the run folder, and build the runner of a training.

    Args:
        cfg: The composed config.
        datasets: From ``build_datasets``.
        protocol: The protocol of the run.

    Raises:
        UserError: The run folder cannot be used, or another training uses it.
    """
    work_dir = open_run_folder(cfg.work_dir)
    if is_main_process():
        lock_run_folder(work_dir)
    runner = SafeRunner.from_cfg(cfg)
    runner.use_datasets(datasets)
    runner.protocol = protocol
    return runner


def print_training_start(cfg: Config, num_images: int) -> None:
    """Print how the learning rate is scaled, if it is, the number of images and the folder of the log."""
    if line := describe_learning_rate(cfg, get_world_size()):
        print(line)
    arch = cfg.model.backbone.arch
    print(f'{arch}: training on {num_images} images; log in {Path(cfg.work_dir)}', flush=True)


def describe_learning_rate(cfg: Config, world_size: int) -> str | None:
    """Return how the learning rate depends on the batch size; None if it is used as the config states it.

    Args:
        cfg: The composed config.
        world_size: Number of processes.
    """
    scaling = cfg.get('auto_scale_lr') or {}
    base, rate = scaling.get('base_batch_size'), cfg.optim_wrapper.optimizer.get('lr')
    per_process = cfg.train_dataloader.batch_size
    batch = per_process * world_size
    if rate is None or batch == base or (base is None and world_size == 1):
        return None
    images = f'{batch} images per step ({world_size} x {per_process})'
    if base is None:
        return f'learning rate {rate:g}, not scaled to {images}: the schedule has no auto_scale_lr'
    if not scaling.get('enable'):
        hint = '--cfg-options auto_scale_lr.enable=True scales it'
        return f'learning rate {rate:g} for {base} images, not scaled to {images}; {hint}'
    return f'learning rate {rate * batch / base:g}: {rate:g} for {base} images, scaled to {images}'


def evaluate_test_split(runner: SafeRunner) -> Evaluation:
    """Evaluate the runner's model on the test split, and measure the time."""
    start = time.perf_counter()
    metrics = runner.test()
    wall_s = time.perf_counter() - start
    return Evaluation(metrics, len(runner.test_loop.dataloader.dataset), wall_s)
