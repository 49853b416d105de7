"""Command-line options of every tool."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from compactdet import __version__


def make_parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with ``--version``; its description is a tool's docstring, printed unchanged."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--version',
        action='version',
        version=f'compactdet {__version__}',
        help='print the version, then exit',
    )
    return parser


def add_format(parser: Any, others: Sequence[str] = (), what: str = 'the output') -> None:
    """Add ``--format``, with 'table' (default), 'json' and other formats, and ``--json`` for 'json'.

    Args:
        parser: A parser or a group of its arguments.
        others: Further formats.
        what: What is printed in the format, for the help.
    """
    parser.add_argument(
        '--format',
        choices=('table', 'json', *others),
        default='table',
        help=f'format of {what}; default: table',
    )
    parser.add_argument(
        '--json', action='store_const', const='json', dest='format', help='same as --format json'
    )
