"""The types of records have the keys and types of the JSON schemas."""

import json
import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from compactdet.records import record_file
from compactdet.records.pretraining_types import PretrainingRecord
from compactdet.records.record_types import Metrics, Protocol, Record

JSON_TYPES = {str: 'string', int: 'integer', float: 'number', bool: 'boolean', type(None): 'null'}


def resolve(part: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a schema that a reference points to."""
    reference = part.get('$ref')
    return part if reference is None else schema['$defs'][reference.rpartition('/')[2]]


def check(hint: Any, part: dict[str, Any], schema: dict[str, Any], place: str) -> None:
    """Compare a type hint with the part of a schema at a place, and all places in it."""
    part = resolve(part, schema)
    if 'const' in part:
        assert hint is type(part['const']), place
        return
    hints = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    origins = [typing.get_origin(one) or (dict if typing.is_typeddict(one) else one) for one in hints]
    json_types = {dict: 'object', list: 'array', **JSON_TYPES}
    stated = part['type'] if isinstance(part['type'], list) else [part['type']]
    assert {json_types[origin] for origin in origins} == {*stated}, place
    for one in hints:
        if typing.is_typeddict(one):
            assert one.__required_keys__ == {*part['required']}, place
            assert {*typing.get_type_hints(one)} == {*part['properties']}, place
            for key, inner in typing.get_type_hints(one).items():
                check(inner, part['properties'][key], schema, f'{place}.{key}')
        elif typing.get_origin(one) is list:
            check(typing.get_args(one)[0], part['items'], schema, f'{place}[]')
        elif typing.get_origin(one) is dict and one != Protocol:
            # A dict with names as keys: in the schema, any names or a fixed set of them.
            _, inner = typing.get_args(one)
            for value in part.get('properties', {'*': part['additionalProperties']}).values():
                check(inner, value, schema, f'{place}.*')


@pytest.mark.parametrize(
    ('record_type', 'file'),
    [
        (Record, record_file.SCHEMA_FILE),
        (PretrainingRecord, record_file.PRETRAINING_SCHEMA_FILE),
    ],
)
def test_record_types_match_the_schema(record_type: type, file: Path) -> None:
    schema = json.loads(file.read_text())
    check(record_type, schema, schema, '$')


def test_the_check_finds_differences() -> None:
    schema = {'type': 'object', 'required': [], 'properties': {'a': {'type': 'string'}}}

    def check_keys(keys: dict[str, Any], *, total: bool) -> None:
        check(typing.TypedDict('Example', keys, total=total), schema, schema, '$')

    check_keys({'a': str}, total=False)
    for keys in ({'a': int}, {'a': str | None}, {'b': str}, {'a': str, 'b': str}):
        with pytest.raises(AssertionError):
            check_keys(keys, total=False)
    with pytest.raises(AssertionError):
        check_keys({'a': str}, total=True)
    check(Metrics, {'type': 'object', 'additionalProperties': {'type': ['number', 'null']}}, {}, '$')


def field_names(part: dict[str, Any]) -> set[str]:
    """Return the names of all fields in a part of a schema."""
    names = {*part.get('properties', ())}
    for inner in (*part.get('properties', {}).values(), *part.get('$defs', {}).values()):
        names |= field_names(inner)
    return names


@pytest.mark.parametrize('file', [record_file.SCHEMA_FILE, record_file.PRETRAINING_SCHEMA_FILE])
def test_the_readme_explains_every_field(file: Path) -> None:
    page = (record_file.SCHEMAS / 'README.md').read_text(encoding='utf-8')
    explained = {name for path in re.findall(r'`([\w.]+)`', page) for name in path.split('.')}
    assert field_names(json.loads(file.read_text())) - explained == set()
