"""Strict reading of YAML grid files: values are checked, and each error names its place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from compactdet.errors import UserError


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, which allows no key twice."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    made: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            raise yaml.YAMLError(f'line {key_node.start_mark.line + 1}: the key {key!r} is no text')
        if key in made:
            raise yaml.YAMLError(f'line {key_node.start_mark.line + 1}: the key {key!r} occurs twice')
        made[key] = loader.construct_object(value_node, deep=True)
    return made


# YAML 1.2's numbers with an exponent; PyYAML follows YAML 1.1, in which 1e-3 is a text.
_StrictLoader.add_implicit_resolver(
    'tag:yaml.org,2002:float',
    re.compile(r'[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$'),
    list('-+.0123456789'),
)
_StrictLoader.add_constructor('tag:yaml.org,2002:map', _mapping)


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        UserError: It cannot be read, or is not YAML. The message names the place.
    """
    try:
        return yaml.load(path.read_bytes(), _StrictLoader)
    except OSError as error:
        raise UserError(f'{path}: cannot read the grid file ({error.strerror})') from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UserError(f'{path}: not a YAML file: {error}') from error


def cfg_options(value: Any, where: str) -> tuple[str, ...]:
    """Return ``KEY=VALUE`` texts from a list of such texts or a mapping."""
    if isinstance(value, list) and all(isinstance(text, str) and '=' in text for text in value):
        return tuple(value)
    if value is not None and not isinstance(value, dict):
        raise UserError(f'{where}: {value!r} is neither a mapping nor a list of KEY=VALUE')
    return tuple(f'{key}={_text(leaf, f"{where}: {key}")}' for key, leaf in _leaves(value or {}))


def _leaves(value: Mapping[str, Any], prefix: str = '') -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _leaves(item, f'{prefix}{key}.')
        else:
            yield f'{prefix}{key}', item


def _text(value: Any, where: str) -> str:
    """Return a value as text for ``--cfg-options``, which has no quoting."""
    if isinstance(value, list):
        return f'[{",".join(_text(item, where) for item in value)}]'
    if isinstance(value, str) and (not value or re.search(r"""[\s,()\[\]'"]""", value)):
        raise UserError(
            f'{where}: the text {value!r} cannot be given on a command line; put it in a config'
        )
    return str(value)


def check_keys(given: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """Raise UserError for unknown keys, with similar keys.

    Raises:
        UserError: A value is not valid. The message names the place.
    """
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, list(known), n=2)
            hint = f'did you mean {" or ".join(near)}?' if near else f'known: {", ".join(known)}'
            raise UserError(f'{where}: unknown key {key!r}; {hint}')


def list_of(
    block: Mapping[str, Any], key: str, kind: Any, where: str, known: Collection[str] = ()
) -> list[Any]:
    """Return the list at a key: values of one kind, without duplicates.

    Raises:
        UserError: A value is not valid. The message names the place.
    """
    values = block[key]
    if not isinstance(values, list) or not values:
        raise UserError(f'{where}: {key}: {values!r} is no list; write [{values}]')
    for value in values:
        if not _is(value, kind):
            raise UserError(f'{where}: {key}: {value!r} is no {_kind_name(kind)}')
        if key == 'seeds' and not 0 <= value < 2**32:  # NumPy's range
            raise UserError(f'{where}: {key}: {value} is not from 0 to {2**32 - 1}')
        if known and value not in known:
            near = difflib.get_close_matches(value, list(known), n=2)
            hint = f'did you mean {" or ".join(near)}?' if near else f'known: {", ".join(known)}'
            raise UserError(f'{where}: {key}: no {value!r}; {hint}')
    if len(set(values)) < len(values):
        raise UserError(f'{where}: {key}: a value occurs twice in {values}')
    return values


def one(block: Mapping[str, Any], key: str, kind: Any, where: str) -> Any:
    """Return the value at a key; None if it is absent.

    Raises:
        UserError: A value is not valid. The message names the place.
    """
    value = block.get(key)
    if value is not None and not _is(value, kind):
        raise UserError(f'{where}: {key}: {value!r} is no {_kind_name(kind)}')
    return value


def _is(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and (not isinstance(value, bool) or kind is bool)


def _kind_name(kind: Any) -> str:
    names = {str: 'text', int: 'whole number', float: 'number', bool: 'true or false', dict: 'mapping'}
    kinds = kind if isinstance(kind, tuple) else (kind,)
    return names[kinds[-1] if float in kinds else kinds[0]]
