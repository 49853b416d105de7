"""Costs equal published values, other counters, and counts by hand.

The values that are entered here come from an independent count of the authors' published code.
"""

import csv
import functools
import io
import json
import sys

import pytest
import torch
from mmengine.analysis import FlopAnalyzer
from networks import archs
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from backbones import StageHead, build_backbone, build_classifier
from backbones.wiring import halves
from compactdet.config.choice import DetectorChoice
from compactdet.config.compose import compose_config
from compactdet.costs import arch_costs
from compactdet.detector_costs import detector_costs
from compactdet.errors import UserError
from compactdet.layer_costs import LayerCosts, count, num_params

import complexity

# Faster R-CNN C4: parameters of backbone and stage head; millions of multiply-adds of the stage head for a
# 7x7 RoI feature map.
C4 = {
    'mobilenet_0.5x': (414_880, 403_712, '19.61'),
    'mobilenet_1x': (1_613_120, 1_593_856, '77.75'),
    'shufflenet_1x_g3': (347_928, 556_800, '26.77'),
    'shufflenet_2x_g3': (1_340_976, 2_188_800, '106.22'),
    'menet_352_12x1_g8': (360_064, 503_808, '23.78'),
    'menet_456_24x1_g3': (1_390_248, 2_089_536, '101.21'),
}


@functools.cache
def macs(name: str) -> int:
    return arch_costs(name)['macs']


def millions(number: int, like: str) -> str:
    """Return a number in millions with as many decimals as ``like``."""
    return f'{number / 1e6:.{len(like.partition(".")[2])}f}'


@pytest.mark.parametrize('name', C4)
def test_backbone_and_stage_head_of_c4(name: str) -> None:
    backbone_params, head_params, mflops = C4[name]
    with torch.device('meta'):
        head = StageHead(name)
        roi = torch.empty(1, head.arch.channels(16), 7, 7)
        assert num_params(build_backbone(name, out_strides=(16,)).parameters()) == backbone_params
    assert num_params(head.parameters()) == head_params
    assert millions(count(head, roi).macs, mflops) == mflops


@torch.no_grad()
@pytest.mark.parametrize('name', archs())
def test_pytorchs_counter_gives_twice_the_value(name: str) -> None:
    """Compare with PyTorch's counter, which counts 2 a multiply-add, and the products of attention."""
    row = arch_costs(name)
    model = build_classifier(name).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, row['size'], row['size']))
    counts = counter.get_flop_counts()['Global']
    attention = sum(
        counts.get(op, 0)
        for op in (torch.ops.aten.bmm, torch.ops.aten._scaled_dot_product_flash_attention_for_cpu)
    )
    assert counter.get_total_flops() - attention == 2 * row['training_macs']


@torch.no_grad()
@pytest.mark.parametrize('name', ['condensenet_a', 'condensenetv2_a', 'sfr_shufflenetv2_0.5x'])
def test_costs_are_those_of_the_test_time_form(name: str) -> None:
    model = build_classifier(name, conventions={'sparsity': 'converted'}).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 224, 224))
    row = arch_costs(name)
    assert counter.get_total_flops() == 2 * row['macs'] < 2 * row['training_macs']
    assert num_params(model.parameters()) == row['params'] < row['training_params']


@pytest.mark.parametrize(
    'name',
    [
        'menet_228_12x1_g3',
        'menet_256_12x1_g4_add',
        'shufflenet_1x_g8',
        'shufflenet_2x_g3_se',
        'mobilenet_1x',
    ],
)
def test_mmengines_counter_gives_the_same_value(name: str) -> None:
    """Compare with MMEngine's counter, which also counts BN and pooling, on tensors with data."""
    flops = FlopAnalyzer(build_classifier(name).eval(), torch.zeros(1, 3, 224, 224))
    by_operator = flops.unsupported_ops_warnings(False).by_operator()
    assert by_operator['batch_norm'] > 0
    assert by_operator['conv'] + by_operator['linear'] == macs(name)


def test_count_by_hand() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.grouped = nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2)
            self.bn = nn.BatchNorm2d(6)
            self.up = nn.ConvTranspose2d(6, 2, 2, stride=2, bias=False)
            self.fc = nn.Linear(2, 5, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.up(self.bn(self.grouped(x)))
            return nn.functional.linear(self.fc(x.mean((2, 3))), torch.ones(7, 5, device=x.device))

    net = Net().train()
    assert count(net, torch.empty(1, 4, 8, 8, device='meta')).costs == {
        'grouped': LayerCosts(6 * 4 * 4 * 2 * 9, 4 * 64, 6 * 16, 6 * 2 * 9),
        'up': LayerCosts(6 * 4 * 4 * 2 * 4, 6 * 16, 2 * 64, 6 * 2 * 4),
        'fc': LayerCosts(2 * 5, 2, 5, 10),
        '': LayerCosts(5 * 7, 5, 7, 35),  # not in any child
    }
    assert net.training
    assert net.fc.weight.device.type == 'cpu'
    assert not net.fc._forward_hooks


def test_memory_traffic_by_the_formula_of_the_shufflenet_v2_paper() -> None:
    """Compare with h w (c1 + c2) + c1 c2 / g."""
    layer = nn.Sequential(nn.Conv2d(12, 24, 1, groups=4))
    costs = count(layer, torch.empty(1, 12, 5, 7, device='meta')).costs['0']
    traffic = costs.activations_read + costs.activations_written + costs.weights_read
    assert traffic == 5 * 7 * (12 + 24) + 12 * 24 // 4


def test_parts_add_up_to_the_total() -> None:
    row = arch_costs('mobilenet_0.25x', size=96)
    assert sum(row['stage_macs'].values()) == row['macs']
    assert row['macs'] - row['backbone_macs'] == 256 * 1000
    assert row['params'] - row['backbone_params'] == 257 * 1000
    assert row['strides'] == {'2': 16, '4': 32, '8': 64, '16': 128, '32': 256}
    assert row['stage_macs']['stem'] == 48 * 48 * 8 * 27
    assert row['paper_size_macs'] == macs('mobilenet_0.25x')  # does not depend on `size`


def test_an_image_below_the_last_stride_is_an_error() -> None:
    with pytest.raises(UserError, match='size 31 is smaller than the last stride of mobilenet_1x, 32'):
        arch_costs('mobilenet_1x', size=31)


ANCHORS = dict(type='AnchorGenerator', scales=[8, 16, 32], ratios=[0.5, 1.0, 2.0], strides=[16])
CODER = dict(type='DeltaXYWHBBoxCoder')
C4_DETECTOR = dict(
    type='FasterRCNN',
    data_preprocessor=dict(type='DetDataPreprocessor'),
    backbone=dict(type='ShuffleNet', arch='shufflenet_1x_g3', out_strides=(16,)),
    rpn_head=dict(
        type='RPNHead', in_channels=480, feat_channels=512, anchor_generator=ANCHORS, bbox_coder=CODER
    ),
    roi_head=dict(
        type='StandardRoIHead',
        shared_head=dict(type='StageHead', arch='shufflenet_1x_g3'),
        bbox_roi_extractor=dict(
            type='SingleRoIExtractor',
            roi_layer=dict(type='RoIAlign', output_size=7, sampling_ratio=2),
            out_channels=480,
            featmap_strides=[16],
        ),
        bbox_head=dict(
            type='BBoxHead', with_avg_pool=True, in_channels=960, num_classes=20, bbox_coder=CODER
        ),
    ),
    train_cfg=None,
    test_cfg=dict(rpn=dict(max_per_img=300), rcnn=dict()),
)
RETINANET = dict(
    type='RetinaNet',
    backbone=dict(type='MobileNet', arch='mobilenet_0.5x', out_strides=(16, 32)),
    neck=dict(type='FPN', in_channels=[256, 512], out_channels=64, num_outs=2),
    bbox_head=dict(
        type='RetinaHead',
        num_classes=20,
        in_channels=64,
        feat_channels=64,
        stacked_convs=1,
        anchor_generator=ANCHORS | dict(strides=[16, 32]),
        bbox_coder=CODER,
    ),
)


def test_two_stage_detector_by_hand() -> None:
    costs = detector_costs(C4_DETECTOR, 600, 800)
    backbone_params, head_params, head_mflops = C4['shufflenet_1x_g3']
    cells = 38 * 50  # 600 / 16 and 800 / 16, rounded up
    rpn = 480 * 512 * 9 + 512 * 9 * (1 + 4)  # 3x3, then score and box of 9 anchors
    boxes = 960 * (21 + 4 * 20)  # 21 scores, one box per class
    assert costs.dense_head_macs == cells * rpn
    assert costs.neck_macs == 0
    assert millions(costs.roi_head_macs_per_proposal - boxes, head_mflops) == head_mflops
    assert costs.num_proposals == 300
    assert costs.roi_head_macs == 300 * costs.roi_head_macs_per_proposal
    assert costs.total_macs == costs.backbone_macs + costs.dense_head_macs + costs.roi_head_macs
    assert costs.backbone_params == backbone_params
    assert costs.dense_head_params == rpn + 512 + 9 * 5
    assert costs.roi_head_params == head_params + boxes + 21 + 80
    assert costs.total_params == backbone_params + rpn + 512 + 45 + head_params + boxes + 101
    assert (costs.height, costs.width) == (600, 800)


def test_the_backbone_of_a_detector_has_the_costs_of_its_stages() -> None:
    stages = arch_costs('shufflenet_1x_g3')['stage_macs']
    costs = detector_costs(C4_DETECTOR, 224, 224)
    assert costs.backbone_macs == stages['stem'] + stages['stage8'] + stages['stage16']


@pytest.mark.parametrize('sparsity', ['masked', 'converted'])
@pytest.mark.parametrize('arch', ['sfr_shufflenetv2_0.5x', 'condensenet_a', 'condensenetv2_a'])
def test_learned_sparsity_in_a_detector_is_counted_in_test_time_form(arch: str, sparsity: str) -> None:
    model = compose_config(DetectorChoice(arch, 'frcnn_c4', 'shapes')).model
    for half in halves(model):
        half.conventions.sparsity = sparsity
    macs_by_part = arch_costs(arch)['stage_macs']
    expected = sum(macs for part, macs in macs_by_part.items() if part not in ('stage32', 'head'))
    assert detector_costs(model, 224, 224).backbone_macs == expected
    assert {half.conventions.sparsity for half in halves(model)} == {sparsity}  # the config is unchanged


def test_single_stage_detector_by_hand() -> None:
    costs = detector_costs(RETINANET, 64, 96)
    with torch.device('meta'):
        backbone = count(build_backbone('mobilenet_0.5x'), torch.empty(1, 3, 64, 96))
    c4, c5 = 4 * 6, 2 * 3
    neck = 256 * 64 * c4 + 512 * 64 * c5 + 64 * 64 * 9 * (c4 + c5)
    head = (2 * 64 * 64 * 9 + 64 * 9 * 9 * (20 + 4)) * (c4 + c5)
    assert costs.backbone_macs == backbone.macs + neck
    assert costs.neck_macs == neck
    assert costs.dense_head_macs == head
    assert costs.roi_head_macs == costs.num_proposals == costs.roi_head_macs_per_proposal == 0
    assert costs.total_macs == costs.backbone_macs + head
    neck_params = 768 * 64 + 2 * 64 + 2 * (64 * 64 * 9 + 64)
    assert costs.backbone_params == arch_costs('mobilenet_0.5x')['backbone_params'] + neck_params
    assert costs.roi_head_params == 0


def run_tool(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, 'argv', ['complexity.py', *arguments])
    complexity.main()


def test_the_tool_writes_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_tool(monkeypatch, 'mobilenet_1x', 'mobilenet_*', '--size', '64', '--format', 'json')
    rows = json.loads(capsys.readouterr().out)
    assert [row['arch'] for row in rows] == [
        'mobilenet_1x',
        'mobilenet_0.25x',
        'mobilenet_0.5x',
        'mobilenet_0.75x',
    ]
    assert rows[0] == arch_costs('mobilenet_1x', 64)


def test_the_tool_writes_csv(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run_tool(monkeypatch, 'menet_4*', '--format', 'csv')
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert int(row['macs']) == macs('menet_456_24x1_g3')
    assert row['strides'] == '4:48 8:456 16:912 32:1824'


def test_the_tool_prints_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_tool(monkeypatch, 'shufflenet_0.5x_g3_shallow')
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if '│ shufflenet_0.5x_g3_shallow' in line)
    assert '41.63' in line
    assert '+4.1%' in line
    assert '32: 720, 9.7' in line
    assert 'shufflenet_0.5x_g3_shallow: half the units' in out


def test_the_message_has_similar_names(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"unknown arch 'mobilenet_2x'; near: .*mobilenet_1x"):
        run_tool(monkeypatch, 'mobilenet_2x')


def test_the_tool_shows_a_network_of_a_library(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = 'timm:mobilenetv3_small_050'
    run_tool(monkeypatch, name)
    out = capsys.readouterr().out
    assert f'│ {name} │' in out
    assert 'measured:' not in out
