"""Run a command that ends with the process that started it, even if that process is killed.

Arguments: the id of the parent process, and the command. On Linux the kernel then sends SIGKILL to the
command (``PR_SET_PDEATHSIG``, which survives ``exec``). Elsewhere the command continues, and its run stays
locked until it ends (see `compactdet.sweep.lock`).
"""

import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Replace this process by the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == 'linux':
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # the parent ended before the request
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == '__main__':
    main()
