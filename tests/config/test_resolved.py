"""Configs in records are read without executing their text, and by the current names of modules."""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compactdet.config import strict
from compactdet.config.resolved import (
    RENAMED_MODULES,
    comparable,
    current_module_names,
    read_comparable_config,
    read_resolved_config,
)
from compactdet.errors import UserError
from compactdet.records import record_file

REPO = Path(__file__).parents[2]
RECORDS = sorted((REPO / 'work_dirs_template').rglob('record.json'))


# Configs


@pytest.mark.parametrize('name', ['menet_frcnn_voc', 'menet_frcnn_bccd'])
def test_a_resolved_config_is_read_as_it_was_written(name: str) -> None:
    cfg = strict.load(REPO / 'det_configs' / f'{name}.py')
    assert read_resolved_config(cfg.pretty_text).to_dict() == cfg.to_dict()


KEYS_THAT_ARE_NO_NAMES = "a = dict({'x.y': dict(b=-1.5), 'z': {}})\nb = [(1, None), dict(c=True)]"


def test_keys_that_are_not_names() -> None:
    a = {'x.y': {'b': -1.5}, 'z': {}}
    assert read_resolved_config(KEYS_THAT_ARE_NO_NAMES).to_dict() == {'a': a, 'b': [(1, None), {'c': True}]}
    assert read_comparable_config(KEYS_THAT_ARE_NO_NAMES) == {'a': a, 'b': [[1, None], {'c': True}]}


EXPRESSIONS = [
    "__import__('os')",
    "'x'.upper()",
    '[i for i in (1, 2)]',
    'dict(b=lambda: 1)',
    'dict(**{})',
    '{**{}}',
    'dict([(1, 2)])',
    'list((1, 2))',
    '9 ** 9',
    'print',
    "f'{1}'",
]
STATEMENTS = [
    "__import__('os').system('true')",
    'a = b = 1',
    'a, b = 1, 2',
    'a.b = 1',
    'a: int = 1',
    'import os',
    'def f(): pass',
]


@pytest.mark.parametrize('text', [*(f'a = {text}' for text in EXPRESSIONS), *STATEMENTS])
def test_code_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r'record, line 2: .* is not a plain value'):
        read_resolved_config(f'ok = 1\n{text}', 'record')


@pytest.mark.parametrize('text', STATEMENTS)
def test_only_assignments_can_be_compared(text: str) -> None:
    with pytest.raises(UserError, match=r'record, line 1: .* is not a plain value'):
        read_comparable_config(text, 'record')


def test_an_expression_is_compared_as_text() -> None:
    text = 'a = nan\nb = [print, 9 ** 9]\nc = {1}'
    assert read_comparable_config(text) == {'a': 'nan', 'b': ['print', '9 ** 9'], 'c': '{1}'}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('a = (1\nb = 2', 'record, line 1: syntax error'),
        ("filename = 'x'", 'record: not a config: .*filename is reserved'),
        ('a = {[]: 1}', 'record: not a config: .*unhashable'),
        ('a = ' + 5000 * '[' + 5000 * ']', 'record'),
        ('a = ' + 150 * 'f(' + 150 * ')', 'record, line 1: .* is not a plain value'),
        ('a = "\0"', 'record'),
    ],
)
def test_texts_that_are_not_a_config(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_resolved_config(text, 'record')


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text('a\'"\\\né', max_size=4),
    lambda inner: (
        st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text('ab_', min_size=1), inner)
    ),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine
@given(st.dictionaries(st.sampled_from(['model', 'lr', 'x_1']), values))
def test_a_value_and_its_text_are_comparable(content: dict[str, Any]) -> None:
    text = ''.join(f'{key} = {value!r}\n' for key, value in content.items())
    assert json.dumps(read_comparable_config(text)) == json.dumps(comparable(content), allow_nan=False)


def test_comparable_values_by_hand() -> None:
    values = {1: (1, 2.5), 'b': [math.inf, None, True], 'c': {2}, 'd': Path('x')}
    shown = {'1': [1, 2.5], 'b': ['inf', None, True], 'c': '{2}', 'd': repr(Path('x'))}
    assert comparable(values) == shown


# Modules that were renamed


@pytest.mark.parametrize('module', RENAMED_MODULES.values())
def test_renamed_modules_exist(module: str) -> None:
    if module.startswith('compactdet.pretraining'):
        pytest.importorskip('mmpretrain')
    importlib.import_module(module)


def test_module_names() -> None:
    assert current_module_names(['backbones', 'bench.voc', 'mine']) == [
        'backbones',
        'compactdet.data.voc',
        'mine',
    ]
    assert current_module_names('bench.runner') == 'compactdet.training.runner'
    assert current_module_names(None) is None
    assert current_module_names(['bench.unknown', 1]) == ['bench.unknown', 1]


@pytest.mark.parametrize('file', RECORDS, ids=lambda file: file.parent.name)
def test_every_module_of_a_published_record_exists(file: Path) -> None:
    cfg = read_resolved_config(record_file.read_any(file)['config']['text'], str(file))
    for name in current_module_names(cfg.custom_imports.imports):
        assert importlib.util.find_spec(name) is not None


IMPORTS = "custom_imports = dict(imports=['bench.voc', 'bench.metric'])"
NEW_NAMES = 'compactdet.data.voc for bench.voc, compactdet.evaluation.metric for bench.metric'


@pytest.mark.parametrize(
    ('place', 'line', 'names'),
    [
        (
            'leaf',
            IMPORTS,
            'compactdet.data.voc for bench.voc, compactdet.evaluation.metric for bench.metric',
        ),
        (
            'base',
            IMPORTS,
            'compactdet.data.voc for bench.voc, compactdet.evaluation.metric for bench.metric',
        ),
        (
            'leaf',
            'from bench.pretraining_config import pretraining',
            'compactdet.pretraining.config for bench.pretraining_config',
        ),
    ],
)
def test_a_config_of_the_old_package_gets_the_new_names(
    tmp_path: Path, place: str, line: str, names: str
) -> None:
    (tmp_path / 'base.py').write_text('x_1 = 1\n')
    (tmp_path / 'leaf.py').write_text("_base_ = ['base.py']\n")
    file = tmp_path / f'{place}.py'
    file.write_text(f'{file.read_text()}{line}\n')
    with pytest.raises(UserError) as caught:
        strict.load(tmp_path / 'leaf.py')
    assert str(caught.value) == (
        f'{file}, line 2: the package bench was renamed to compactdet; write {names}'
    )


def test_a_module_that_was_not_renamed_is_an_ordinary_error(tmp_path: Path) -> None:
    (tmp_path / 'leaf.py').write_text("custom_imports = dict(imports=['bench.unknown'])\n")
    with pytest.raises(UserError, match=r"No module named 'bench'; install what is missing"):
        strict.load(tmp_path / 'leaf.py')
