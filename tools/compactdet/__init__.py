"""The modules behind the commands in tools/, and their use from Python (``compactdet.api``).

A config names the modules that register classes (``custom_imports``), so nothing is imported here before
it is used.
"""

import importlib
from typing import Any

__version__ = '0.1.0'

# What `import compactdet` offers of compactdet.api.
API = ('Prediction', 'Run', 'evaluate', 'load_run', 'predict', 'train')


def __getattr__(name: str) -> Any:
    if name in API:
        return getattr(importlib.import_module('compactdet.api'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *API])
