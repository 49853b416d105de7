"""Several processes: torchrun's or Slurm's, on GPUs (NCCL) or on CPUs (Gloo).

MMEngine reads the launchers' variables, but selects a GPU whatever the backend; here a machine without
one works too. What the processes share: the weights at the start, gradients (averaged), BN statistics
(each process's own in training, averaged after each epoch; no SyncBN) and the results of an evaluation.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import shutil
import sys
from collections.abc import Iterator, Mapping
from typing import Any
from unittest import mock

import numpy as np
import torch
from mmengine.dist import barrier, get_dist_info, init_dist, is_distributed, is_main_process
from mmengine.utils.dl_utils import set_multi_processing
from torch import distributed as torch_dist

from compactdet.errors import UserError

# Launcher: its program, and the variables that it gives to each process.
LAUNCHERS = {
    'pytorch': ('torchrun', ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')),
    'slurm': ('srun', ('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS', 'SLURM_NODELIST')),
}


def check_launcher(launcher: str) -> None:
    """Refuses a launcher that cannot work here.

    Raises:
        UserError: The launcher's own program did not start this process, or gave it no GPU where this
            machine has some; or torchrun did and no launcher is named.
    """
    if launcher == 'none':
        if int(os.environ.get('WORLD_SIZE', 1)) > 1 and 'TORCHELASTIC_RUN_ID' in os.environ:
            raise UserError('torchrun started several processes of this command: add --launcher pytorch')
        return
    program, variables = LAUNCHERS[launcher]
    for variable in variables:
        if variable not in os.environ:
            raise UserError(
                f'--launcher {launcher}: start this command with {program}, which sets {variable}'
            )
    if launcher == 'slurm' and 'MASTER_ADDR' not in os.environ and not shutil.which('scontrol'):
        raise UserError('--launcher slurm: no scontrol to ask for the first machine; set MASTER_ADDR to it')
    local, gpus = int(os.environ[variables[1]]), torch.cuda.device_count()
    if torch.cuda.is_available() and local >= gpus:
        raise UserError(
            f'--launcher {launcher}: process {local + 1} of this machine, which shows {gpus} GPUs; '
            'start one process a GPU'
        )


def start(launcher: str, env_cfg: Mapping[str, Any]) -> None:
    """Joins a launcher's processes, once; nothing without a launcher.

    Args:
        launcher: 'none', 'pytorch' or 'slurm'.
        env_cfg: The config's: its ``dist_cfg`` and ``mp_cfg`` are used.

    Raises:
        UserError: As ``check_launcher``; or the processes do not find each other.
    """
    if launcher == 'none' or is_distributed():
        return
    check_launcher(launcher)
    for variable in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS'):  # as MMEngine does, without its warnings
        os.environ.setdefault(variable, '1')
    set_multi_processing(**env_cfg.get('mp_cfg', {}), distributed=True)
    options = {'backend': 'nccl', **env_cfg.get('dist_cfg', {})}
    with contextlib.ExitStack() as stack:
        if not torch.cuda.is_available():
            options['backend'] = 'gloo'
            stack.enter_context(mock.patch.object(torch.cuda, 'set_device'))  # there is none to select
        try:
            init_dist(launcher, **options)
        except torch_dist.DistError as error:
            place = ':'.join(os.environ.get(name, '?') for name in ('MASTER_ADDR', 'MASTER_PORT'))
            raise UserError(
                f'--launcher {launcher}: the processes did not meet at {place}: {error}; '
                'all must reach that address, and its port must be free'
            ) from error


def stop() -> None:
    """Leaves the other processes, if there are any."""
    if is_distributed():
        torch_dist.destroy_process_group()


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """The first process does what is inside before all others: it may write what they then read."""
    if not is_main_process():
        barrier()
    yield
    if is_main_process():
        barrier()


def seed_apart(seed: int) -> None:
    """Gives each process but the first random numbers of its own, for augmentation and sampling."""
    rank, _ = get_dist_info()
    if rank:
        random.seed(seed + rank)
        np.random.seed(seed + rank)  # what MMDetection's transforms draw from
        torch.manual_seed(seed + rank)  # of the GPU too


def leave(status: int) -> None:
    """Ends a process that failed, at once if there are others.

    Python's own end waits for Gloo's threads, which abort the process when the others are gone.
    """
    if is_distributed():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def speaks() -> bool:
    """Whether this process is the one that tells the user of an error: the first that has one.

    Before the processes have met it is one on each machine.
    """
    if is_distributed():
        return _failures(1) == 1
    return int(os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID', 0))) == 0


def another_failed() -> bool:
    """Whether another process has told the user of an error: what happens here follows from it."""
    return is_distributed() and _failures(0) > 0


def _failures(more: int) -> int:
    """Adds to the count of processes that failed, which all share, and returns it."""
    try:
        return torch_dist.distributed_c10d._get_default_store().add('compactdet/failures', more)
    except torch_dist.DistError:  # the process that kept the count is gone
        return 2
