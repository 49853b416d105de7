"""The parameters of a class or a function, which are the allowed keys of its config."""

from typing import Any

import pytest
from mmengine.config import Config

from compactdet.config import strict
from compactdet.errors import UserError


class Base:
    def __init__(self, scale: int = 1) -> None: ...


class Passes(Base):
    def __init__(self, *args: Any, size: int = 2, **kwargs: Any) -> None: ...


class TakesAny:
    def __init__(self, size: int = 2, **kwargs: Any) -> None: ...


class Inherits(Passes): ...


class TakesOther:
    def __init__(self, size: int = 2, other: int = 3) -> None: ...


class PassesToEither(Passes, TakesOther):
    def __init__(self, own: int = 0, **kwargs: Any) -> None: ...


def function(boxes: Any, *, threshold: float) -> None: ...


@pytest.mark.parametrize(
    ('owner', 'names', 'open_ended'),
    [
        (Base, {'scale'}, False),
        (Passes, {'scale', 'size'}, False),
        (Inherits, {'scale', 'size'}, False),
        (TakesAny, {'size'}, True),
        (PassesToEither, {'own', 'scale', 'size', 'other'}, False),
        (function, {'boxes', 'threshold'}, False),
        (object, set(), False),
    ],
)
def test_parameters(owner: Any, names: set[str], open_ended: bool) -> None:
    assert strict.parameters(owner) == (names, open_ended)


def test_a_class_with_open_ended_keywords() -> None:
    strict.check_keys(Config(dict(model=dict(type=TakesAny, anything=1))))
    with pytest.raises(UserError, match=r"model \(TakesAny\) has no key 'sizes'; did you mean size\?"):
        strict.check_keys(Config(dict(model=dict(type=TakesAny, sizes=1))))
