"""The batched heads against MMDetection's, image by image."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmcv.ops import batched_nms
from mmdet.models.task_modules.assigners import MaxIoUAssigner
from mmdet.models.task_modules.samplers import RandomSampler
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor

from compactdet.heads import with_batched_heads
from compactdet.heads.assignment import assign
from compactdet.heads.ground_truth import GroundTruth, pack
from compactdet.heads.nms import batch_nms
from compactdet.heads.sampling import sample
from compactdet.mmdetection import MODELS

from detector_leaf import batch, detector_config

RULES = {
    'rpn': dict(
        pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3, match_low_quality=True, ignore_iof_thr=-1
    ),
    'rpn, ignored': dict(pos_iou_thr=0.7, neg_iou_thr=0.3, min_pos_iou=0.3, ignore_iof_thr=0.5),
    'rcnn': dict(pos_iou_thr=0.5, neg_iou_thr=0.5, min_pos_iou=0.5, match_low_quality=False),
    'retina': dict(pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0.0, ignore_iof_thr=-1),
    'between': dict(pos_iou_thr=0.5, neg_iou_thr=(0.1, 0.5), min_pos_iou=0.5, match_low_quality=False),
}

# Corners and sizes on a coarse grid: many equal overlaps.
BOX = st.tuples(*[st.integers(0, 6)] * 2, *[st.integers(1, 4)] * 2)
IMAGE = st.tuples(st.lists(BOX, max_size=7), st.lists(BOX, max_size=3))


def boxes_of(rows: list[tuple[int, int, int, int]]) -> Tensor:
    return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in rows], dtype=torch.float32).reshape(-1, 4)


def samples_of(images: list[tuple[list, list]]) -> list[DetDataSample]:
    samples = []
    for objects, ignored in images:
        size = dict(img_shape=(16, 16), pad_shape=(16, 16), batch_input_shape=(16, 16))
        sample = DetDataSample(metainfo=size)
        labels = torch.arange(len(objects)) % 5
        sample.gt_instances = InstanceData(bboxes=boxes_of(objects), labels=labels)
        sample.ignored_instances = InstanceData(bboxes=boxes_of(ignored))
        samples.append(sample)
    return samples


@settings(max_examples=150, deadline=None)
@given(
    images=st.lists(IMAGE, min_size=1, max_size=3),
    priors=st.lists(BOX, min_size=1, max_size=20),
    unusable=st.sets(st.integers(0, 19)),
    rule=st.sampled_from(sorted(RULES)),
)
def test_the_assignment_is_that_of_mmdetection(
    images: list, priors: list, unusable: set[int], rule: str
) -> None:
    samples, boxes = samples_of(images), boxes_of(priors)
    usable = torch.tensor([number not in unusable for number in range(len(priors))])
    truth = pack(samples, 'cpu')
    found = assign(boxes[None], usable.expand(len(samples), -1), truth, RULES[rule])
    assigner = MaxIoUAssigner(**RULES[rule])
    for row, one in zip(found, samples, strict=True):
        result = assigner.assign(
            InstanceData(priors=boxes[usable]), one.gt_instances, one.ignored_instances
        )
        assert row[usable].tolist() == result.gt_inds.tolist()
        assert (row[~usable] == -1).all()


@pytest.mark.parametrize('limit', [-1, 2])
@pytest.mark.parametrize(('positives', 'negatives'), [(0, 30), (3, 30), (20, 30), (20, 4), (1, 0), (0, 0)])
def test_the_sample_has_the_sizes_of_mmdetection(positives: int, negatives: int, limit: int) -> None:
    rule = dict(num=16, pos_fraction=0.25, neg_pos_ub=limit)
    assigned = torch.tensor([1] * positives + [0] * negatives + [-1] * 10)[
        torch.randperm(positives + negatives + 10)
    ]
    chosen = sample(assigned.expand(3, -1), rule)
    boxes = torch.rand(len(assigned), 4)
    objects = InstanceData(bboxes=torch.rand(1, 4), labels=torch.zeros(1, dtype=torch.long))
    result = MaxIoUAssigner(0.5, 0.5).assign(InstanceData(priors=boxes), objects)
    result.gt_inds, result.labels = assigned.clone(), torch.zeros_like(assigned)
    expected = RandomSampler(**rule, add_gt_as_proposals=False).sample(
        result, InstanceData(priors=boxes), objects
    )
    for row in range(3):
        indices, positive = chosen.indices[row], chosen.positive[row]
        valid = chosen.valid[row]
        assert (assigned[indices[positive]] == 1).all()
        assert (assigned[indices[valid & ~positive]] == 0).all()
        assert len(set(indices[valid].tolist())) == valid.sum()
        assert positive.sum() == len(expected.pos_inds)
        assert (valid & ~positive).sum() == len(expected.neg_inds)


def test_every_box_is_sampled_equally_often() -> None:
    """Counts of 4,000 samples against the binomial distribution: |z| above 4.5 has p < 1e-5 a box."""
    torch.manual_seed(0)
    assigned = torch.tensor([1] * 10 + [0] * 40).expand(4000, -1)
    chosen = sample(assigned, dict(num=16, pos_fraction=0.25, neg_pos_ub=-1))
    counts = torch.bincount(chosen.indices.flatten(), minlength=50).double()
    for part, share in ((counts[:10], 4 / 10), (counts[10:], 12 / 40)):
        deviation = (part - 4000 * share).abs() / (4000 * share * (1 - share)) ** 0.5
        assert deviation.max() < 4.5


@pytest.mark.parametrize('levels', [1, 3])
def test_nms_keeps_what_mmcv_keeps(levels: int) -> None:
    generator = torch.Generator().manual_seed(levels)
    corner = torch.rand(3, 400, 2, generator=generator) * 90
    boxes = torch.cat([corner, corner + 2 + torch.rand(3, 400, 2, generator=generator) * 50], 2)
    scores = torch.rand(3, 400, generator=generator).sort(dim=1, descending=True).values
    level = torch.randint(levels, (400,), generator=generator)
    valid = torch.rand(3, 400, generator=generator) < 0.9
    kept = batch_nms(boxes, level, valid, 0.5, 40)
    for image in range(3):
        places = valid[image].nonzero().squeeze(1)
        rule = dict(type='nms', iou_threshold=0.5)
        _, expected = batched_nms(boxes[image, places], scores[image, places], level[places], rule)
        assert kept.indices[image, kept.valid[image]].tolist() == places[expected[:40]].tolist()


def small_detector(folder: Path, detector: str) -> Any:
    init_default_scope('mmdet')
    wiring = f"{detector}('menet_108_8x1_g3', num_classes=8, init=None)"
    model = detector_config(folder, f'{detector}_shapes', wiring).model
    if detector != 'retinanet_fpn':  # every box is sampled, so that both sample the same
        for part in ('rpn', 'rcnn'):
            model['train_cfg'][part]['sampler'].update(num=5000, pos_fraction=1.0)
    return model


@pytest.mark.parametrize('detector', ['frcnn_c4', 'frcnn_fpn', 'retinanet_fpn'])
def test_losses_and_gradients_are_those_of_mmdetection(tmp_path: Path, detector: str) -> None:
    config = small_detector(tmp_path, detector)
    stock = MODELS.build(copy.deepcopy(config)).double().eval()  # BN sees repeated RoIs: not compared here
    ours = MODELS.build(with_batched_heads(config)).double().eval()
    ours.load_state_dict(stock.state_dict())
    found = []
    for model in (stock, ours):
        data = model.data_preprocessor(batch(8), True)
        for one in data['data_samples']:
            one.gt_instances.bboxes = one.gt_instances.bboxes.double()
        if model is ours:
            data['data_samples'].ground_truth = pack(data['data_samples'], 'cpu')
        losses = model(data['inputs'].double(), data['data_samples'], mode='loss')
        total, values = model.parse_losses(losses)
        total.backward()
        found.append({name: float(value.detach()) for name, value in values.items() if name != 'acc'})
    assert found[1] == pytest.approx(found[0], rel=1e-6)
    for (name, one), (_, other) in zip(stock.named_parameters(), ours.named_parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(other.grad, one.grad, rtol=1e-5, atol=1e-8, msg=name)


def test_another_head_is_left_as_it_is(tmp_path: Path) -> None:
    model = small_detector(tmp_path, 'frcnn_c4')
    model['train_cfg']['rcnn']['sampler']['type'] = 'OHEMSampler'
    assert with_batched_heads(model) is model
    model = small_detector(tmp_path, 'frcnn_c4')
    model['roi_head']['bbox_roi_extractor']['roi_layer'] = dict(type='RoIPool', output_size=7)
    assert with_batched_heads(model) is model


def test_ground_truth_is_padded() -> None:
    truth: GroundTruth = pack(samples_of([([(1, 2, 3, 4)], []), ([], [(0, 0, 1, 1), (2, 2, 1, 1)])]), 'cpu')
    assert truth.boxes.tolist() == [[[1, 2, 4, 6]], [[0, 0, 0, 0]]]
    assert truth.valid.tolist() == [[True], [False]]
    assert truth.ignored.shape == (2, 2, 4)
    assert truth.ignored_valid.tolist() == [[False, False], [True, True]]
    assert truth.same_size
