"""Facts about the config of a detector."""

from typing import Any

import pytest

from compactdet.config.choice import DETECTORS, DetectorChoice
from compactdet.config.compose import compose_config
from compactdet.config.detector import detector_name, head_classes


@pytest.mark.parametrize('name', DETECTORS)
def test_the_detectors_of_the_suite_have_the_names_of_their_wiring(name: str) -> None:
    model = compose_config(DetectorChoice('mobilenetv2_0.4x', name, 'shapes')).model
    assert detector_name(model) == name
    assert head_classes(model) == [8]


def config(detector: str, head: str, *necks: str) -> dict[str, Any]:
    """Return the types in a detector's config; the head is ``KEY=TYPE``."""
    key, _, kind = head.partition('=')
    neck = [dict(type=kind) for kind in necks]
    parts: dict[str, Any] = {key: dict(type=kind)}
    return dict(type=detector, **parts, neck=neck[0] if len(neck) == 1 else neck)


@pytest.mark.parametrize(
    ('model', 'name'),
    [
        (config('FCOS', 'bbox_head=FCOSHead', 'FPN'), 'fcos_fpn'),
        (config('mmdet.ATSS', 'bbox_head=ATSSHead', 'FPN'), 'atss_fpn'),
        (config('YOLOX', 'bbox_head=YOLOXHead', 'YOLOXPAFPN'), 'yolox_yoloxpafpn'),
        (config('FasterRCNN', 'roi_head=StandardRoIHead', 'PAFPN'), 'frcnn_pafpn'),
        (config('FasterRCNN', 'roi_head=DoubleHeadRoIHead', 'FPN'), 'frcnn_doublehead_fpn'),
        (config('FasterRCNN', 'rpn_head=GARPNHead', 'FPN'), 'frcnn_garpn_fpn'),
        (config('CascadeRCNN', 'roi_head=CascadeRoIHead', 'FPN'), 'cascadercnn_fpn'),
        (config('RetinaNet', 'bbox_head=RetinaHead', 'FPN', 'BFP'), 'retinanet_fpn_bfp'),
        (config('RetinaNet', 'bbox_head=FreeAnchorRetinaHead', 'FPN'), 'retinanet_freeanchorretina_fpn'),
        (config('FOVEA', 'bbox_head=FoveaHead', 'FPN'), 'fovea_fpn'),
        (config('SingleStageDetector', 'bbox_head=SSDHead', 'SSDNeck'), 'ssd_ssdneck'),
        (config('FasterRCNN', 'roi_head=StandardRoIHead'), 'frcnn'),
    ],
)
def test_other_detectors_have_the_names_of_their_parts(model: dict[str, Any], name: str) -> None:
    assert detector_name(model) == name


def test_every_stage_of_a_cascade_states_its_classes() -> None:
    heads = [dict(type='Shared2FCBBoxHead', num_classes=3), dict(type='Shared2FCBBoxHead', num_classes=4)]
    assert head_classes(dict(roi_head=dict(bbox_head=heads))) == [3, 4]
    assert head_classes(dict(type='RPN')) == []
