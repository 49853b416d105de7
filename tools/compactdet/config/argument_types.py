"""Types and actions of command-line options, for argparse.

MMEngine is imported only if ``--cfg-options`` is used, so that ``--help`` and bad usage are fast.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from typing import Any, TypedDict


class CfgOptionsAction(argparse.Action):
    """Collect the arguments of ``--cfg-options KEY=VALUE ...`` in a dict, like MMEngine's DictAction.

    An argument that cannot be parsed is bad usage.
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
                options[key] = parse_cfg_value(text)
            except AssertionError as error:  # unbalanced brackets
                raise argparse.ArgumentError(self, f'{argument!r}: {error}') from error
        setattr(namespace, self.dest, options)


def parse_cfg_value(text: str) -> Any:
    """Return the value of a text as MMEngine's DictAction parses it: a number, bool, None, text, list or
    tuple.

    Raises:
        AssertionError: The brackets are not balanced.
    """
    from mmengine.config import DictAction  # here: --help starts without loading MMEngine

    return DictAction._parse_iterable(text)


def learning_rate(text: str) -> float:
    """Parse a learning rate: a finite number above 0."""
    value = float(text)
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f'{text} is not positive')
    return value


def positive_int(text: str) -> int:
    """Parse an integer above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text} is not a positive integer')
    return int(text)


class LrChoice(TypedDict):
    """Choice of the learning rate by a metric, as config and protocol contain it.

    Attributes:
        split: Split on which the rates were compared: 'train', 'val' or 'test'.
        among: All rates that were tried, ascending.
    """

    split: str
    among: list[float]


def parse_lr_choice(text: str, lr: float | None) -> LrChoice:
    """Parse the value of ``--lr-choice``, such as ``val:0.001,0.002,0.004``.

    Args:
        text: The split on which the rate was chosen, and all rates that were tried.
        lr: The chosen rate.

    Raises:
        ValueError: The text is not of that form, or ``lr`` is not among the rates.
    """
    split, _, rates = text.partition(':')
    try:
        among = sorted({float(rate) for rate in rates.split(',')})
    except ValueError:
        among = []
    if split not in ('train', 'val', 'test') or len(among) < 2:
        raise ValueError(
            f'{text!r} is not SPLIT:LR,LR,... with at least two rates, such as val:0.001,0.002'
        )
    if lr not in among:
        raise ValueError(f'{text!r}: --lr {lr} is not one of these rates; give the chosen one')
    return {'split': split, 'among': among}
