"""ESPNetV2 against pytorchcv's, and its units by hand."""

import pytest
import torch
from torch import Tensor, nn

from backbones import StageHead, build_backbone, build_classifier
from backbones.networks.espnetv2 import EESP, StridedEESPUnit, dilations
from compactdet.costs import arch_costs
from compactdet.layer_costs import count, num_params

from peers import copy_by_shape, randomize_bn

espnetv2 = pytest.importorskip('pytorchcv.models.espnetv2')

NAME = 'espnetv2_2x'

# What pytorchcv's network has beyond the authors' forward pass: the image's branch at stride 32, a 3x3
# convolution of 3 channels with BN and PReLU and a 1x1 one to 1024 with BN, on a 7x7 map.
BRANCH_PARAMS = 3 * 3 * 9 + 2 * 3 + 3 + 3 * 1024 + 2 * 1024
BRANCH_MACS = (3 * 3 * 9 + 3 * 1024) * 7 * 7
UNUSED_PRELUS = 96 + 128 + 256 + 512  # of the authors' code, one in each downsampling unit


class Nothing(nn.Module):
    """What the image's branch adds where there is none."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros((), dtype=x.dtype)


def test_costs_are_pytorchcvs_without_the_last_image_branch() -> None:
    peer, row = espnetv2.espnetv2_w2(), arch_costs(NAME)
    theirs = count(peer, torch.empty(1, 3, 224, 224, device='meta')).macs
    assert f'{theirs / 1e6:.2f}' == '286.24'
    assert row['macs'] == theirs - BRANCH_MACS
    assert row['params'] == num_params(peer.parameters()) - BRANCH_PARAMS


def test_params_are_the_authors_less_those_never_used() -> None:
    assert BRANCH_PARAMS + UNUSED_PRELUS == 6202
    assert arch_costs(NAME)['params'] + 6202 == 3_498_136


@torch.no_grad()
@pytest.mark.parametrize('size', [(96, 96), (75, 109)])
def test_outputs_are_pytorchcvs_without_the_last_image_branch(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    peer, network = espnetv2.espnetv2_w2().eval(), build_classifier(NAME).eval()
    peer.features.stage4.unit1.shortcut_block = Nothing()
    peer.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs is for 224 pixels only
    randomize_bn(peer)
    for layer in peer.modules():
        if isinstance(layer, nn.PReLU):
            nn.init.uniform_(layer.weight, 0, 0.5)
        if isinstance(layer, espnetv2.ESPBlock):  # theirs registers the last two first
            for name in ('merge_conv', 'activ'):
                if name in layer._modules:
                    layer._modules[name] = layer._modules.pop(name)
    copy_by_shape(peer, network)
    x = torch.randn(2, 3, *size)
    expected = peer(x)
    torch.testing.assert_close(network(x), expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_dilations_by_hand() -> None:
    """Receptive fields 3, 5, 7, 9 are dilations 1 to 4; beyond the limit it is 3 again."""
    assert [dilations(limit) for limit in (2, 3, 4)] == [[1, 1, 1, 2], [1, 1, 2, 3], [1, 2, 3, 4]]
    network = build_classifier(NAME)
    rates = {
        stage: [
            [branch.dilation[0] for branch in unit.branches]
            for unit in getattr(network, stage).modules()
            if isinstance(unit, EESP)
        ]
        for stage in ('stage4', 'stage8', 'stage16', 'stage32')
    }
    assert rates == {
        'stage4': [[1, 2, 3, 4]],
        'stage8': [[1, 2, 3, 4]] * 4,
        'stage16': [[1, 2, 3, 4]] + [[1, 1, 2, 3]] * 7,
        'stage32': [[1, 1, 2, 3]] + [[1, 1, 1, 2]] * 3,
    }


@torch.no_grad()
def test_fusion_adds_each_branch_to_the_next() -> None:
    block = EESP(4, 16, stride=1, max_dilation=4).eval()
    block.reduce, block.bn, block.act, block.merge = (nn.Identity() for _ in range(4))
    for i, branch in enumerate(block.branches):
        branch.weight.zero_()
        branch.weight[:, :, 1, 1] = 10**i
    expected = torch.tensor([1.0, 11, 111, 1111]).repeat_interleave(4)
    assert torch.equal(block(torch.ones(1, 4, 3, 3))[0, :, 1, 1], expected)


@torch.no_grad()
def test_image_reaches_strides_4_to_16_and_not_32() -> None:
    """The image's branch alone: with the map itself silenced, only it tells two images apart."""
    torch.manual_seed(0)
    network = build_backbone(NAME).eval()
    image, other = torch.randn(2, 1, 3, 64, 64)
    for name, reached in (('stage4', True), ('stage8', True), ('stage16', True), ('stage32', False)):
        stage, unit = getattr(network, name), getattr(network, name)[0]
        assert isinstance(unit, StridedEESPUnit)
        assert (unit.reinforce is not None) is reached
        x = torch.zeros(1, unit.eesp.reduce.conv.in_channels, 16, 16)
        pooled = [nn.functional.interpolate(i, size=(16, 16)) for i in (image, other)]
        first, second = (stage((x, i)) for i in pooled)
        if reached:
            assert first[1].shape == (1, 3, 8, 8)
            assert torch.equal(first[1], nn.functional.avg_pool2d(pooled[0], 3, stride=2, padding=1))
            assert not torch.equal(first[0], second[0])
        else:
            assert torch.equal(first, second)


def test_a_stage_that_reads_the_image_cannot_follow_a_bare_map() -> None:
    with pytest.raises(ValueError, match='only the one after stride 16 can follow a bare map'):
        StageHead(NAME, in_stride=8)
