"""The evaluator against pycocotools, MMDetection's eval_map and cases worked by hand."""

import json
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compactdet.data.annotations import make_annotations, make_detections
from compactdet.evaluation import matching
from compactdet.evaluation.evaluate import evaluate, format_table

from evaluation_sets import NAMES, dataset, judge, ours, random_set, through_files

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
    # 3e-16 short of IoU 0.75; with either box's sides taken as (x + width) - x it would reach it.
    boxes, detections = [([13.68, 19.99, 19.48, 27.11], 528)], [([13.68, 19.99, 14.61, 27.11], 0.9)]
    assert compare_by_hand(boxes, detections, tmp_path)['ap'] == pytest.approx(0.5)


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
def test_equals_eval_map(seed, mode, monkeypatch):
    from compactdet.mmdetection import mmdet  # late: takes seconds

    # A new process for every class of every call is most of the time.
    monkeypatch.setattr('mmdet.evaluation.functional.mean_ap.Pool', ThreadPool)
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
