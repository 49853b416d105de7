"""Error types and what they cost, worked by hand and held against the evaluator and pycocotools."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from compactdet.analysis.error_types import (
    ERRORS,
    FALSE,
    SPECIAL,
    analyze,
    confusions,
    corrected_ap,
    find_operating_point,
    interpolate,
    judge,
)
from compactdet.analysis.examples import choose_errors, choose_images, find_scene
from compactdet.data.annotations import make_annotations, make_detections
from compactdet.evaluation.average_precision import mean_over_classes, metrics_per_class
from compactdet.evaluation.evaluate import match

from evaluation_sets import DifficultCOCOeval, random_set, through_files

A1, A2, B1, FAR = (0, 0, 10, 10), (50, 0, 60, 10), (0, 50, 10, 60), (90, 90, 99, 99)
NEAR_A1, NEAR_A2 = (0, 0, 10, 4), (50, 0, 60, 4)  # IoU 0.4
HALF = 50 / 101  # of the recalls 0, 0.01, ... 1 lie above 0.5


def make(boxes, detections, difficult=(), crowd=(), classes='ab', num_images=1):
    """Annotations of (class, box[, image]) and detections of (class, box, score[, image])."""
    image = [row[2] if len(row) > 2 else 0 for row in boxes]
    gt = make_annotations(
        list(range(num_images)),
        list(classes),
        image,
        [classes.index(row[0]) for row in boxes],
        [row[1] for row in boxes],
        difficult=[i in difficult for i in range(len(boxes))],
        crowd=[i in crowd for i in range(len(boxes))],
    )
    image = [row[3] if len(row) > 3 else 0 for row in detections]
    columns = ([classes.index(row[0]) for row in detections], [row[1] for row in detections])
    return gt, make_detections(image, *columns, [row[2] for row in detections])


TWO_A = [('a', A1), ('a', A2)]
ONE_ERROR = {
    'cls': (TWO_A, [('a', A1, 0.9), ('b', A2, 0.8)], {'cls': HALF, 'fn': HALF}),
    # Taken off the boxes, A2 leaves the true positive before the false one: AP is 1.
    'loc': (TWO_A, [('a', A1, 0.9), ('a', NEAR_A2, 0.8)], {'loc': HALF, 'fn': HALF}),
    # Of two classes one loses half; B1 is found behind it.
    'both': (
        [('a', A1), ('b', B1)],
        [('a', A1, 0.9), ('b', NEAR_A1, 0.8), ('b', B1, 0.7)],
        {'both': 0.25, 'fp': 0.25},
    ),
    # Precision is 2/3 from recall 0.5 on.
    'dup': (
        TWO_A,
        [('a', A1, 0.9), ('a', A1, 0.8), ('a', A2, 0.7)],
        {'dup': HALF / 3, 'fp': HALF / 3},
    ),
    'bkg': (
        TWO_A,
        [('a', A1, 0.9), ('a', FAR, 0.8), ('a', A2, 0.7)],
        {'bkg': HALF / 3, 'fp': HALF / 3},
    ),
    'miss': (TWO_A, [('a', A1, 0.9)], {'miss': HALF, 'fn': HALF}),
}


@pytest.mark.parametrize('name', ERRORS)
def test_one_error_of_each_type_costs_what_it_must(name):
    boxes, detections, expected = ONE_ERROR[name]
    gt, dt = make(boxes, detections)
    analysis = analyze(gt, dt)
    wrong = [kind for kind in analysis.verdicts.kind if kind != 'right']
    assert wrong == ([] if name == 'miss' else [name])
    assert analysis.verdicts.missed.sum() == (name == 'miss')
    gains = {key: mean_over_classes(values) for key, values in analysis.gains.items()}
    assert gains == pytest.approx(dict.fromkeys((*ERRORS, *SPECIAL), 0) | expected)


def test_of_two_on_one_box_the_lower_scored_is_taken_away():
    rows = [('a', NEAR_A1, 0.9), ('a', FAR, 0.8), ('a', A1, 0.7)]
    gt, dt = make([('a', A1)], rows)
    verdicts = judge(gt, dt)
    assert verdicts.kind.tolist() == ['loc', 'bkg', 'right']
    assert corrected_ap(gt, dt, verdicts, ())[0] == pytest.approx(1 / 3)
    assert corrected_ap(gt, dt, verdicts, ('loc',))[0] == 1  # the 0.9 has the box, the 0.7 is gone
    gt, dt = make([('a', A1)], [('a', A1, 0.9), ('a', NEAR_A1, 0.8)])
    assert analyze(gt, dt).gains['loc'][0] == 0


def test_types_are_put_right_each_for_itself():
    gt, dt = make([('a', A1)], [('a', NEAR_A1, 0.9), ('b', A1, 0.8)])
    verdicts = judge(gt, dt)
    assert verdicts.kind.tolist() == ['loc', 'cls']
    assert not verdicts.missed.any()
    assert corrected_ap(gt, dt, verdicts, ('loc',))[0] == 1
    assert corrected_ap(gt, dt, verdicts, ('cls',))[0] == 0.5  # behind the loc error, which is still there
    assert corrected_ap(gt, dt, verdicts, ('cls', 'loc'))[0] == 1


def test_a_class_without_a_box_left_has_ap_1_unless_it_is_still_detected():
    gt, dt = make([('a', A1)], [])
    assert analyze(gt, dt).gains['miss'][0] == 1
    gt, dt = make([('a', A1)], [('a', FAR, 0.9)])
    verdicts = judge(gt, dt)
    assert corrected_ap(gt, dt, verdicts, ('miss',))[0] == 0
    assert corrected_ap(gt, dt, verdicts, ('miss', 'bkg'))[0] == 1


@pytest.mark.parametrize(
    ('boxes', 'detection', 'kind', 'box', 'iou'),
    [
        ([('a', (0, 0, 10, 10)), ('a', A2)], ('a', (0, 0, 10, 1)), 'loc', 0, 0.1),  # on t_b
        ([('a', (0, 0, 10, 10)), ('a', A2)], ('a', (0, 0, 10, 0.9)), 'bkg', -1, 0),
        ([('b', (0, 0, 10, 10)), ('a', A2)], ('a', (0, 0, 10, 5)), 'cls', 0, 0.5),  # on t_f
        ([('b', (0, 0, 10, 10)), ('a', A2)], ('a', (0, 0, 10, 4.9)), 'both', 0, 0.49),
        # Several fit.
        ([('b', (0, 0, 10, 10)), ('a', (0, 0, 10, 4))], ('a', (0, 0, 10, 10)), 'loc', 1, 0.4),
        ([('b', (0, 0, 10, 4)), ('a', (0, 0, 4, 10))], ('a', (0, 0, 10, 10)), 'loc', 1, 0.4),
        # Of several boxes the nearest counts.
        ([('a', (0, 0, 10, 2)), ('a', (0, 0, 10, 4))], ('a', (0, 0, 10, 10)), 'loc', 1, 0.4),
    ],
)
def test_the_type_follows_from_the_highest_iou(boxes, detection, kind, box, iou):
    gt, dt = make(boxes, [(*detection, 0.9)])
    verdicts = judge(gt, dt)
    assert (verdicts.kind[0], verdicts.box[0]) == (kind, box)
    assert verdicts.iou[0] == pytest.approx(iou)


def test_a_duplicate_is_a_box_taken_by_a_higher_score():
    gt, dt = make([('a', A1)], [('a', A1, 0.8), ('a', (0, 0, 10, 5), 0.9), ('a', (0, 0, 10, 5), 0.7)])
    verdicts = judge(gt, dt)
    assert verdicts.kind.tolist() == ['dup', 'right', 'dup']  # the better box comes too late
    assert verdicts.taker.tolist() == [1]
    assert verdicts.iou.tolist() == [1, 0.5, 0.5]  # on t_f it is no loc error
    gt, dt = make([('a', A1), ('b', A1)], [('a', A1, 0.9), ('a', A1, 0.8)])
    assert judge(gt, dt).kind.tolist() == ['right', 'cls']  # both fit


def test_ignored_boxes_excuse_and_are_no_box_for_any_error():
    rows = [('a', A1, 0.9), ('a', A1, 0.8), ('b', A1, 0.7), ('a', NEAR_A1, 0.6)]
    gt, dt = make([('a', A1), ('a', A2)], rows, difficult={0})
    verdicts = judge(gt, dt)
    assert verdicts.kind.tolist() == ['ignored', 'bkg', 'bkg', 'bkg']  # it excuses one
    assert verdicts.missed.tolist() == [False, True]
    crowd, dt = make([('a', A1), ('a', A2)], rows, crowd={0})
    verdicts = judge(crowd, dt)
    assert verdicts.kind.tolist() == ['ignored', 'ignored', 'bkg', 'ignored']  # of its area, any number
    assert verdicts.missed.tolist() == [False, True]


def test_the_101st_detection_of_an_image_and_class_takes_no_part():
    rows = [('a', FAR, 0.9)] * 100 + [('a', A1, 0.5), ('b', A1, 0.5)]
    gt, dt = make([('a', A1), ('b', A1)], rows)
    kind = judge(gt, dt).kind
    assert set(kind[:100]) == {'bkg'}
    assert kind[100:].tolist() == ['beyond', 'right']


@given(
    seed=st.integers(0, 10**6),
    ties=st.booleans(),
    crowd=st.sampled_from([0, 0.2]),
    sizes=st.tuples(st.integers(1, 6), st.integers(0, 40), st.integers(0, 120), st.integers(1, 4)),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_properties(seed, ties, crowd, sizes, tmp_path):
    num_images, num_boxes, num_detections, num_classes = sizes
    gt, dt = random_set(
        seed,
        num_images=num_images,
        num_boxes=max(1, num_boxes),
        num_detections=num_detections,
        num_classes=num_classes,
        ties=ties,
        crowd=crowd,
    )
    check_properties(gt, dt, tmp_path)


def check_properties(gt_file, dt_file, folder: Path):
    gt, dt = through_files(gt_file, dt_file, folder)
    rng = np.random.default_rng(0)
    gt = replace(gt, difficult=(rng.random(len(gt.boxes)) < 0.1) & ~gt.crowd)
    analysis = analyze(gt, dt)
    verdicts = analysis.verdicts
    tables = match(gt, dt, (0.5, 0.75))
    figures = metrics_per_class(tables, (0.5, 0.75))
    known = ~np.isnan(figures['coco/ap50'])

    # AP50 is the evaluator's, and the curves' means are AP.
    np.testing.assert_array_equal(analysis.ap50, figures['coco/ap50'])
    for i, iou in enumerate((50, 75)):
        mean = analysis.curves['coco'][:, i].mean(axis=-1)
        np.testing.assert_allclose(mean, figures[f'coco/ap{iou}'], atol=1e-12)
        mean = interpolate(tables['voc'], 11)[:, i].mean(axis=-1)
        np.testing.assert_allclose(mean, figures[f'voc/ap{iou}_11point'], atol=1e-12)

    # Every false positive, as pycocotools counts them, has one type.
    right, wrong = count_with_pycocotools(gt_file, dt_file, gt.difficult)
    assert (verdicts.kind == 'right').sum() == right
    assert np.isin(verdicts.kind, FALSE).sum() == wrong
    assert (verdicts.wanted & (verdicts.taker >= 0)).sum() == right
    assert set(verdicts.kind) <= {'right', 'ignored', 'beyond', *FALSE}
    covered = np.isin(np.arange(len(gt.boxes)), verdicts.box[np.isin(verdicts.kind, ('cls', 'loc'))])
    assert (verdicts.missed == (verdicts.wanted & (verdicts.taker < 0) & ~covered)).all()
    for name in ('loc', 'dup', 'right'):
        rows = verdicts.kind == name
        assert (gt.labels[verdicts.box[rows]] == dt.labels[rows]).all()
    for name in ('cls', 'both'):
        rows = verdicts.kind == name
        assert (gt.labels[verdicts.box[rows]] != dt.labels[rows]).all()
    dup = verdicts.kind == 'dup'
    assert (dt.scores[verdicts.taker[verdicts.box[dup]]] >= dt.scores[dup]).all()

    # All types together account for all that is missing, and no correction does harm.
    for types in (ERRORS, SPECIAL):
        np.testing.assert_allclose(corrected_ap(gt, dt, verdicts, types)[known], 1, atol=1e-12)
    for values in analysis.gains.values():
        assert (values[known] >= -1e-12).all()
        assert np.isnan(values[~known]).all()
    assert analysis.point == find_operating_point(dt, verdicts)
    assert analysis.point.right + analysis.point.not_found == verdicts.wanted.sum()


def count_with_pycocotools(gt_file, dt_file, difficult):
    """True and false positives at IoU 0.5."""
    for annotation, flag in zip(gt_file['annotations'], difficult.tolist(), strict=True):
        annotation['difficult'] = int(flag)
    if not dt_file:
        return 0, 0
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = gt_file
        coco.createIndex()
        judged = DifficultCOCOeval(coco, coco.loadRes(dt_file), 'bbox')
        judged.params.iouThrs = np.array([0.5])
        judged.params.areaRng, judged.params.areaRngLbl = [[0, 1e10]], ['all']
        judged.evaluate()
    images = [image for image in judged.evalImgs if image is not None]
    counts = [~image['dtIgnore'][0] for image in images]
    found = [image['dtMatches'][0] > 0 for image in images]
    right = sum(int((f & c).sum()) for f, c in zip(found, counts, strict=True))
    return right, sum(int((~f & c).sum()) for f, c in zip(found, counts, strict=True))


def test_the_order_of_the_files_does_not_matter(tmp_path):
    gt_file, dt_file = random_set(3)
    gt, dt = through_files(gt_file, dt_file, tmp_path)
    turned = through_files(gt_file, dt_file[::-1], tmp_path)[1]
    one, other = analyze(gt, dt), analyze(gt, turned)
    assert one.verdicts.kind.tolist() == other.verdicts.kind.tolist()[::-1]
    for name, values in one.gains.items():
        np.testing.assert_array_equal(values, other.gains[name])


def test_operating_point():
    rows = [('a', A1, 0.9), ('a', FAR, 0.8), ('a', A2, 0.7), ('a', FAR, 0.6)]
    gt, dt = make([*TWO_A, ('b', B1)], rows)
    point = find_operating_point(dt, judge(gt, dt))
    assert (point.score, point.right, point.wrong, point.not_found) == (0.7, 2, 1, 1)
    assert (point.precision, point.recall) == (2 / 3, 2 / 3)
    assert point.f1 == pytest.approx(2 / 3)
    gt, dt = make(TWO_A, [('a', A1, 0.9), ('a', FAR, 0.9)])  # equal scores are not parted
    assert find_operating_point(dt, judge(gt, dt)).wrong == 1
    gt, dt = make(TWO_A, [])
    assert find_operating_point(dt, judge(gt, dt)).not_found == 2


def test_confusions():
    rows = [('b', A1, 0.9), ('b', A2, 0.3), ('a', B1, 0.8)]
    gt, dt = make([*TWO_A, ('b', B1), ('b', FAR)], [*rows, ('c', FAR, 0.1)], classes='abc')
    assert confusions(gt, dt, judge(gt, dt), 0.5) == [('b', 'a', 2, 1), ('a', 'b', 1, 1), ('c', 'b', 1, 0)]


def test_examples_are_the_worst_and_one_an_image():
    boxes = [('a', A1, 0), ('a', (0, 0, 30, 30), 1), ('a', (0, 0, 20, 20), 2), ('a', A2, 2), ('a', A1, 3)]
    rows = [('a', FAR, 0.5, 0), ('a', FAR, 0.9, 1), ('a', (60, 60, 70, 70), 0.8, 1), ('a', A1, 0.9, 3)]
    gt, dt = make(boxes, rows, num_images=5)
    verdicts = judge(gt, dt)
    files = {i: Path(f'{i}.jpg') for i in range(5)}
    chosen = choose_errors(gt, dt, verdicts, files)
    assert chosen == {'bkg': [1, 0], 'miss': [1, 2, 0]}  # highest scored; largest
    assert choose_images(gt, dt, verdicts, 0.5, files) == [1, 0, 2]  # 3, 2 and 2 errors; 3 and 4 have none
    assert choose_images(gt, dt, verdicts, 0.85, files) == [1, 2, 0]
    del files[1]
    assert choose_errors(gt, dt, verdicts, files) == {'bkg': [0], 'miss': [2, 0]}
    assert choose_images(gt, dt, verdicts, 0.5, files) == [0, 2]
    assert choose_errors(gt, dt, verdicts, {}) == {}


def test_a_scene_shows_what_holds_at_its_score():
    rows = [('a', A1, 0.9), ('a', A2, 0.3), ('b', FAR, 0.8), ('b', FAR, 0.2)]
    gt, dt = make([*TWO_A, ('b', B1)], rows, difficult={2})
    scene = find_scene(gt, dt, judge(gt, dt), 0, 0.5)
    assert [x.tolist() for x in (scene.right, scene.wrong, scene.missed, scene.ignored)] == [
        [0],
        [2],
        [1],
        [2],
    ]
