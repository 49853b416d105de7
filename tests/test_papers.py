"""The statements of the papers name code and tests that exist; formulas of the overview."""

import ast
import functools
from pathlib import Path

import pytest
import torch
from torch import nn

from backbones import get_arch, list_archs
from backbones.layers import ACTIVATIONS, GroupedConv1x1
from backbones.networks.ghostnet import GhostModule
from backbones.networks.mobilenet import SeparableConv
from backbones.spec import Conventions
from compactdet.layer_costs import count

ROOT = Path(__file__).parents[1]
PAGES = sorted(set((ROOT / 'tests/papers').glob('*.md')) - {ROOT / 'tests/papers/README.md'})


@functools.cache
def names_in(file: Path) -> set[str]:
    """Top-level functions, classes and variables of a module, and the methods of its classes."""
    names = set()
    for node in ast.parse(file.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f'{node.name}.{part.name}' for part in node.body if isinstance(part, ast.FunctionDef)}
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def rows_of(page: Path) -> list[list[str]]:
    lines = page.read_text(encoding='utf-8').splitlines()
    return [[cell.strip() for cell in line.strip('|').split(' | ')] for line in lines if '::' in line]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_code_and_tests_of_every_statement_exist(page: Path) -> None:
    rows = rows_of(page)
    assert len(rows) > 10
    for row in rows:
        place, statement, code, test = row
        assert place
        assert statement
        file, _, name = code.strip('`').partition('::')
        if name in list_archs():
            assert get_arch(name).family in names_in(ROOT / file), code
        else:
            assert name in names_in(ROOT / file), code
        file, _, name = test.strip('`').partition('::')
        assert name.startswith('test_'), test
        assert name in names_in(ROOT / file), test


def test_every_paper_has_a_page() -> None:
    index = (ROOT / 'tests/papers/README.md').read_text(encoding='utf-8')
    assert [page.stem for page in PAGES] == ['condensenetv2', 'gmnet', 'menet', 'overview', 'shufflenet']
    assert all(f'({page.name})' in index for page in PAGES)


def macs(module: nn.Module, channels: int) -> int:
    return count(module.eval().to('meta'), torch.empty(1, channels, 8, 8, device='meta')).macs


def test_ratios_of_the_overview() -> None:
    """Costs relative to a standard convolution of 64 to 96 channels."""
    standard = macs(nn.Conv2d(64, 96, 3, padding=1), 64)
    separable = macs(SeparableConv(64, 96, stride=1, conventions=Conventions()), 64)
    assert separable / standard == pytest.approx(1 / 96 + 1 / 9)
    assert macs(GroupedConv1x1(64, 96, 1, groups=4), 64) * 4 == macs(nn.Conv2d(64, 96, 1), 64)
    # s = 2: half of the outputs by a 1x1 convolution, the others by a 3x3 depthwise one
    ghost = macs(GhostModule(64, 96, act=True), 64)
    assert ghost == 64 * (64 * 48 + 9 * 48)
    assert ghost / macs(nn.Conv2d(64, 96, 1), 64) == pytest.approx(1 / 2 + 9 / (2 * 64))


def test_hard_swish_of_the_overview() -> None:
    x = torch.linspace(-5, 5, 101)
    torch.testing.assert_close(ACTIVATIONS['hswish']()(x), x * nn.functional.relu6(x + 3) / 6)
