"""Networks with parallel branches: merged, they compute the same with fewer layers."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

from backbones import StageHead, build_backbone, build_classifier
from backbones.libraries.reparameterize import reparameterize
from compactdet.costs import arch_costs, has_two_forms
from compactdet.layer_costs import num_params

from peers import randomize_bn

MERGED = ('mobileone_s0', 'mobileone_s1', 'repvit_m0.9')


@pytest.mark.parametrize('name', [*MERGED, 'timm:repvgg_a0', 'timm:repghostnet_050', 'timm:fastvit_t8'])
@torch.no_grad()
def test_it_computes_the_same(name: str) -> None:
    pytest.importorskip('timm')
    torch.manual_seed(0)
    network = build_classifier(name).eval()
    randomize_bn(network)
    merged = copy.deepcopy(network)
    assert reparameterize(merged)
    assert num_params(merged.parameters()) < num_params(network.parameters())
    image = torch.randn(1, 3, 64, 64)
    expected = network(image)
    torch.testing.assert_close(merged(image), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
    assert not reparameterize(merged)


@pytest.mark.parametrize('name', ['timm:resnet10t', 'timm:mobilenetv4_conv_small', 'googlenet'])
@torch.no_grad()
def test_other_networks_stay(name: str) -> None:
    """A residual block is no pair of branches to merge."""
    pytest.importorskip('timm')
    network = build_classifier(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    assert not reparameterize(network)
    assert network.training
    assert all(torch.equal(before.pop(key), value) for key, value in network.state_dict().items())
    assert not before


@torch.no_grad()
def test_both_halves_of_a_c4_detector() -> None:
    pytest.importorskip('timm')
    trunk, head = build_backbone('mobileone_s0', (16,)), StageHead('mobileone_s0')
    for half in (trunk, head):
        randomize_bn(half.eval())
    maps = trunk(torch.randn(1, 3, 64, 64))[0]
    expected = head(maps)
    assert reparameterize(head)
    torch.testing.assert_close(head(maps), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


class Branches(nn.Module):
    """Every kind of branch, in two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.one = nn.Conv2d(4, 4, 1, groups=2, bias=False)
        self.norm, self.alone = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.last = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(0 + self.wide(x) + self.norm(self.one(x)) + self.alone(x) + x)


@torch.no_grad()
def test_every_kind_of_branch_becomes_one_convolution() -> None:
    torch.manual_seed(0)
    part = fx.symbolic_trace(Branches()).eval()
    randomize_bn(part)
    x = torch.randn(2, 4, 5, 6)
    expected = part(x)
    assert reparameterize(part)
    torch.testing.assert_close(part(x), expected, rtol=1e-5, atol=1e-5)
    assert [type(module) for module in part.children() if num_params(module.parameters())] == [nn.Conv2d]


class Strided(nn.Module):
    """Branches that are not functions of one map, or of different strides."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) + self.b(x.relu())


def test_branches_of_different_maps_stay() -> None:
    assert not reparameterize(fx.symbolic_trace(Strided(1)))


@pytest.mark.parametrize('name', MERGED)
def test_costs_are_those_of_the_merged_form(name: str) -> None:
    pytest.importorskip('timm')
    row = arch_costs(name)
    assert has_two_forms(name)
    assert row['params'] < row['training_params']
    assert row['macs'] < row['training_macs']


def test_only_these_rows_of_the_zoo_are_merged() -> None:
    rows = json.loads((Path(__file__).parents[1] / 'golden/complexity.json').read_text())
    adapted = [row for row in rows if row['family'] == 'AdaptedNetwork']
    assert {row['arch'] for row in adapted if row['params'] != row['training_params']} == {*MERGED}
