"""The evaluator as MMEngine's metric, and the predictions.json that it writes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import backbones  # noqa: F401  brings mmcv's ops, before anything imports mmdet
from compactdet.data.annotations import make_annotations, make_detections
from compactdet.data.readers import read_predictions, read_voc
from compactdet.errors import UserError
from compactdet.evaluation.evaluate import evaluate
from compactdet.evaluation.metric import DetectionMetric, write_predictions
from compactdet.mmdetection import METRICS

from evaluation_sets import DOGS, NAMES, judge, random_set, through_files, write_voc


@pytest.fixture
def voc(tmp_path):
    write_voc(tmp_path, DOGS)
    return tmp_path


def sample(image_id, gt, ignored, predicted):
    """A data sample as MMDetection's loops hand it over; rows: box, label (, score)."""

    def instances(rows, keys):
        return {
            key: torch.tensor(np.reshape([row[i] for row in rows], (-1, 4) if key == 'bboxes' else -1))
            for i, key in enumerate(keys)
        }

    return {
        'img_id': image_id,
        'gt_instances': instances(gt, ('bboxes', 'labels')),
        'ignored_instances': instances(ignored, ('bboxes', 'labels')),
        'pred_instances': instances(predicted, ('bboxes', 'labels', 'scores')),
    }


@pytest.fixture
def metric(tmp_path):
    built = METRICS.build({'type': 'DetectionMetric', 'out': str(tmp_path / 'out' / 'predictions.json')})
    assert type(built) is DetectionMetric
    built.dataset_meta = {'classes': ('dog', 'cat')}
    return built


def test_metric_equals_the_evaluator_and_its_file(metric, voc):
    dog, cat = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)
    metric.process(None, [sample('000002', [], [], [(dog, 0, 0.4)])])
    metric.process(None, [sample('000001', [(dog, 0)], [(cat, 1)], [(dog, 0, 0.3), (cat, 1, 0.2)])])
    flat = metric.evaluate(size=2)
    assert flat['voc/ap50_11point'] == flat['voc/ap50_11point/dog'] == 0.5
    assert flat['voc/ap50_11point_with_difficult'] == 0.75
    assert flat['coco/ap'] == pytest.approx(0.5, abs=1e-12)
    assert 'voc/ap50_11point/cat' not in flat  # its one box is difficult
    assert all(type(value) is float for value in flat.values())
    gt = read_voc(voc, classes=['dog', 'cat'])
    assert evaluate(gt, read_predictions(metric.out, gt)) == metric.last


def test_intervals_are_the_bootstraps_of_the_last_evaluation(metric):
    assert metric.image_intervals() == {}
    rng = np.random.default_rng(0)
    for number in range(30):  # every second image has its dog found
        x, y = rng.uniform(0, 50, 2)
        box = (x, y, x + 30, y + 30)
        found = [(box, 0, rng.uniform())] if number % 2 else []
        metric.process(None, [sample(f'{number:06}', [(box, 0)], [], found)])
    figures = metric.evaluate(size=30)
    intervals = metric.image_intervals(200)
    assert metric.image_intervals(200) == intervals  # seeded
    low, high = intervals['voc/ap50_area_low95'], intervals['voc/ap50_area_high95']
    assert figures['voc/ap50_area'] == pytest.approx(0.5)
    # A share of 30 images at 1/2: its standard error is sqrt(1/4 / 30) = 0.091.
    assert low == pytest.approx(0.5 - 1.96 * 0.091, abs=0.04)
    assert high == pytest.approx(0.5 + 1.96 * 0.091, abs=0.04)
    assert {name.rpartition('_')[0] for name in intervals} <= figures.keys()


def test_intervals_stay_within_what_ap_can_be(metric):
    box = (0.0, 0.0, 10.0, 10.0)
    for number in range(6):
        metric.process(None, [sample(f'{number:06}', [(box, 0)], [], [(box, 0, 0.5)] if number else [])])
    metric.evaluate(size=6)
    assert all(0 <= end <= 1 for end in metric.image_intervals(200).values())


def test_metric_of_nothing(metric):
    metric.process(None, [sample(1, [], [], []), sample(2, [], [], [])])
    assert metric.evaluate(size=2) == {}
    assert json.loads(Path(metric.out).read_text()) == []


def test_metric_refuses_an_image_twice(metric):
    metric.process(None, [sample(1, [], [], []), sample(1, [], [], [])])
    with pytest.raises(ValueError, match='2 samples have 1 image ids'):
        metric.evaluate(size=2)


def test_metric_reads_areas_and_crowds_from_a_coco_file(metric, tmp_path):
    gt, dt = random_set(3)
    annotations, _ = through_files(gt, dt, tmp_path)
    metric.ann_file = str(tmp_path / 'gt.json')
    metric.dataset_meta = {'classes': ('class2', 'class0', 'class1')}  # in another order
    label = {1: 1, 4: 2, 7: 0}
    for i in annotations.image_ids:
        rows = [
            ((x, y, x + w, y + h), label[d['category_id']], d['score'])
            for d in dt
            if d['image_id'] == i
            for x, y, w, h in [d['bbox']]
        ]
        metric.process(None, [sample(i, [], [], rows)])
    flat = metric.evaluate(size=len(annotations.image_ids))
    expected = judge(gt, dt)[0]
    np.testing.assert_allclose([flat[f'coco/{name}'] for name in NAMES], expected, atol=1e-10)


# predictions.json

DOG, CAT = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0)


@pytest.fixture
def predicted(tmp_path):
    """A file with a dog and a surer cat, written where the classes are cat and dog."""
    gt = make_annotations(['000001', '000002'], ['cat', 'dog'], [], [], [])
    path = tmp_path / 'results' / 'predictions.json'
    write_predictions(path, gt, make_detections([0, 0], [1, 0], [DOG, CAT], [0.125, 0.5]))
    return path


def test_predictions_name_their_classes(predicted):
    common = {'image_id': '000001'}
    assert json.loads(predicted.read_text()) == [
        common | {'category_id': 2, 'category': 'dog', 'bbox': [0, 0, 10, 10], 'score': 0.125},
        common | {'category_id': 1, 'category': 'cat', 'bbox': [20, 0, 10, 10], 'score': 0.5},
    ]
    assert [file.name for file in predicted.parent.iterdir()] == ['predictions.json']


@pytest.mark.parametrize('classes', [None, ['dog', 'cat'], ['cat', 'dog'], ['bird', 'dog', 'fish', 'cat']])
def test_predictions_are_read_by_name_in_any_order(predicted, voc, classes):
    gt = read_voc(voc, classes=classes)
    dt = read_predictions(predicted, gt)
    assert [gt.classes[label] for label in dt.labels] == ['dog', 'cat']
    assert evaluate(gt, dt)['voc']['ap50_area_with_difficult'] == 1


def test_predictions_of_coco_files_are_read_by_name_too(predicted, tmp_path):
    gt = make_annotations(['000001'], ['dog', 'cat'], [], [], [], category_ids=[18, 2])
    assert read_predictions(predicted, gt).labels.tolist() == [0, 1]


def test_predictions_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    gt = make_annotations([1], ['cat'], [], [], [])
    with pytest.raises(UserError, match=r"cannot write '.*predictions\.json' \(Not a directory\)"):
        write_predictions(tmp_path / 'file' / 'predictions.json', gt, make_detections([], [], [], []))
