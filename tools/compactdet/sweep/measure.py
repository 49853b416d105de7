"""Times some steps of a job, for a plan where no record tells its speed."""

from __future__ import annotations

import copy
import itertools
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from mmengine.registry import init_default_scope

from compactdet.records.environment import hardware
from compactdet.sweep.speed import TIMED, Estimate, hardware_name
from compactdet.training.runner import SafeRunner

WARM_UP = 2  # steps that are not counted: memory is laid out, kernels are chosen


def measure(cfg: Any, steps: int, threads: int) -> Estimate:
    """Return the seconds per image of training and of evaluation, over some steps from random weights.

    Random weights propose other boxes than trained ones do, which moves evaluation by a little; computing
    the figures is not timed.

    Args:
        cfg: A job's config; left as it is.
        steps: Of training, and batches of evaluation at most.
        threads: Of the CPU.

    Raises:
        UserError: Its data are not there or cannot be read, or there is less than one step of them.
    """
    cfg = without_start(cfg)
    before = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        try:
            torch.set_num_threads(threads)
            init_default_scope(cfg.default_scope)
            runner = SafeRunner.from_cfg(cfg)
            runner.model.init_weights()
            train_s = _train(runner, cfg, steps)
            test_s = _test(runner, cfg, steps)
        finally:
            torch.set_num_threads(before)
    facts = hardware()
    name = hardware_name(facts['gpu'], facts['cpu'], threads)
    return Estimate(
        train_s, test_s, TIMED, f'timed, {steps} steps', name, facts['gpu'] is not None, threads
    )


def without_start(cfg: Any) -> Any:
    """Return the config without initial weights and resumption, on which the speed does not depend."""
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone.init_cfg = None
    if 'shared_head' in (cfg.model.get('roi_head') or {}):
        cfg.model.roi_head.shared_head.init_cfg = None
    cfg.resume, cfg.load_from = False, None
    return cfg


def _train(runner: SafeRunner, cfg: Any, steps: int) -> float:
    """Return the seconds per image of ``steps`` training steps, their data among them."""
    loader = runner.build_dataloader(cfg.train_dataloader, seed=0)
    optimizer = runner.build_optim_wrapper(cfg.optim_wrapper)
    runner.model.train()
    return _time(
        lambda batch: runner.model.train_step(batch, optim_wrapper=optimizer),
        loader, steps, cfg.train_dataloader.batch_size,
    )  # fmt: skip


def _test(runner: SafeRunner, cfg: Any, steps: int) -> float:
    """Return the seconds per image of evaluation."""
    loader = runner.build_dataloader(cfg.test_dataloader, seed=0)
    runner.model.eval()
    with torch.no_grad():
        return _time(runner.model.test_step, loader, steps, cfg.test_dataloader.batch_size)


def _time(step: Callable[[Any], Any], loader: Any, steps: int, batch_size: int) -> float:
    batches = itertools.chain.from_iterable(itertools.repeat(loader))
    for batch in itertools.islice(batches, WARM_UP):
        step(batch)
    _synchronize()
    start = time.perf_counter()
    for batch in itertools.islice(batches, steps):
        step(batch)
    _synchronize()
    return (time.perf_counter() - start) / (steps * batch_size)


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
