"""Signals to stop: a training finishes its step, saves and ends with status 128 + the signal's number.

Slurm sends SIGTERM before it takes a machine away, torchrun when another process failed; Ctrl-C is SIGINT.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
WORKER_DIED = 'a worker of a data loader died'  # how the error begins; a sweep starts such a run again

# The process that answers signals for its data loaders' workers: memory that they share with it.
_answering = mmap.mmap(-1, 8)


class Interrupted(BaseException):
    """A signal came when there was nothing to finish; holds its number."""


class StopSignals:
    """Catches the signals to stop while it is entered.

    Attributes:
        deferred: Whether a signal is kept in ``received`` for whoever finishes the work first. A second
            one, and one where nothing is to be finished, raises ``Interrupted``.
        received: The signal's number, or None.
    """

    def __init__(self) -> None:
        self.deferred = False
        self.received: int | None = None
        self._before: dict[int, Any] = {}
        self._pid = os.getpid()

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python allows it to no other
            self._pid = os.getpid()
            _answering[:] = self._pid.to_bytes(8, 'little')
            self._before = {number: signal.signal(number, self._answer) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        _answering[:] = bytes(8)

    @contextlib.contextmanager
    def deferring(self, deferred: bool) -> Iterator[None]:
        """Sets ``deferred`` for what is inside."""
        before, self.deferred = self.deferred, deferred
        try:
            yield
        finally:
            self.deferred = before

    def _answer(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a child that was not shielded
            _obey(number)
        elif self.deferred and self.received is None:
            self.received = number
        else:
            raise Interrupted(number)


def shield_worker(worker: int, then: Callable[[int], None] | None) -> None:
    """Lets a data loader's worker live on when its whole group is told to stop.

    The training needs it to finish the step. Once that is over, it obeys: Python ends its children so.
    A training that ends while it takes a batch says why; its workers do not print that they noticed.

    Args:
        worker: Its number.
        then: The loader's own ``worker_init_fn``.
    """
    for number in SIGNALS:
        signal.signal(number, _answer_in_worker)
    sys.excepthook = _unless_broken_off
    if then is not None:
        then(worker)


def _answer_in_worker(number: int, frame: FrameType | None) -> None:
    if int.from_bytes(_answering[:], 'little') != os.getppid():
        os._exit(0)  # as PyTorch's own workers do; any other status it reports as a failure


def _unless_broken_off(kind: type[BaseException], error: BaseException, at: TracebackType | None) -> None:
    """Python's hook, which the thread calls that hands over the memory of a batch, and nobody else does."""
    if not isinstance(error, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, at)


def _obey(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
