"""Facts of a record that hold for any evaluator and any test pipeline."""

import math
from types import SimpleNamespace
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope

from compactdet.evaluation.metric import DetectionMetric
from compactdet.training.input_size import median_input_size
from compactdet.training.record_facts import cost_facts, image_intervals, metric_values

PREPROCESSOR = dict(type='DetDataPreprocessor', mean=[0, 0, 0], std=[1, 1, 1], pad_size_divisor=32)
META = ('img_id', 'scale_factor', 'img_shape', 'ori_shape')


@pytest.fixture(autouse=True)
def mmdet_scope() -> Any:
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


class Images:
    """A data set of three images, the median 300x200 pixels, and a test pipeline."""

    def __init__(self, *steps: dict[str, Any]) -> None:
        load = dict(type='LoadImageFromFile')
        packs = [dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs', meta_keys=META)]
        self.pipeline = Compose([load, *steps, *packs])

    def __len__(self) -> int:
        return 3

    def get_data_info(self, index: int) -> dict[str, Any]:
        width, height = [(100, 900), (300, 200), (400, 100)][index]
        return dict(img_id=index, img_path='missing.jpg', width=width, height=height)


@pytest.mark.parametrize(
    ('steps', 'size'),
    [
        ([dict(type='Resize', scale=(160, 120), keep_ratio=True)], (128, 160)),  # 160x107
        ([dict(type='Resize', scale=(160, 100), keep_ratio=False)], (128, 160)),
        ([dict(type='Resize', scale=320, keep_ratio=False)], (320, 320)),
        ([dict(type='Resize', scale_factor=0.5, keep_ratio=True)], (128, 160)),
        ([dict(type='FixScaleResize', scale=(640, 480), keep_ratio=True)], (448, 640)),
        ([dict(type='Resize', scale_factor=1.0), dict(type='Pad', size=(500, 300))], (320, 512)),
        ([], (224, 320)),
    ],
)
def test_the_input_size_is_that_of_the_pipeline(steps: list[dict[str, Any]], size: tuple[int, int]) -> None:
    cfg = Config(dict(model=dict(data_preprocessor=PREPROCESSOR)))
    assert median_input_size(cfg, Images(*steps)) == size


def test_a_preprocessor_need_not_pad() -> None:
    preprocessor = {key: value for key, value in PREPROCESSOR.items() if key != 'pad_size_divisor'}
    cfg = Config(dict(model=dict(data_preprocessor=preprocessor)))
    assert median_input_size(cfg, Images(dict(type='Resize', scale=(160, 120), keep_ratio=True))) == (
        107,
        160,
    )


BACKBONE = {'arch': 'menet_108_8x1_g3'}


def test_an_unknown_input_size_is_null_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = SimpleNamespace(
        height=224, width=224, backbone_macs=5, neck_macs=0, dense_head_macs=None, neck_params=0
    )
    costs.roi_head_macs_per_proposal = costs.num_proposals = costs.roi_head_macs = 0
    costs.total_macs, costs.not_measured = None, {'dense_head_macs': 'unlike others'}
    costs.backbone_params = costs.dense_head_params = costs.roi_head_params = costs.total_params = 1
    monkeypatch.setattr('compactdet.training.record_facts.detector_costs', lambda *_: costs)
    facts = cost_facts(
        Config(dict(model=dict(data_preprocessor=PREPROCESSOR, backbone=BACKBONE))),
        Images(dict(type='Resize', scale=2)),
    )
    assert facts['at_224']['backbone_macs'] == 5
    assert facts['at_224']['not_measured'] == {'rpn_macs': 'unlike others'}
    facts = cost_facts(Config(dict(model=dict(data_preprocessor=None, backbone=BACKBONE))), Images())
    assert facts['at_input']['height'] is facts['at_input']['total_macs'] is None
    assert facts['at_input']['not_measured']['height'].startswith('the size of a test image is not known: ')


def test_a_metric_without_a_value_is_null() -> None:
    given = {
        'coco/bbox_mAP_l': -1.0,
        'voc/ap50_area': math.nan,
        'loss': math.inf,
        'coco/bbox_mAP_copypaste': '0.1 0.2',
    }
    assert metric_values(given) == dict.fromkeys(given)
    assert metric_values({'coco/ap': 45.3, 'mAP': 45.3, 'coco/ap50': 0.5}) == {
        'coco/ap': None, 'mAP': 45.3, 'coco/ap50': 0.5,
    }  # fmt: skip


def test_intervals_that_cannot_be_computed_do_not_stop_the_record(capsys: pytest.CaptureFixture) -> None:
    metric = DetectionMetric()
    metric.evaluated = ('no annotations', 'no detections')  # type: ignore[assignment]
    runner: Any = SimpleNamespace(test_evaluator=SimpleNamespace(metrics=[metric]))
    assert image_intervals(runner) == {}
    assert capsys.readouterr().out.startswith('no intervals over the test images: AttributeError: ')
