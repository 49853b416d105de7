"""Runs a command that ends with the process that started it, even if that one is killed.

Arguments: the process number of that one, and the command.
On Linux the kernel sends it SIGKILL then (``PR_SET_PDEATHSIG``, which survives ``exec``). Elsewhere nothing
does: the command goes on, and its run stays locked until it ends (see ``sweep_lock``).
"""

import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Replaces itself by the command."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == 'linux':
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:  # it was killed before the kernel knew
            sys.exit(1)
    os.execv(command[0], command)


if __name__ == '__main__':
    main()
