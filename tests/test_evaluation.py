"""The evaluator against pycocotools, MMDetection's eval_map and cases worked by hand."""

import contextlib
import copy
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bench import matching
from bench.errors import UserError
from bench.evaluation import (
    evaluate,
    format_table,
    make_annotations,
    make_detections,
    read_coco,
    read_predictions,
    read_voc,
)

NAMES = [
    *('ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large'),
    *('ar_1', 'ar_10', 'ar_100', 'ar_small', 'ar_medium', 'ar_large'),
]
EVALUATE = Path(__file__).parents[1] / 'tools' / 'evaluate.py'


class DifficultCOCOeval(COCOeval):
    """The judge, ignoring annotations marked difficult without making crowds of them."""

    def _prepare(self):
        super()._prepare()
        for annotations in self._gts.values():
            for annotation in annotations:
                annotation['ignore'] = annotation['iscrowd'] or annotation.get('difficult', 0)


def judge(gt, dt):
    """pycocotools' 12 figures (-1 for none) and its (T, R, K, A, M) precisions."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = copy.deepcopy(gt)
        coco.createIndex()
        result = DifficultCOCOeval(coco, coco.loadRes(copy.deepcopy(dt)), 'bbox')
        result.evaluate()
        result.accumulate()
        result.summarize()
    return result.stats, result.eval['precision']


def through_files(gt, dt, folder):
    """Both as the evaluator reads them from files."""
    (folder / 'gt.json').write_text(json.dumps(gt))
    (folder / 'dt.json').write_text(json.dumps(dt))
    annotations = read_coco(folder / 'gt.json')
    return annotations, read_predictions(folder / 'dt.json', annotations)


def ours(result):
    return np.array([-1 if result['coco'][name] is None else result['coco'][name] for name in NAMES])


def dataset(boxes, *, num_images, num_classes):
    """A COCO file's content; ``boxes`` rows: image, class, bbox, area, iscrowd."""
    keys = ('image_id', 'category_id', 'bbox', 'area', 'iscrowd')
    return {
        'images': [{'id': i} for i in range(num_images)],
        'categories': [{'id': 3 * k + 1, 'name': f'class{k}'} for k in range(num_classes)],
        'annotations': [{'id': i + 1, **dict(zip(keys, row, strict=True))} for i, row in enumerate(boxes)],
    }


def random_set(
    seed, *, num_images=6, num_boxes=40, num_detections=150, num_classes=3, ties=False, crowd=0.1
):
    """Jittered boxes and strays of all sizes; some images and classes stay empty."""
    rng = np.random.default_rng(seed)

    def anywhere(n):
        sides = np.exp(rng.uniform(np.log(6), np.log(250), (n, 2)))
        return np.hstack([rng.uniform(0, 200, (n, 2)), sides]).round(2)

    place = rng.integers(0, [num_images, num_classes], (num_boxes, 2))
    boxes = anywhere(num_boxes)
    strays = num_detections // 3
    source = rng.integers(0, num_boxes, num_detections - strays)
    near = boxes[source] * np.exp(rng.normal(0, 0.12, (len(source), 4)))
    all_boxes = np.vstack([near.round(2), anywhere(strays)])
    all_places = np.vstack([place[source], rng.integers(0, [num_images, num_classes], (strays, 2))])
    scores = rng.random(num_detections).round(1 if ties else 12)
    order = rng.permutation(num_detections)
    gt = dataset(
        [
            (int(i), 3 * int(k) + 1, box, box[2] * box[3] * rng.uniform(0.5, 1), int(rng.random() < crowd))
            for (i, k), box in zip(place, boxes.tolist(), strict=True)
        ],
        num_images=num_images,
        num_classes=num_classes,
    )
    dt = [
        {
            'image_id': int(all_places[j, 0]),
            'category_id': 3 * int(all_places[j, 1]) + 1,
            'bbox': all_boxes[j].tolist(),
            'score': float(scores[j]),
        }
        for j in order
    ]
    return gt, dt


# COCO's rule against pycocotools


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('seed', range(12))
def test_equals_pycocotools_on_random_sets(seed, ties, tmp_path):
    gt, dt = random_set(seed, ties=ties, num_boxes=5 + 6 * seed, crowd=0.3 * (seed % 2))
    result = evaluate(*through_files(gt, dt, tmp_path))
    figures, precision = judge(gt, dt)
    np.testing.assert_allclose(ours(result), figures, rtol=0, atol=1e-10)
    for k in range(3):
        own = result['coco']['per_class'][f'class{k}']
        for name, area in (('ap', 0), ('ap_small', 1), ('ap_medium', 2), ('ap_large', 3)):
            expected = precision[:, :, k, area, 2]
            if expected.max() < 0:
                assert own[name] is None
            else:
                assert own[name] == pytest.approx(expected.mean(), abs=1e-10)


def test_equals_pycocotools_beyond_100_detections_of_a_class_in_an_image(tmp_path):
    gt, dt = random_set(1, num_images=2, num_boxes=30, num_detections=700, num_classes=1)
    np.testing.assert_allclose(
        ours(evaluate(*through_files(gt, dt, tmp_path))), judge(gt, dt)[0], atol=1e-10
    )


@st.composite
def crowded_sets(draw):
    """Few sizes, places and scores, so that overlaps and scores tie and lie on thresholds."""
    side, place = st.sampled_from([8, 16, 20, 40, 100]), st.sampled_from([0, 4, 10, 25, 50])
    box = st.tuples(place, place, side, side).map(list)
    image, category = st.integers(0, 2), st.sampled_from([1, 4])
    area = st.sampled_from([64, 1024, 1500, 9216, 20000])
    boxes = draw(st.lists(st.tuples(image, category, box, area, st.integers(0, 1)), max_size=9))
    score = st.sampled_from([0.1, 0.5, 0.9])
    keys = ('image_id', 'category_id', 'bbox', 'score')
    rows = draw(st.lists(st.tuples(image, category, box, score), min_size=1, max_size=14))
    return dataset(boxes, num_images=3, num_classes=2), [dict(zip(keys, r, strict=True)) for r in rows]


def check_crowded(gt, dt, folder):
    np.testing.assert_allclose(
        ours(evaluate(*through_files(gt, dt, folder))), judge(gt, dt)[0], rtol=0, atol=1e-10
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(case=crowded_sets())
def test_equals_pycocotools_where_scores_and_overlaps_tie(case, tmp_path_factory):
    check_crowded(*case, tmp_path_factory.getbasetemp())


@pytest.mark.slow
@settings(max_examples=1000, deadline=None)
@given(case=crowded_sets())
def test_equals_pycocotools_in_1000_cases(case, tmp_path_factory):
    check_crowded(*case, tmp_path_factory.getbasetemp())


@pytest.mark.shared
def test_equals_pycocotools_on_real_coco(shared, tmp_path):
    rng = np.random.default_rng(0)
    for name in ('instances_minival2014_128.json', 'instances_train2017_128.json'):
        gt = json.loads((shared / 'data' / 'coco' / 'annotations' / name).read_text())
        dt = []
        for annotation in gt['annotations'] * 3:
            box = np.array(annotation['bbox']) * np.exp(rng.normal(0, 0.1, 4))
            wrong = rng.random() < 0.1
            category = gt['categories'][rng.integers(80)]['id'] if wrong else annotation['category_id']
            dt.append(
                {
                    'image_id': annotation['image_id'],
                    'category_id': category,
                    'bbox': box.tolist(),
                    'score': round(rng.random(), 3),
                }
            )
        result = evaluate(*through_files(gt, dt, tmp_path))
        np.testing.assert_allclose(ours(result), judge(gt, dt)[0], rtol=0, atol=1e-10)
        assert 0.1 < result['coco']['ap'] < 0.5  # neither nothing nor everything matches


@pytest.mark.parametrize('seed', range(4))
def test_coco_figures_with_difficult_ignored_and_counted(seed, tmp_path):
    gt, dt = random_set(seed)
    rng = np.random.default_rng(seed)
    for annotation in gt['annotations']:
        annotation['difficult'] = int(rng.random() < 0.3)
    annotations, detections = through_files(gt, dt, tmp_path)
    flags = np.array([a['difficult'] for a in gt['annotations']], bool)
    annotations = make_annotations(
        annotations.image_ids,
        annotations.classes,
        annotations.image_index,
        annotations.labels,
        annotations.boxes,
        sizes=annotations.sizes,
        areas=annotations.areas,
        crowd=annotations.crowd,
        difficult=flags,
    )
    result = evaluate(annotations, detections)
    np.testing.assert_allclose(ours(result), judge(gt, dt)[0], atol=1e-10)
    for annotation in gt['annotations']:
        del annotation['difficult']
    counted = [result['coco'][f'{name}_with_difficult'] for name in NAMES]
    np.testing.assert_allclose(counted, judge(gt, dt)[0], atol=1e-10)


def compare_by_hand(boxes, detections, folder):
    """All 12 figures and those of pycocotools; rows of one class: box (and area), box and score."""
    gt = dataset([(0, 1, box, area, 0) for box, area in boxes], num_images=1, num_classes=1)
    dt = [{'image_id': 0, 'category_id': 1, 'bbox': box, 'score': score} for box, score in detections]
    figures = ours(evaluate(*through_files(gt, dt, folder)))
    np.testing.assert_allclose(figures, judge(gt, dt)[0], rtol=0, atol=1e-10)
    return dict(zip(NAMES, figures, strict=True))


def test_of_boxes_that_overlap_equally_coco_takes_the_last(tmp_path):
    left, right = ([0, 0, 10, 10], 100), ([4, 0, 10, 10], 100)
    detections = [([2, 0, 10, 10], 0.9), ([0, 0, 10, 10], 0.8)]  # the first lies halfway
    assert compare_by_hand([left, right], detections, tmp_path)['ap50'] == 1
    assert compare_by_hand([right, left], detections, tmp_path)['ap50'] < 0.6


def test_a_stray_on_the_limit_of_two_areas_counts_in_both(tmp_path):
    boxes = [([0, 0, 10, 10], 100), ([100, 100, 50, 50], 2500)]
    stray = ([300, 300, 32, 32], 0.9)
    figures = compare_by_hand(boxes, [stray, *((box, 0.5) for box, _ in boxes)], tmp_path)
    assert figures['ap_small'] == pytest.approx(0.5)
    assert figures['ap_medium'] == pytest.approx(0.5)


def test_an_overlap_on_a_threshold_follows_the_files_numbers(tmp_path):
    # IoU 12.27 / 20.45 = 0.6; widths taken as (x + width) - x would make it 0.6 - 1e-16.
    boxes, detections = [([8.32, 24.47, 20.45, 1.07], 21.9)], [([8.32, 24.47, 12.27, 1.07], 0.9)]
    assert compare_by_hand(boxes, detections, tmp_path)['ap'] == pytest.approx(0.3)


def test_overlaps_are_found_in_pieces(monkeypatch):
    rng = np.random.default_rng(0)
    n = 60
    boxes = np.hstack([rng.uniform(0, 5, (n, 2)), rng.uniform(10, 20, (n, 2))])
    gt = make_annotations([0, 1], ['a', 'b'], rng.integers(0, 2, n), rng.integers(0, 2, n), boxes)
    dt = make_detections(gt.image_index, gt.labels, boxes + rng.normal(0, 1, (n, 4)), rng.random(n))
    whole = evaluate(gt, dt)
    monkeypatch.setattr(matching, 'CHUNK_PAIRS', 7)
    assert evaluate(gt, dt) == whole


def test_an_annotation_of_id_0_is_found(tmp_path):
    gt = dataset([(0, 1, [0, 0, 10, 10], 100, 0)], num_images=1, num_classes=1)
    gt['annotations'][0]['id'] = 0
    dt = [{'image_id': 0, 'category_id': 1, 'bbox': [0, 0, 10, 10], 'score': 1}]
    assert judge(gt, dt)[0][0] == 0  # COCOeval loses it
    assert evaluate(*through_files(gt, dt, tmp_path))['coco']['ap'] == 1


# VOC's rule


def one_class(gt_boxes, dt_rows, difficult=None, image=None, ious=(0.5,)):
    """Figures of one class; boxes are VOC's, 1-based and inclusive; ``dt_rows``: box and score."""
    shift = np.array([1, 1, 0, 0])
    gt = make_annotations(
        ['a', 'b'],
        ['thing'],
        image or [0] * len(gt_boxes),
        [0] * len(gt_boxes),
        np.reshape(gt_boxes, (-1, 4)) - shift,
        difficult=difficult,
    )
    boxes = np.reshape([box for box, _ in dt_rows], (-1, 4)) - shift
    n = len(dt_rows)
    return evaluate(gt, make_detections([0] * n, [0] * n, boxes, [s for _, s in dt_rows]), ious)['voc']


A, B = (1, 1, 10, 10), (21, 1, 30, 10)


def test_overlap_counts_inclusive_pixels_and_reaching_the_threshold_is_enough():
    # 10 x 5 of 10 x 10 pixels: 50 / 100. Without VOC's +1 it would be 9 * 4 / 81.
    assert one_class([A], [((1, 1, 10, 5), 0.9)])['ap50_11point'] == 1
    assert one_class([A], [((1, 1, 10, 4), 0.9)])['ap50_11point'] == 0


def test_figures_worked_by_hand():
    result = one_class([A, B], [(A, 0.9), ((61, 61, 70, 70), 0.8), (B, 0.7)])
    # Precision 1 at recall 1/2, 2/3 at recall 1.
    assert result['ap50_11point'] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11, abs=1e-15)
    assert result['ap50_area'] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3, abs=1e-15)


def test_a_second_detection_of_a_box_is_false():
    result = one_class([A, B], [(A, 0.9), (A, 0.8), (B, 0.7)])
    assert result['ap50_area'] == pytest.approx(0.5 + 0.5 * 2 / 3, abs=1e-15)


def test_the_best_box_being_taken_makes_false_even_if_another_overlaps_enough():
    shifted = (4, 1, 13, 10)  # IoU 70/130 with A
    detections = [(A, 0.9), ((1, 1, 10, 10), 0.8)]
    assert one_class([A, shifted], detections)['ap50_area'] == 0.5


@pytest.mark.parametrize(('copies', 'counted'), [(1, 1), (3, 1 / 2 + 1 / 4)])
def test_difficult_boxes_excuse_any_number_of_detections(copies, counted):
    detections = [(B, 0.9 - i / 100) for i in range(copies)] + [(A, 0.5)]
    result = one_class([A, B], detections, difficult=[False, True])
    assert result['ap50_11point'] == result['ap50_area'] == 1
    assert result['ap50_area_with_difficult'] == pytest.approx(counted, abs=1e-15)


def test_of_boxes_that_overlap_equally_voc_takes_the_first():
    result = [one_class([A, A], [(A, 0.9)], difficult=flags) for flags in ([True, False], [False, True])]
    assert [figures['ap50_area'] for figures in result] == [0, 1]


def test_any_list_of_thresholds():
    result = one_class([A], [((1, 1, 10, 8), 0.9)], ious=(0.3, 0.8, 0.85))
    assert [result[f'ap{n}_area'] for n in (30, 80, 85)] == [1, 1, 0]


def test_equal_scores_keep_the_order_of_images_then_of_input():
    gt = make_annotations(['a', 'b'], ['thing'], [1], [0], [A])
    hit_last = make_detections([0, 1], [0, 0], [A, A], [0.5, 0.5])
    hit_last_too = make_detections([1, 0], [0, 0], [A, A], [0.5, 0.5])
    assert evaluate(gt, hit_last)['voc']['ap50_area'] == 0.5
    assert evaluate(gt, hit_last_too)['voc']['ap50_area'] == 0.5
    within = make_detections([1, 1], [0, 0], [A, B], [0.5, 0.5])
    assert evaluate(gt, within)['voc']['ap50_area'] == 1


@pytest.mark.parametrize('mode', ['11points', 'area'])
@pytest.mark.parametrize('seed', range(5))
def test_equals_eval_map(seed, mode):
    from bench.mmdetection import mmdet  # late: takes seconds

    rng = np.random.default_rng(seed)
    num_images, num_classes = 12, 3
    counts = rng.integers(0, 6, num_images)
    image, labels = np.repeat(np.arange(num_images), counts), rng.integers(0, num_classes, counts.sum())
    low = rng.integers(0, 60, (len(image), 2))
    boxes = np.hstack([low, low + rng.integers(5, 60, (len(image), 2))]).astype(float)
    difficult = rng.random(len(image)) < 0.2
    source = rng.integers(0, len(image), 90)
    dt_boxes = (boxes[source] + rng.normal(0, 5, (90, 4))).astype(np.float32).astype(float)
    scores = rng.permutation(90).astype(np.float32).astype(float) / 90
    scores = scores.astype(np.float32).astype(float)
    dt_image, dt_labels = image[source], labels[source]
    inclusive = np.array([0, 0, 1, 1])
    annotations, results = [], []
    for i in range(num_images):
        mine, easy = image == i, (image == i) & ~difficult
        hard = mine & difficult
        annotations.append(
            {
                'bboxes': (boxes[easy] - inclusive).astype(np.float32),
                'labels': labels[easy],
                'bboxes_ignore': (boxes[hard] - inclusive).astype(np.float32),
                'labels_ignore': labels[hard],
            }
        )
        results.append([])
        for k in range(num_classes):
            rows = np.flatnonzero((dt_image == i) & (dt_labels == k))
            results[-1].append(
                np.hstack([dt_boxes[rows] - inclusive, scores[rows, None]]).astype(np.float32)
            )
    gt = make_annotations(
        list(range(num_images)), ['a', 'b', 'c'], image, labels, boxes, difficult=difficult
    )
    result = evaluate(gt, make_detections(dt_image, dt_labels, dt_boxes, scores), (0.5, 0.7))['voc']
    for iou in (0.5, 0.7):
        options = {'iou_thr': iou, 'use_legacy_coordinate': True, 'eval_mode': mode}
        expected, _ = mmdet.evaluation.eval_map(
            results, annotations, dataset='voc', logger='silent', nproc=1, **options
        )
        name = f'ap{100 * iou:g}_{"11point" if mode == "11points" else "area"}'
        assert result[name] == pytest.approx(float(expected), abs=1e-6)
        for annotation in annotations:
            annotation['all'] = {
                'bboxes': np.vstack([annotation['bboxes'], annotation['bboxes_ignore']]),
                'labels': np.hstack([annotation['labels'], annotation['labels_ignore']]),
            }
        counted = [annotation['all'] for annotation in annotations]
        expected, _ = mmdet.evaluation.eval_map(
            results, counted, dataset='voc', logger='silent', nproc=1, **options
        )
        assert result[f'{name}_with_difficult'] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.shared
def test_ground_truth_of_voc07_test_as_detections_is_perfect(shared):
    folder = shared / 'data' / 'voc2007_official'
    flags = [line.split()[1:] for line in (folder / 'voc07_test_difficult.txt').read_text().splitlines()]
    lines = [line.split() for line in (folder / 'voc07_test.txt').read_text().splitlines()]
    image = np.repeat(np.arange(len(lines)), [len(f) for f in flags])
    rows = np.array([row for line in lines for row in zip(*[iter(map(int, line[1:]))] * 5, strict=True)])
    difficult = np.array([flag == '1' for f in flags for flag in f])
    assert (len(lines), len(rows), difficult.sum()) == (4952, 14976, 2944)
    boxes = rows[:, :4] - np.array([1, 1, 0, 0])
    classes = [f'class{k}' for k in range(20)]
    gt = make_annotations(
        [line[0] for line in lines], classes, image, rows[:, 4], boxes, difficult=difficult
    )
    rng = np.random.default_rng(0)
    result = evaluate(gt, make_detections(image, rows[:, 4], boxes, rng.random(len(rows))))
    for rule, name in (('voc', 'ap50_11point'), ('voc', 'ap50_area'), ('coco', 'ap'), ('coco', 'ar_100')):
        assert result[rule][name] == pytest.approx(1, abs=1e-12)
        assert result[rule][f'{name}_with_difficult'] == pytest.approx(1, abs=1e-12)


# What is left out


def test_a_class_without_ground_truth_is_none_and_left_out_of_means():
    gt = make_annotations([1], ['seen', 'absent'], [0], [0], [A])
    result = evaluate(gt, make_detections([0, 0], [0, 1], [A, A], [0.5, 0.9]))
    for rule, name in (('voc', 'ap50_11point'), ('coco', 'ap'), ('coco', 'ar_100')):
        assert result[rule]['per_class']['absent'][name] is None
        assert result[rule][name] == 1
    assert result['coco']['ap_large'] is None
    assert 'absent' in format_table(result)
    json.dumps(result, allow_nan=False)


def test_empty_predictions_and_empty_ground_truth():
    nothing = make_detections([], [], [], [])
    gt = make_annotations([1], ['thing'], [0], [0], [A])
    assert evaluate(gt, nothing)['voc']['ap50_area'] == evaluate(gt, nothing)['coco']['ap'] == 0
    empty = make_annotations([1], ['thing'], [], [], [])
    for dt in (nothing, make_detections([0], [0], [A], [0.5])):
        result = evaluate(empty, dt)
        assert result['voc']['ap50_area'] is None
        assert result['coco']['ar_1'] is None


# Readers

GOOD = {'image_id': 0, 'category_id': 1, 'bbox': [0, 0, 10, 10], 'score': 0.5}


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('{', 'not JSON'),
        ('{"a": 1}', 'is a dict, must be a list'),
        (json.dumps([GOOD, 3]), 'entry 1: is a int, must be an object'),
        (json.dumps([GOOD, GOOD | {'image_id': 77}]), r'entry 1: image_id 77 is not in .* 0, 1, 2'),
        (json.dumps([GOOD | {'image_id': [0]}]), r'entry 0: image_id \[0\] is not in'),
        (json.dumps([GOOD | {'category_id': 2}]), 'entry 0: category_id 2 is not in .* 1, 4'),
        (json.dumps([{k: v for k, v in GOOD.items() if k != 'score'}]), 'entry 0: has no "score"'),
        (json.dumps([GOOD | {'score': float('nan')}]), 'entry 0: score is nan'),
        (json.dumps([GOOD | {'score': '0.5'}]), "entry 0: score is '0.5'"),
        (json.dumps([GOOD | {'score': True}, GOOD]), 'entry 0: score is True'),
        (json.dumps([GOOD | {'bbox': [0, 0, -1, 5]}]), 'entry 0: bbox .* negative width'),
        (json.dumps([GOOD | {'bbox': [0, 0, 5]}]), 'entry 0: bbox is .* must be 4 finite numbers'),
        (json.dumps([GOOD | {'bbox': [0, 0, 5, float('inf')]}]), 'must be 4 finite numbers'),
        (json.dumps([GOOD | {'bbox': [0, 0, 5, 10**400]}]), 'must be 4 finite numbers'),
    ],
)
def test_bad_predictions_are_named(content, message, tmp_path):
    gt, _ = random_set(0)
    (tmp_path / 'gt.json').write_text(json.dumps(gt))
    path = tmp_path / 'predictions.json'
    path.write_text(content)
    with pytest.raises(UserError, match=f'predictions.json.*{message}'):
        read_predictions(path, read_coco(tmp_path / 'gt.json'))


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r'nowhere.json: cannot read the file \(No such file'):
        read_coco(tmp_path / 'nowhere.json')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda gt: gt.pop('annotations'), 'has no "annotations"'),
        (lambda gt: gt['images'].append({'id': 0}), 'images: id 0 is there twice'),
        (lambda gt: gt['images'].append({'name': 'x'}), 'images must be a list of objects with "id"'),
        (lambda gt: gt['images'].append({'id': 'x'}), 'ids mix numbers and text'),
        (lambda gt: gt['annotations'][2].update(image_id=99), 'annotations, entry 2: image_id 99'),
        (lambda gt: gt['annotations'][2].update(category_id=2), 'annotations, entry 2: category_id 2'),
        (lambda gt: gt['annotations'][2].pop('bbox'), 'annotations, entry 2: has no "bbox"'),
        (lambda gt: gt['annotations'][2].update(area='big'), "annotations, entry 2: area 'big'"),
        (lambda gt: gt['annotations'][2].update(iscrowd=2), 'annotations, entry 2: .*iscrowd 2'),
    ],
)
def test_bad_coco_files_are_named(change, message, tmp_path):
    gt, _ = random_set(0)
    change(gt)
    (tmp_path / 'gt.json').write_text(json.dumps(gt))
    with pytest.raises(UserError, match=f'gt.json.*{message}'):
        read_coco(tmp_path / 'gt.json')


OBJECT = (
    '<object><name>{}</name><difficult>{}</difficult><part><bndbox/></part><bndbox><xmin>{}</xmin>'
    '<ymin>{}</ymin><xmax>{}</xmax><ymax>{}</ymax></bndbox></object>'
)


@pytest.fixture
def voc(tmp_path):
    (tmp_path / 'Annotations').mkdir()
    (tmp_path / 'ImageSets' / 'Main').mkdir(parents=True)
    (tmp_path / 'ImageSets' / 'Main' / 'test.txt').write_text('000002\n000001\n')
    for name, objects in {
        '000001': [('dog', 0, 1, 1, 10, 10), ('cat', 1, 21, 1, 30, 10), ('dog', 0, 5, 5, 5, 9)],
        '000002': [],
    }.items():
        text = ''.join(OBJECT.format(*row) for row in objects)
        (tmp_path / 'Annotations' / f'{name}.xml').write_text(f'<annotation>{text}</annotation>')
    return tmp_path


def test_read_voc(voc):
    gt = read_voc(voc)
    assert gt.image_ids == ['000001', '000002']
    assert len(gt.classes) == 20  # all names are VOC's
    assert [gt.classes[label] for label in gt.labels] == ['dog', 'cat']
    assert gt.boxes.tolist() == [[0, 0, 10, 10], [20, 0, 30, 10]]
    assert gt.areas.tolist() == [100, 100]
    assert gt.difficult.tolist() == [False, True]
    assert gt.notes == ('left out 000001: dog [4.0, 4.0, 5.0, 9.0] has no area',)
    assert list(read_voc(voc, classes=['dog', 'cat']).labels) == [0, 1]


def test_classes_of_other_sets_are_the_sorted_names(voc):
    path = voc / 'Annotations' / '000002.xml'
    path.write_text(f'<annotation>{OBJECT.format("RBC", 0, 1, 1, 9, 9)}</annotation>')
    assert list(read_voc(voc).classes) == ['RBC', 'cat', 'dog']
    with pytest.raises(UserError, match="class 'RBC' is not one of dog, cat"):
        read_voc(voc, classes=['dog', 'cat'])


BOMB = '<!DOCTYPE a [<!ENTITY b "x">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('<annotation>', 'not a plain XML file'),
        (BOMB, 'not a plain XML file'),
        (f'<annotation>{OBJECT.format("dog", 0, "x", 1, 9, 9)}</annotation>', "object 1: .*'x'"),
        (f'<annotation>{OBJECT.format("dog", 0, "", 1, 9, 9)}</annotation>', 'object 1: bad'),
        (f'<annotation>{OBJECT.format("dog", 2, 1, 1, 9, 9)}</annotation>', "difficult '2'"),
    ],
)
def test_bad_voc_files_are_named(voc, content, message):
    (voc / 'Annotations' / '000002.xml').write_text(content)
    with pytest.raises(UserError, match=f'000002.xml: .*{message}'):
        read_voc(voc)


def test_absent_splits_and_annotations_are_named(voc):
    with pytest.raises(UserError, match=r'val\.txt: no such split; splits there: test'):
        read_voc(voc, 'val')
    (voc / 'Annotations' / '000001.xml').unlink()
    with pytest.raises(UserError, match=r'000001\.xml: cannot read the file'):
        read_voc(voc)


# The metric


def sample(image_id, gt, ignored, predicted):
    """A data sample as MMDetection's loops hand it over; rows: box, label (, score)."""
    import torch

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
    from bench.metric import DetectionMetric  # late: takes seconds
    from bench.mmdetection import METRICS

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


# The tool


def run_tool(*args):
    command = [sys.executable, str(EVALUATE), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_tool_prints_json_and_compares(voc, tmp_path):
    dt = [
        {'image_id': '000001', 'category_id': 12, 'bbox': [0, 0, 10, 10], 'score': 0.3},
        {'image_id': '000002', 'category_id': 12, 'bbox': [0, 0, 10, 10], 'score': 0.4},
    ]
    for name, entries in (('a.json', dt), ('b.json', dt[:1])):
        (tmp_path / name).write_text(json.dumps(entries))
    both = ('--gt', voc, '--dt', tmp_path / 'a.json', '--compare', tmp_path / 'b.json', '--bootstrap', 50)
    done = run_tool(*both, '--json')
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result['voc']['per_class']['dog']['ap50_area'] == result['voc']['ap50_area'] == 0.5
    assert result['comparisons']['voc/ap50_area']['difference']['estimate'] == 0.5
    assert done.stderr == 'note: left out 000001: dog [4.0, 4.0, 5.0, 9.0] has no area\n'
    table = run_tool(*both)
    assert table.returncode == 0
    assert '50.00' in table.stdout
    assert 'second won' in table.stdout


def test_tool_takes_the_order_of_the_classes(voc, tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps([GOOD | {'image_id': '000001', 'category_id': 2}]))
    path = voc / 'Annotations' / '000002.xml'
    path.write_text(f'<annotation>{OBJECT.format("RBC", 0, 1, 1, 9, 9)}</annotation>')
    by_name = run_tool('--gt', voc, '--dt', tmp_path / 'a.json', '--json')
    assert 'note: categories 1 to 3 are RBC, cat, dog; else use --classes\n' in by_name.stderr
    assert json.loads(by_name.stdout)['voc']['per_class']['dog']['ap50_area'] == 0
    given = run_tool('--gt', voc, '--dt', tmp_path / 'a.json', '--json', '--classes', 'cat', 'dog', 'RBC')
    assert json.loads(given.stdout)['voc']['per_class']['dog']['ap50_area'] == 1
    assert 'categories' not in given.stderr


def test_tool_ends_with_one_line_on_a_users_error(voc, tmp_path):
    done = run_tool('--gt', voc, '--dt', tmp_path / 'absent.json')
    assert done.returncode == 1
    assert done.stdout == ''
    assert done.stderr.splitlines()[-1].startswith('error: ')
    assert 'Traceback' not in done.stderr
    assert run_tool('--gt', voc).returncode == 2
    assert run_tool('--gt', voc, '--dt', 'x', '--bootstrap', '1').returncode == 2
