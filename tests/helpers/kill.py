"""A process that is killed at a chosen moment."""

import os
import pkgutil
import signal
from typing import Any
from unittest import mock


class Kill:
    """Kills the process before (or after) the n-th call of a function."""

    def __init__(self, target: str, number: int, after: bool = False):
        self.target, self.number, self.after = target, number, after

    def patch(self) -> Any:
        place, _, name = self.target.rpartition('.')
        owner = pkgutil.resolve_name(place)
        original, calls = getattr(owner, name), 0

        def replaced(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            result = original(*args, **kwargs) if calls < self.number or self.after else None
            if calls == self.number:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return mock.patch.object(owner, name, replaced)
