"""AP of weighted images, its intervals, and the comparison of two models."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compactdet.data.annotations import make_annotations, make_detections
from compactdet.evaluation.average_precision import (
    MetricSpec,
    average_precision,
    list_metrics,
    mean_over_classes,
)
from compactdet.evaluation.bootstrap import (
    Samples,
    bootstrap,
    compare,
    format_bootstrap,
    interval,
    resample,
)
from compactdet.evaluation.evaluate import evaluate, match

METRICS = list_metrics((0.5, 0.75))
NUM_IMAGES = 8


def random_set(seed, *, num_images=NUM_IMAGES, num_boxes=50, num_detections=160, blur=0.12):
    """Boxes of all sizes, some difficult or crowds; detections are jittered boxes of distinct scores.

    The same seed gives the same boxes, whatever the blur.
    """
    rng = np.random.default_rng(seed)
    image, labels = rng.integers(0, num_images, num_boxes), rng.integers(0, 2, num_boxes)
    low = rng.uniform(0, 200, (num_boxes, 2))
    sides = np.exp(rng.uniform(np.log(8), np.log(250), (num_boxes, 2)))
    flags = rng.random((2, num_boxes)) < 0.1
    gt = make_annotations(
        list(range(num_images)),
        ['dog', 'cat', 'absent'],
        image,
        labels,
        np.hstack([low, low + sides]),
        difficult=flags[0],
        crowd=flags[1],
    )
    source = rng.integers(0, num_boxes, num_detections)
    moved = gt.boxes[source] + blur * rng.normal(0, 1, (num_detections, 4)) * np.tile(sides[source], 2)
    moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
    dt = make_detections(image[source], labels[source], moved, rng.permutation(num_detections) / 1000)
    return gt, dt


def repeat_images(gt, dt, weights):
    """The data set with each image as often as its weight says, under new ids."""
    copies = np.repeat(np.arange(len(weights)), weights)

    def rows(image_index):
        found = [np.flatnonzero(image_index == image) for image in copies]
        new = np.repeat(np.arange(len(copies)), [len(row) for row in found])
        return np.concatenate([np.zeros(0, int), *found]), new

    row, image = rows(gt.image_index)
    columns = ('labels', 'boxes', 'sizes', 'areas', 'difficult', 'crowd')
    many = replace(
        gt,
        image_ids=list(range(len(copies))),
        image_index=image,
        **{name: getattr(gt, name)[row] for name in columns},
    )
    row, image = rows(dt.image_index)
    columns = ('labels', 'boxes', 'sizes', 'scores')
    return many, replace(dt, image_index=image, **{name: getattr(dt, name)[row] for name in columns})


def check_weights(seed, weights):
    gt, dt = random_set(seed)
    weighted = average_precision(match(gt, dt, (0.5, 0.75)), METRICS, np.array(weights))
    result = evaluate(*repeat_images(gt, dt, weights), (0.5, 0.75))
    for name, values in weighted.items():
        rule, metric = name.split('/')
        for label, value in zip(gt.classes, values, strict=True):
            expected = result[rule]['per_class'][label][metric]
            assert np.isnan(value) if expected is None else value == pytest.approx(expected, abs=1e-12)


weights_of_images = st.lists(st.integers(0, 3), min_size=NUM_IMAGES, max_size=NUM_IMAGES)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 5), weights=weights_of_images)
def test_weighted_images_equal_a_set_with_repeated_images(seed, weights):
    check_weights(seed, weights)


@pytest.mark.parametrize('seed', range(3))
def test_unit_weights_give_the_evaluators_figures(seed):
    check_weights(seed, [1] * NUM_IMAGES)


def test_each_iou_has_its_own_figure():
    gt, dt = random_set(0)
    tables = match(gt, dt)
    each = {f'coco/ap{50 + 5 * t}': MetricSpec('all', 101, slice(t, t + 1)) for t in range(10)}
    values = average_precision(tables, each)
    whole = average_precision(tables, {'coco/ap': MetricSpec('all', 101, slice(None))})['coco/ap']
    np.testing.assert_allclose(np.mean(list(values.values()), axis=0), whole, atol=1e-12)
    assert values['coco/ap50'][0] > values['coco/ap80'][0]


def test_resamples_depend_on_seed_alone():
    gt, dt = random_set(0)
    tables = match(gt, dt)
    first = resample(tables, list_metrics(), 5, seed=1)
    again, other = resample(tables, list_metrics(), 5, seed=1), resample(tables, list_metrics(), 5, seed=2)
    assert first['coco/ap'].shape == (5, 3)
    np.testing.assert_array_equal(first['coco/ap'], again['coco/ap'])
    assert not np.array_equal(first['coco/ap'], other['coco/ap'])
    assert np.isnan(first['coco/ap'][:, 2]).all()  # no box of the third class


def test_resampling_one_image_gives_the_estimate_itself():
    gt, dt = random_set(0, num_images=1)
    for sample in bootstrap(match(gt, dt), list_metrics(), 3).values():
        np.testing.assert_allclose(sample.values, sample.estimate, atol=1e-12)


def test_figures_without_ground_truth_are_left_out():
    gt = make_annotations([0, 1], ['thing'], [0], [0], [[0, 0, 10, 10]])  # small
    dt = make_detections([0], [0], [[0, 0, 10, 10]], [0.5])
    samples = bootstrap(match(gt, dt), list_metrics(), 20)
    assert 'coco/ap_small' in samples
    assert 'coco/ap_large' not in samples
    assert np.isnan(samples['coco/ap'].values).any()  # the image with the box was not drawn
    own = interval(samples['coco/ap'])
    assert (own.low, own.high) == (1, 1)


def test_mean_over_classes_leaves_out_nan():
    values = np.array([[0.2, np.nan, 0.4], [np.nan] * 3])
    np.testing.assert_allclose(mean_over_classes(values), [0.3, np.nan])


def test_the_interval_is_freed_of_bias():
    values = np.arange(101) / 100 + 5  # mean 5.5, quantiles 5.025 and 5.975
    own = interval(Samples(1.0, values))
    assert own.bias == pytest.approx(4.5)
    assert (own.low, own.high) == (pytest.approx(0.525), pytest.approx(1.475))
    assert own.standard_error == pytest.approx(np.sqrt(((values - 5.5) ** 2).sum() / 100))


def test_ap_on_resamples_is_biased_upward_and_the_interval_is_not():
    gt, dt = random_set(0, num_images=60, num_boxes=300, num_detections=2000, blur=0.2)
    own = interval(bootstrap(match(gt, dt), list_metrics(), 200)['coco/ap'])
    assert own.bias > 0.5 * own.standard_error
    assert own.low < own.estimate < own.high
    assert own.high - own.estimate == pytest.approx(own.estimate - own.low, rel=0.3)


def test_a_model_equals_itself():
    gt, dt = random_set(0)
    sample = bootstrap(match(gt, dt), list_metrics(), 50)['voc/ap50_area']
    same = compare(sample, sample)
    assert (same.difference.low, same.difference.high, same.won, same.p_value) == (0, 0, 0.5, 1)


def test_a_better_model_wins_and_signs_follow_the_order():
    gt, sharp = random_set(0, num_images=60, num_boxes=300, num_detections=900, blur=0.05)
    same_gt, blurred = random_set(0, num_images=60, num_boxes=300, num_detections=900, blur=0.25)
    np.testing.assert_array_equal(gt.boxes, same_gt.boxes)
    good, bad = (bootstrap(match(gt, dt), list_metrics(), 99) for dt in (sharp, blurred))
    better = compare(bad['coco/ap'], good['coco/ap'])
    assert better.won == 1
    assert better.difference.low > 0
    assert better.p_value == pytest.approx(2 / 100)  # as small as 99 resamples can show
    worse = compare(good['coco/ap'], bad['coco/ap'])
    assert worse.difference.estimate == -better.difference.estimate
    assert worse.won == 0
    assert worse.p_value == better.p_value
    text = format_bootstrap({'coco/ap': interval(bad['coco/ap'])}, {'coco/ap': better})
    assert f'{100 * better.difference.estimate:+.2f}' in text


def test_comparison_worked_by_hand():
    first, second = Samples(0.5, np.zeros(4)), Samples(0.6, np.array([0.3, -0.1, 0.2, 0.0]))
    result = compare(first, second)  # differences 0.3 -0.1 0.2 0.0, mean 0.1: no bias
    assert result.difference.bias == pytest.approx(0)
    assert result.won == 0.625  # two wins and half a draw
    assert result.p_value == 1  # 2 * (2 + 1) / 5 is more than 1


@pytest.mark.slow
def test_the_interval_covers_the_mean_ap_of_test_sets():
    """95 % intervals over 100 test sets drawn from 3,000 images: see `interval`."""
    gt, dt = random_set(0, num_images=3000, num_boxes=9000, num_detections=50000, blur=0.2)
    tables = match(gt, dt)
    metric = {'coco/ap': METRICS['coco/ap']}
    rng = np.random.default_rng(0)

    def ap(images):
        weights = np.bincount(images, minlength=3000)
        return float(mean_over_classes(average_precision(tables, metric, weights)['coco/ap']))

    truth = np.mean([ap(rng.choice(3000, 200, replace=False)) for _ in range(200)])
    covered = 0
    for _ in range(100):
        images = rng.choice(3000, 200, replace=False)
        values = np.array([ap(rng.choice(images, 200)) for _ in range(100)])
        own = interval(Samples(ap(images), values))
        covered += own.low <= truth <= own.high
    assert 88 <= covered <= 100
