"""A lock that one process of many holds, on one machine or on several that share a file system.

A file, made in one step (``O_EXCL``, which network file systems keep), that says who holds it. It is taken
over when its holder is surely gone: on the same machine when no process has the file locked (``flock``; the
holder's children inherit that, so a child which outlives it keeps the lock) and the holder's process has
ended; on another machine when it has shown no sign of life for ``STALE_S``.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # not on Windows: there the holder's process alone is looked at
    fcntl = None  # type: ignore[assignment]

BEAT_S = 20.0
STALE_S = 180.0


class Busy(Exception):  # noqa: N818 - an answer, not a mistake
    """Somebody else holds the lock; says who."""


class Lock:
    """Holds ``path`` from ``acquire`` to ``release``; in between, ``beat`` is called often."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None
        self._beaten = 0.0

    @property
    def fds(self) -> tuple[int, ...]:
        """File descriptors that a child must inherit, so that the lock lives as long as it does."""
        return () if self._fd is None else (self._fd,)

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            Busy: Somebody else has it.
        """
        for _ in range(3):
            try:
                self._fd = os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
            except FileExistsError:
                self._remove_stale()
                continue
            for _ in range(50):  # somebody who looks at the file has it locked for a moment
                if _flock(self._fd) is not False:
                    break
                time.sleep(0.02)
            os.write(self._fd, json.dumps(_me()).encode())
            os.fsync(self._fd)
            self._beaten = time.monotonic()
            return
        raise Busy('several others want it')

    def beat(self) -> None:
        """Update the lock from time to time, as a sign that the holder is alive."""
        if self._fd is not None and time.monotonic() - self._beaten >= BEAT_S:
            self._beaten = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self._fd if os.utime in os.supports_fd else self.path)

    def release(self) -> None:
        """Give the lock back."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        if _same(self.path, fd):  # else it was taken over from us
            self.path.unlink(missing_ok=True)
        os.close(fd)

    def held(self) -> bool:
        """Return True if somebody holds the lock now; changes nothing."""
        try:
            fd = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return False
        except OSError:  # another user's
            return True
        try:
            return _held(self.path, fd)
        finally:
            os.close(fd)

    def _remove_stale(self) -> None:
        """Remove the lock file of a holder that is gone.

        Raises:
            Busy: It is not.
        """
        try:
            fd = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return
        try:
            if _held(self.path, fd):
                owner = _owner(fd)
                raise Busy(
                    f'process {owner.get("pid", "?")} on {owner.get("host", "another machine")} has it'
                )
            if not _same(self.path, fd):  # another took it over first
                return
            aside = self.path.with_name(f'.{self.path.name}.{socket.gethostname()}.{os.getpid()}.stale')
            self.path.rename(aside)
            if not _same(aside, fd):  # without flock, another took it over in between: give it back
                with contextlib.suppress(FileExistsError):
                    self.path.hardlink_to(aside)
            aside.unlink()
        except FileNotFoundError:
            return
        finally:
            os.close(fd)


def _flock(fd: int) -> bool | None:
    """Return True if the file could be locked; None where the file system has no locks."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (OSError, AttributeError):
        return None
    return True


def _same(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except OSError:
        return False


def _owner(fd: int) -> dict[str, Any]:
    try:
        owner = json.loads(os.pread(fd, 4096, 0))
    except ValueError:  # its holder has not written it yet, or never will
        return {}
    return owner if isinstance(owner, dict) else {}


def _held(path: Path, fd: int) -> bool:
    """Return True if the holder of a lock file or a child of it is alive; otherwise lock the file."""
    if _flock(fd) is False:
        return True
    owner = _owner(fd)
    if owner.get('host') == socket.gethostname():
        pid = owner.get('pid')
        return isinstance(pid, int) and _started(pid) == owner.get('started') and _alive(pid)
    return _now_there(path) - os.fstat(fd).st_mtime < STALE_S


def _now_there(path: Path) -> float:
    """Return the time by the clock of the file's file system, which need not be this machine's."""
    probe = path.with_name(f'.{path.name}.{socket.gethostname()}.{os.getpid()}.clock')
    try:
        probe.touch()
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def _me() -> dict[str, Any]:
    return {'host': socket.gethostname(), 'pid': os.getpid(), 'started': _started(os.getpid())}


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: int) -> int | None:
    """Return the start time of a process in clock ticks since boot: process ids are reused, start times are
    not.
    """
    try:
        stat = Path(f'/proc/{pid}/stat').read_text()
    except OSError:
        return None
    return int(stat.rpartition(')')[2].split()[19])
