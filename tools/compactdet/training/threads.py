"""The number of CPU threads of a training, and a note where other programs need the cores."""

from __future__ import annotations

import os
import sys

import torch

BUSY_CORES = 0.75  # load of other programs from which the note is printed


def set_threads(threads: int | None) -> None:
    """Set the number of PyTorch's threads; print a note if they have fewer free cores.

    A thread of OpenMP that has no core of its own makes all others wait for it in every operator. The
    number is not chosen by the load, since the same seed gives the same run only with the same number of
    threads.

    Args:
        threads: Number of threads; None keeps PyTorch's.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    used = torch.get_num_threads()
    if used == 1 or torch.cuda.is_available() or not hasattr(os, 'getloadavg'):
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    load = min(os.getloadavg()[0], cores)  # of the last minute
    free = max(1, int(cores - load + 0.5))
    if load >= BUSY_CORES and used > free:
        print(
            f'note: other programs used about {load:.1f} of {cores} cores in the last minute; '
            f'{used} threads may then take ten times as long; --threads {free} avoids it',
            file=sys.stderr,
        )
