"""Errors that are for people: one clear line and exit status 1, never a traceback."""

import importlib.util
import io
import os
import sys
from collections.abc import Callable

# The network package's errors for users, looked up where it is loaded: loading it takes seconds.
OTHERS = (('backbones.spec', 'UnknownArchError'), ('backbones.weights', 'WeightsError'))


class UserError(Exception):
    """Something the user can mend: says what was wrong, where, and what to do."""


def run_main(main: Callable[[], int | None]) -> None:
    """Runs a tool's ``main`` and ends the process.

    Exit status 0 on success, 1 with one line on an error that the user can mend. Any other exception is
    a defect of the suite and keeps its traceback. Of several processes one says the line.
    """
    for stream in (sys.stdout, sys.stderr):  # a file's name may be no text at all
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    try:
        status = main() or 0
    except KeyboardInterrupt:
        print('error: interrupted', file=sys.stderr)
        status = 1
    except BrokenPipeError:  # `| head` has seen enough; what is left in the buffer goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    except Exception as error:
        line = user_line(error)
        distributed = sys.modules.get(
            'compactdet.distributed'
        )  # loaded by the tools that several processes run
        if line is None and not (distributed and distributed.another_failed()):
            raise
        if line is not None and (distributed is None or distributed.speaks()):
            print(f'error: {line}', file=sys.stderr)
        status = 1
        if distributed is not None:
            distributed.leave(status)
    sys.exit(status)


def user_line(error: BaseException) -> str | None:
    """What to tell the user of an error; None where it is not the user's to mend.

    A data loader's worker passes an exception on as its type with the whole traceback as its message: of
    that only what the exception said is kept.
    """
    if isinstance(error, ModuleNotFoundError) and importlib.util.find_spec('backbones') is None:
        return f'{sys.executable} has no {error.name}: activate the environment of the set-up in README.md'
    kinds = [getattr(sys.modules.get(module), name, UserError) for module, name in OTHERS]
    if not isinstance(error, (UserError, *kinds)):
        return None
    text = str(error)
    if 'Original Traceback' in text:
        text = text.rpartition(f'{type(error).__name__}: ')[2]
    line = ' '.join(text.split())
    # A name out of somebody's archive may hold what moves a terminal's cursor.
    return ''.join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
