"""Every network in every detector that its row says it can be the backbone of: it builds, learns, predicts.

Through the real wiring and pieces, those of the embedded shapes: heads of 64 channels, few RoIs. One
network a family is tried always, the whole zoo where ``-m slow`` asks for it. New families join by
themselves.
"""

from collections.abc import Iterator

import pytest
from mmengine.registry import DefaultScope
from networks import GOLDEN

from backbones.wiring import detectors

from matrix import CHEAPEST, PAIRS, check_pair


@pytest.fixture(autouse=True)
def mmdet_scope() -> Iterator[None]:
    """Where a runner looks classes up."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def marks(arch: str) -> list[pytest.MarkDecorator]:
    return [] if arch in CHEAPEST else [pytest.mark.slow]


@pytest.mark.parametrize(
    ('arch', 'detector'),
    [pytest.param(*pair, id='-'.join(pair), marks=marks(pair[0])) for pair in PAIRS],
)
def test_it_builds_learns_and_predicts(arch: str, detector: str) -> None:
    if detector not in detectors(arch):
        pytest.skip(f'{arch} cannot be the backbone of {detector}')
    check_pair(arch, detector)


def test_every_family_is_tried() -> None:
    assert {row['family'] for row in GOLDEN.values()} == {GOLDEN[arch]['family'] for arch in CHEAPEST}
    assert all(detectors(arch) for arch in CHEAPEST)
