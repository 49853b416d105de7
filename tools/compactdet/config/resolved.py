"""Configs in records, read without executing their text.

A record contains its config as ``Config.pretty_text`` writes it: assignments of plain values, lists,
tuples, dicts and ``dict(...)``. MMEngine is imported only where a ``Config`` is made, so that tools which
only compare configs start fast.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from compactdet.errors import UserError

if TYPE_CHECKING:
    from mmengine.config import Config

# Modules that configs name, before and after the package was renamed from ``bench`` to ``compactdet``.
RENAMED_MODULES = {
    'bench.classification': 'compactdet.classification.dataset',
    'bench.coco': 'compactdet.data.coco',
    'bench.metric': 'compactdet.evaluation.metric',
    'bench.pretraining_config': 'compactdet.pretraining.config',
    'bench.pretraining_network': 'compactdet.pretraining.network',
    'bench.runner': 'compactdet.training.runner',
    'bench.shapes': 'compactdet.data.shapes',
    'bench.voc': 'compactdet.data.voc',
}

# Value of an expression that is not a plain value.
ReadOther = Callable[[ast.expr], Any]


def read_resolved_config(text: str, source: str = 'config') -> Config:
    """Return the config of a resolved config's text.

    Args:
        text: Python text.
        source: Name of the text in messages.

    Raises:
        UserError: The text contains anything but plain values. The message names the line.
    """
    from mmengine.config import Config  # here: sweeps start without loading MMEngine

    content = _read_assignments(text, source, _refuse)
    try:
        return Config(content, cfg_text=text)
    except (KeyError, TypeError, ValueError, RecursionError) as error:  # such as a reserved name
        raise UserError(f'{source}: not a config: {error}') from error


def read_comparable_config(text: str, source: str = 'config') -> dict[str, Any]:
    """Return the values of a resolved config's text in the form of ``comparable``.

    An expression that is not a plain value, such as ``nan`` or the name of a class, stands for itself as
    text.

    Raises:
        UserError: The text is not a list of assignments.
    """
    return comparable(_read_assignments(text, source, _as_text))


def comparable(value: Any) -> Any:
    """Return a config value in the types of JSON: tuples become lists, and all other values texts."""
    if isinstance(value, dict):
        return {str(key): comparable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [comparable(item) for item in value]
    finite = not isinstance(value, float) or math.isfinite(value)
    return value if isinstance(value, str | int | float | bool | None) and finite else repr(value)


class _NotPlainError(Exception):
    """Contains the syntax node that is not a plain value."""


def _read_assignments(text: str, source: str, read_other: ReadOther) -> dict[str, Any]:
    """Return the values of ``name = value`` statements by name.

    Args:
        text: Python text.
        source: Name of the text in messages.
        read_other: Returns the value of an expression that is not a plain value, or raises _NotPlainError.

    Raises:
        UserError: The text contains other statements, or an expression that ``read_other`` refuses.
    """
    try:
        return dict(_read_assignment(node, read_other) for node in ast.parse(text).body)
    except SyntaxError as error:
        raise UserError(f'{source}, line {error.lineno}: syntax error: {error.msg}') from error
    except _NotPlainError as error:
        node = error.args[0]
        raise UserError(
            f'{source}, line {node.lineno}: {(ast.get_source_segment(text, node) or "")[:60]!r} is not a '
            'plain value; a record contains resolved values only, and nothing in it is executed'
        ) from error
    except (TypeError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(f'{source}: not a config: {error}') from error


def _read_assignment(node: ast.stmt, read_other: ReadOther) -> tuple[str, Any]:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            return name, _read_value(value, read_other)
    raise _NotPlainError(node)


def _read_value(node: ast.expr, read_other: ReadOther) -> Any:
    match node:
        case ast.List(elts=items):
            return [_read_value(item, read_other) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_read_value(item, read_other) for item in items)
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {
                _read_value(key, read_other): _read_value(value, read_other)
                for key, value in zip(keys, values, strict=True)
                if key is not None
            }
        case ast.Call(func=ast.Name(id='dict'), args=[], keywords=items) if all(i.arg for i in items):
            return {item.arg: _read_value(item.value, read_other) for item in items}
        case ast.Call(func=ast.Name(id='dict'), args=[ast.Dict() as display], keywords=[]):
            return _read_value(display, read_other)
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
    return read_other(node)


def _refuse(node: ast.expr) -> Any:
    raise _NotPlainError(node)


def _as_text(node: ast.expr) -> str:
    """Return the text of an expression; of a literal, such as a set, the text of its value."""
    try:
        return repr(ast.literal_eval(node))
    except ValueError:
        return ast.unparse(node)


def current_module_names(imports: Any) -> Any:
    """Return the value ``imports`` of ``custom_imports``, with renamed modules by their current names."""
    if isinstance(imports, list):
        return [current_module_names(name) for name in imports]
    return RENAMED_MODULES.get(imports, imports) if isinstance(imports, str) else imports
