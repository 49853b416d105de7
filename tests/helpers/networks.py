"""The networks as parameters of tests.

A library's network is recorded and compared with the library before its first use, which takes seconds. So
a few of them are tested always and all of them in the slow tests.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from backbones import list_archs
from backbones.libraries.aliases import ALIASES

GOLDEN: dict[str, dict[str, Any]] = {
    row['arch']: row
    for row in json.loads((Path(__file__).parents[1] / 'golden/complexity.json').read_text())
}
# Without batch normalization, with groups, with inverted residuals, with products of branches.
ALWAYS = {'alexnet', 'regnetx_200mf', 'mobilenetv4_conv_small', 'starnet_s1'}
assert set(ALIASES) >= ALWAYS


def is_slow(name: str) -> bool:
    """Whether a network is in the slow tests only."""
    return name in ALIASES and name not in ALWAYS


def archs(names: list[str] | None = None) -> list[Any]:
    """All networks, or some, as parameters of a test."""
    return [
        pytest.param(name, marks=pytest.mark.slow) if is_slow(name) else name
        for name in (list_archs() if names is None else names)
    ]


def cheapest_of_each_family() -> dict[str, str]:
    """The network with the smallest trunk of each family, of those with a map at stride 32."""
    rows = sorted(GOLDEN.values(), key=lambda row: -row['backbone_params'])
    return {
        row['family']: row['arch'] for row in rows if '32' in row['strides'] and not is_slow(row['arch'])
    }
