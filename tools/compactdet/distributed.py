"""Training and testing in several processes, which torchrun or Slurm starts, on GPUs (NCCL) or CPUs (Gloo).

MMEngine reads the environment variables of the launchers, but always selects a GPU; this module also works
without one. The processes share the initial weights, the averaged gradients and the results of an
evaluation. Without SyncBN, their BN statistics are separate during an epoch and averaged after it.
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

# For each launcher, its program and the variables that it sets in each process.
LAUNCHERS = {
    'pytorch': ('torchrun', ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')),
    'slurm': ('srun', ('SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_NTASKS', 'SLURM_NODELIST')),
}


def check_launcher(launcher: str) -> None:
    """Raise UserError if this process was not started as a launcher requires.

    Raises:
        UserError: The program of the launcher did not start this process; there are more processes than
            GPUs on a machine with GPUs; or torchrun started several processes without --launcher.
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
        raise UserError('--launcher slurm: scontrol is not installed; set MASTER_ADDR to the first machine')
    local, gpus = int(os.environ[variables[1]]), torch.cuda.device_count()
    if torch.cuda.is_available() and local >= gpus:
        raise UserError(
            f'--launcher {launcher}: process {local + 1} on this machine, which has {gpus} GPUs; '
            'start one process per GPU'
        )


def start(launcher: str, env_cfg: Mapping[str, Any]) -> None:
    """Join the process group of a launcher, unless this process has joined or there is no launcher.

    Args:
        launcher: 'none', 'pytorch' or 'slurm'.
        env_cfg: ``env_cfg`` of the config; ``dist_cfg`` and ``mp_cfg`` are used.

    Raises:
        UserError: See ``check_launcher``; or the processes cannot connect.
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
            stack.enter_context(mock.patch.object(torch.cuda, 'set_device'))  # there is no GPU to select
        try:
            init_dist(launcher, **options)
        except torch_dist.DistError as error:
            place = ':'.join(os.environ.get(name, '?') for name in ('MASTER_ADDR', 'MASTER_PORT'))
            raise UserError(
                f'--launcher {launcher}: the processes cannot connect at {place}: {error}; '
                'the address must be reachable from all and the port must be free'
            ) from error


def stop() -> None:
    """Leave the process group, if there is one."""
    if is_distributed():
        torch_dist.destroy_process_group()


@contextlib.contextmanager
def main_first() -> Iterator[None]:
    """Run the body in the main process first, then in all others, which may read the files it writes."""
    if not is_main_process():
        barrier()
    yield
    if is_main_process():
        barrier()


def seed_by_rank(seed: int) -> None:
    """Give every process its own seed for augmentation and sampling; the main process keeps ``seed``."""
    rank, _ = get_dist_info()
    if rank:
        random.seed(seed + rank)
        np.random.seed(seed + rank)  # used by MMDetection's transforms
        torch.manual_seed(seed + rank)  # also seeds the GPU


def end_process(status: int) -> None:
    """End a failed process immediately if there are other processes; otherwise do nothing.

    At a normal exit, Python waits for the threads of Gloo, which abort the process when the others have
    ended.
    """
    if is_distributed():
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def prints_error() -> bool:
    """Return True in the one process that prints an error: the first one that fails.

    Before the processes have joined a group, it is one process per machine.
    """
    if is_distributed():
        return _failures(1) == 1
    return int(os.environ.get('LOCAL_RANK', os.environ.get('SLURM_LOCALID', 0))) == 0


def another_process_failed() -> bool:
    """Return True if another process has failed; an error in this process is then a consequence."""
    return is_distributed() and _failures(0) > 0


def _failures(more: int) -> int:
    """Add a number to the shared count of failed processes and return the count."""
    try:
        return torch_dist.distributed_c10d._get_default_store().add('compactdet/failures', more)
    except torch_dist.DistError:  # the process that stores the count has ended
        return 2
