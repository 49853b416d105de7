"""Errors of parts of a config that do not fit together, as one line."""

from __future__ import annotations

import contextlib
import errno
import traceback
from collections.abc import Iterator
from typing import Any

import torch

from backbones.weights import WeightsError
from compactdet.errors import UserError, one_line

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def one_line_error(runner: Any, what: str) -> Iterator[None]:
    """Raise UserError for any exception inside the context; its traceback goes to the log file.

    Args:
        runner: The runner, for the name of the config and the log.
        what: What failed, for the message.
    """
    try:
        yield
    except (UserError, WeightsError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise
        runner.logger.info(traceback.format_exc())
        frame = traceback.extract_tb(error.__traceback__)[-1]
        line = one_line(error) if str(error) else f'{type(error).__name__} at `{frame.line}`'
        out_of_memory = isinstance(error, torch.cuda.OutOfMemoryError)
        cure = 'lower the batch size' if out_of_memory else 'change these parts of the config'
        raise UserError(
            f'{runner.cfg.filename}: {what}: {line}; {cure} (traceback: {runner.log_dir})'
        ) from error
