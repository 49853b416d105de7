"""User-facing errors: printed as one line, exit status 1."""

import errno
import importlib.util
import io
import os
import re
import signal
import sys
from collections.abc import Callable

# User errors of `backbones`. They are looked up only if their module is loaded, which takes seconds.
OTHER_USER_ERRORS = (
    ('backbones.spec', 'UnknownArchError'),
    ('backbones.row_check', 'RowError'),
    ('backbones.weights', 'WeightsError'),
)

MORE_FILES = 'raise the limit of open files of the process, as by `ulimit -n 4096`'


# OpenCV's package without windows needs none of the system libraries that slim container images lack.
HEADLESS_OPENCV = (
    'python -m pip uninstall -y opencv-python opencv-python-headless, then '
    'python -m pip install opencv-python-headless'
)
WINDOW_LIBRARY = re.compile(r'lib(GL|gthread|glib|SM|ICE|X)\S*: cannot open shared object file')


class UserError(Exception):
    """An error that the user can fix. The message states what is wrong, where, and what to do."""


def run_main(main: Callable[[], int | None]) -> None:
    """Run a tool's ``main`` and end the process.

    The exit status is the value that ``main`` returns (0 for None), 1 after an error, or 130 after
    Ctrl-C. A user error is printed as one line, by only one of several processes. Any other exception is a
    defect of the suite and keeps its traceback.
    """
    sys.argv = [_expand_home(argument) for argument in sys.argv]
    for stream in (sys.stdout, sys.stderr):  # file names need not be valid text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    try:
        status = main() or 0
    except KeyboardInterrupt:
        print('error: interrupted', file=sys.stderr)
        status = 128 + signal.SIGINT
    except BrokenPipeError:  # as with `| head`; discard the rest of the buffer
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except Exception as error:
        line = user_line(error)
        # None in the tools that never run in several processes.
        distributed = sys.modules.get('compactdet.distributed')
        if line is None and not (distributed and distributed.another_process_failed()):
            raise
        if line is not None and (distributed is None or distributed.prints_error()):
            print(f'error: {line}', file=sys.stderr)
        status = 1
        if distributed is not None:
            distributed.end_process(status)
    sys.exit(status)


def user_line(error: BaseException) -> str | None:
    """Return the line to print for an error; None if it is not a user error.

    A data loader's worker process passes an exception on with the whole traceback as its message; the line
    has only the original message.
    """
    if isinstance(error, ModuleNotFoundError) and importlib.util.find_spec('backbones') is None:
        return f'{sys.executable} has no {error.name}: activate the environment of the set-up in README.md'
    if isinstance(error, ImportError) and (found := WINDOW_LIBRARY.search(str(error))):
        library = found[0].partition(':')[0]
        return f'OpenCV needs {library}, which is missing; install it without windows: {HEADLESS_OPENCV}'
    if _too_many_files(error):
        return f'too many open files; {MORE_FILES}'
    other_types = [getattr(sys.modules.get(module), name, UserError) for module, name in OTHER_USER_ERRORS]
    if not isinstance(error, (UserError, *other_types)):
        return None
    text = str(error)
    if 'Original Traceback' in text:
        text = text.rpartition(f'{type(error).__name__}: ')[2]
    line = ' '.join(text.split())
    # File names from downloaded archives can contain control characters of the terminal.
    return ''.join(char if char.isprintable() else ascii(char)[1:-1] for char in line)


def one_line(error: BaseException) -> str:
    """Return the first line of an error's message, after its type if that is a built-in exception."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    text = text.strip().split('\n')[0]
    is_builtin = type(error).__module__ == 'builtins'  # the suite's own errors have complete messages
    return f'{type(error).__name__}: {text}' if is_builtin else text


def _expand_home(argument: str) -> str:
    """Return a command-line argument with ``~/`` at its start, or after ``=``, replaced by the home folder.

    Shells leave it in ``--option=~/data``, in quotes and in ``KEY=~/data``.
    """
    option, equals, value = argument.rpartition('=')
    return f'{option}{equals}{os.path.expanduser(value)}' if value.startswith('~/') else argument  # noqa: PTH111


def _too_many_files(error: BaseException) -> bool:
    """Return True if an error is that of a limit of open files, by its number or PyTorch's message."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return True
    return isinstance(error, OSError | RuntimeError) and any(
        text in str(error) for text in ('Too many open files', 'items of ancdata')
    )
