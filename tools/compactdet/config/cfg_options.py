"""The command-line option ``--cfg-options KEY=VALUE ...``, with the syntax of MMEngine's DictAction."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


class CfgOptionsAction(argparse.Action):
    """An argparse action that collects ``KEY=VALUE`` arguments in a dict, like MMEngine's DictAction.

    MMEngine is imported only if the option is used, so that ``--help`` and bad usage are fast. An argument
    that cannot be parsed is bad usage.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        """Add the parsed arguments to the namespace."""
        options = dict(getattr(namespace, self.dest, None) or {})
        for argument in values or ():
            key, separator, text = argument.partition('=')
            if not separator:
                raise argparse.ArgumentError(self, f'{argument!r} is not KEY=VALUE')
            try:
                options[key] = parse_value(text)
            except AssertionError as error:  # unbalanced brackets
                raise argparse.ArgumentError(self, f'{argument!r}: {error}') from error
        setattr(namespace, self.dest, options)


def parse_value(text: str) -> Any:
    """Return the value that a text has in MMEngine's DictAction: a number, bool, None, text, list or tuple.

    Raises:
        AssertionError: The brackets are not balanced.
    """
    from mmengine.config import DictAction  # here: --help and bad usage start without loading MMEngine

    return DictAction._parse_iterable(text)
