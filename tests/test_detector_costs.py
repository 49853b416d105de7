"""Costs of detectors with parts of MMDetection that the suite's configs do not have."""

import copy
from typing import Any

import pytest

from compactdet.config.choice import DetectorChoice
from compactdet.config.compose import compose_config
from compactdet.detector_costs import detector_costs


@pytest.fixture(scope='module')
def fpn() -> Any:
    return compose_config(DetectorChoice('mobilenetv2_0.4x', 'frcnn_fpn', 'shapes')).model


def test_a_cascade_counts_every_stage_and_double_head_both_branches(fpn: Any) -> None:
    one = detector_costs(fpn, 64, 96)
    cascade = copy.deepcopy(fpn)
    head, train = cascade.roi_head.bbox_head, cascade.train_cfg.rcnn
    cascade.type = 'CascadeRCNN'
    cascade.train_cfg.rcnn = [train, train, train]
    cascade.roi_head.update(
        type='CascadeRoIHead', num_stages=3, stage_loss_weights=[1, 1, 1], bbox_head=[head, head, head]
    )
    three = detector_costs(cascade, 64, 96)
    assert three.roi_head_macs_per_proposal == 3 * one.roi_head_macs_per_proposal
    assert three.total_macs == one.total_macs + 2 * one.roi_head_macs
    assert not three.not_measured

    double = copy.deepcopy(fpn)
    double.roi_head.type, double.roi_head.reg_roi_scale_factor = 'DoubleHeadRoIHead', 1.3
    double.roi_head.bbox_head.update(
        type='DoubleConvFCBBoxHead', num_convs=1, num_fcs=1, conv_out_channels=32, fc_out_channels=16
    )
    channels, cells, classes = head.in_channels, 49, head.num_classes
    # A residual block without and one with a projection, then the boxes; and one fully connected layer.
    first = cells * (channels * channels * 9 + 2 * channels * 32)
    bottleneck = cells * (2 * 32 * 8 + 8 * 8 * 9)
    boxes = 32 * 4 * classes
    scores = channels * cells * 16 + 16 * (classes + 1)
    assert detector_costs(double, 64, 96).roi_head_macs_per_proposal == first + bottleneck + boxes + scores


def test_a_neck_of_deformable_convolutions_costs_what_plain_ones_and_their_offsets_cost(fpn: Any) -> None:
    plain = detector_costs(fpn, 64, 64)
    with_dcn = copy.deepcopy(fpn)
    with_dcn.neck.conv_cfg = dict(type='DCNv2')
    cells = [16 * 16, 8 * 8, 4 * 4, 2 * 2]
    channels, width = with_dcn.neck.in_channels, with_dcn.neck.out_channels
    # Of each kernel position two coordinates and a weight, predicted by a convolution of the same kernel.
    offsets = sum(n * (3 * c + 27 * width * 9) for n, c in zip(cells, channels, strict=True))
    assert detector_costs(with_dcn, 64, 64).backbone_macs == plain.backbone_macs + offsets


def test_what_does_not_run_on_a_proposal_is_not_measured(fpn: Any) -> None:
    mask = copy.deepcopy(fpn)
    mask.type = 'MaskRCNN'
    mask.roi_head.mask_roi_extractor = copy.deepcopy(mask.roi_head.bbox_roi_extractor)
    mask.roi_head.mask_head = dict(
        type='FCNMaskHead', num_convs=1, in_channels=64, conv_out_channels=8, num_classes=8
    )
    costs = detector_costs(mask, 64, 96)
    assert (costs.roi_head_macs_per_proposal, costs.roi_head_macs, costs.total_macs) == (None, None, None)
    assert costs.dense_head_macs == detector_costs(fpn, 64, 96).dense_head_macs
    assert costs.not_measured == {
        'roi_head_macs_per_proposal': 'roi_head.mask_head.convs.0.conv (Conv2d) is not measured'
    }
    assert costs.roi_head_params > detector_costs(fpn, 64, 96).roi_head_params


def test_without_the_maps_of_the_backbone_nothing_is_measured(fpn: Any) -> None:
    odd = copy.deepcopy(fpn)
    odd.neck.in_channels[0] += 1
    costs = detector_costs(odd, 64, 96)
    assert (costs.backbone_macs, costs.dense_head_macs, costs.total_macs) == (None, None, None)
    assert costs.not_measured['backbone_macs'].startswith('RuntimeError: ')
    assert costs.not_measured['dense_head_macs'] == 'the maps of the backbone were not measured'
    assert costs.total_params > costs.backbone_params > 0
