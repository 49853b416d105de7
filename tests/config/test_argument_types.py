"""Types of command-line options: the syntax of --cfg-options is that of MMEngine's DictAction."""

import argparse
from typing import Any

import pytest
from mmengine.config import DictAction

from compactdet.config.argument_types import CfgOptionsAction, parse_lr_choice


def parse(action: type[argparse.Action], arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=action, default={})
    return parser.parse_args(arguments).cfg_options


@pytest.mark.parametrize(
    'arguments',
    [
        [],
        ['--cfg-options', 'a=1', 'b.c=2.5', 'd=1e-3', 'e=text', 'f='],
        ['--cfg-options', 'a=True', 'b=false', 'c=None', 'd=a=b'],
        ['--cfg-options', 'a=1,2,3', 'b=[1,(2,x),[]]', 'c=(1, 2)', 'd="quoted"'],
        ['--cfg-options', 'a=1', 'b=2', '--cfg-options', 'a=3'],
    ],
)
def test_values_are_those_of_mmengine(arguments: list[str]) -> None:
    expected = parse(DictAction, arguments)
    values = parse(CfgOptionsAction, arguments)
    assert values == expected
    assert list(map(type, values.values())) == list(map(type, expected.values()))


@pytest.mark.parametrize(('argument', 'message'), [('a', "'a' is not KEY=VALUE"), ('a=[1,(2]', 'brackets')])
def test_an_invalid_argument_is_bad_usage(
    capsys: pytest.CaptureFixture, argument: str, message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(CfgOptionsAction, ['--cfg-options', argument])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_lr_choice() -> None:
    assert parse_lr_choice('val:0.02,0.01,0.02', 0.01) == {'split': 'val', 'among': [0.01, 0.02]}


@pytest.mark.parametrize(
    ('text', 'lr', 'message'),
    [
        ('dev:0.01,0.02', 0.01, 'is not SPLIT:LR'),
        ('val:0.01', 0.01, 'with at least two rates'),
        ('val:0.01,x', 0.01, 'is not SPLIT:LR'),
        ('val', 0.01, 'is not SPLIT:LR'),
        ('val:0.01,0.02', None, '--lr None is not one of these rates'),
        ('val:0.01,0.02', 0.03, '--lr 0.03 is not one of these rates'),
    ],
)
def test_an_invalid_lr_choice(text: str, lr: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_lr_choice(text, lr)
