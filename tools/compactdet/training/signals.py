"""Signals that stop training. The step is finished, the state is saved, the exit status is 128 + signal.

Slurm sends SIGTERM before it takes a machine away, and torchrun does when another process failed. Ctrl-C
sends SIGINT.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import multiprocessing.queues
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Start of an error message. A sweep starts a run with this error again.
WORKER_DIED = 'a data loader worker process died'

# Exit statuses of a worker process that cannot send a batch, by the reason in PyTorch's message.
CANNOT_SEND = {'No space left on device': errno.ENOSPC, 'Too many open files': errno.EMFILE}

# Id of the process that handles signals for the worker processes of its data loaders; 0 if none does.
# The workers share this memory.
_handling_pid = mmap.mmap(-1, 8)


class Interrupted(BaseException):
    """Raised on a signal to stop if there is no work to finish first. Its argument is the signal number."""


class StopSignals:
    """Context manager that handles the signals to stop.

    Attributes:
        deferred: Whether a signal is stored in ``received``, so that the current work can be finished
            first. Otherwise, and on a second signal, `Interrupted` is raised.
        received: Number of the stored signal, or None.
    """

    def __init__(self) -> None:
        self.deferred = False
        self.received: int | None = None
        self._previous_handlers: dict[int, Any] = {}
        self._pid = os.getpid()

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():  # Python sets handlers in no other
            self._pid = os.getpid()
            _handling_pid[:] = self._pid.to_bytes(8, 'little')
            self._previous_handlers = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)
        self._previous_handlers = {}
        _handling_pid[:] = bytes(8)

    @contextlib.contextmanager
    def deferring(self, deferred: bool) -> Iterator[None]:
        """Set ``deferred`` inside the context."""
        before, self.deferred = self.deferred, deferred
        try:
            yield
        finally:
            self.deferred = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a child process that inherited this handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif self.deferred and self.received is None:
            self.received = number
        else:
            raise Interrupted(number)


def init_worker(worker_id: int, worker_init_fn: Callable[[int], None] | None) -> None:
    """Initialize a data loader worker so that signals to its process group do not end it.

    The training process needs its workers to finish the step. It ends them itself, after it stopped
    handling signals. If the training process ends while a worker sends it a batch, the worker prints
    nothing: the training process reports the error. A worker that cannot send a batch ends: Python's queues
    drop what they cannot send, and the training process would wait for it without end.

    Args:
        worker_id: Number of the worker.
        worker_init_fn: The loader's original ``worker_init_fn``, or None.
    """
    for number in SIGNALS:
        signal.signal(number, _handle_in_worker)
    sys.excepthook = _worker_excepthook
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]
    if worker_init_fn is not None:
        worker_init_fn(worker_id)


def _handle_in_worker(number: int, frame: FrameType | None) -> None:
    if int.from_bytes(_handling_pid[:], 'little') != os.getppid():
        os._exit(0)  # as PyTorch's workers do; it reports any other status as a failure


def _worker_excepthook(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """Print an exception of the thread that sends batches, unless the receiver closed the connection."""
    if not isinstance(error, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, traceback)


def _end_worker(error: Exception, batch: object) -> None:
    """End a worker process that cannot send a batch, with a status of `CANNOT_SEND` if it is known."""
    status = next((status for text, status in CANNOT_SEND.items() if text in str(error)), None)
    if status is None:
        sys.excepthook(type(error), error, error.__traceback__)
    os._exit(status or 1)
