"""Protocols: their summary, the differences between two, and the choice of the learning rate."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compactdet.config.choice import DetectorChoice
from compactdet.config.compose import compose_config
from compactdet.config.options import TrainOptions, config_from_options, set_learning_rate
from compactdet.errors import UserError
from compactdet.records import record_file
from compactdet.records.protocol import protocol_of
from compactdet.records.protocol_diff import DESCRIPTIONS, describe_place, find_differences, read_protocol
from compactdet.records.protocol_summary import ProtocolSummary, summarize

TEMPLATE = Path(__file__).parents[2] / 'work_dirs_template'
RECORDS = sorted(TEMPLATE.glob('*/record.json'))
LEAF = str(Path(__file__).parents[2] / 'det_configs' / 'menet_frcnn_voc.py')
BCCD = TEMPLATE / 'bccd_imagenet_seed0'
SPLITS = {name: {'annotations_sha256': letter * 64} for name, letter in (('train', 'a'), ('test', 'b'))}


@pytest.fixture(scope='module')
def voc() -> Callable[..., dict[str, Any]]:
    """Return a function that makes the protocol of a VOC run from command-line options."""

    def make(detector: str = 'frcnn_c4', schedule: str | None = None, **options: Any) -> dict[str, Any]:
        choice = DetectorChoice('shufflenetv2_1x', detector, 'voc07', schedule)
        cfg = config_from_options(TrainOptions(choice, init='none', **options))
        return json.loads(json.dumps(protocol_of(cfg, SPLITS, 'none')))

    return make


# Summary


def test_the_summary_of_a_published_run_by_hand() -> None:
    summary = summarize(record_file.read(BCCD / 'record.json')['protocol'])
    assert vars(summary) == {
        'splits': 'test (annotations 9b3c6d8c28af), train (annotations 04d32e9fe53f), '
        'val (annotations a20131ba971d)',
        'training_boxes': 'images without objects are excluded; boxes without area of 2 named images are '
        'dropped',
        'difficult': 'difficult and crowd: background',
        'coordinates': 'continuous x1 y1 x2 y2 in pixels from the top left corner; VOC: xmin-1 ymin-1 xmax '
        'ymax',
        'resize': 'shorter side 480, longer at most 640 pixels',
        'flips': 'horizontal 0.25, vertical 0.25, diagonal 0.25',
        'anchors': 'ratios=[0.5, 1, 2], scales=[2.5, 6, 12], strides=[16]',
        'proposals': 'training 300 of the best 1000, test 100 of the best 1000',
        'sampling': '256 anchors per image, at most 0.5 of them positive, '
        '48 RoIs per image, at most 0.25 of '
        'them positive',
        'nms': 'nms at IoU 0.3; proposals nms at IoU 0.7',
        'score_threshold': '0.05',
        'max_detections': '100 per image',
        'bn_policy': 'train; nothing else frozen',
        'schedule': '6 epochs, warm-up of 50 steps from 0.1, cosine over 6 epochs',
        'batch': '4 images per step, over all processes',
        'learning_rate': '0.001, the same for every network',
        'optimizer': 'AdamW weight_decay=0.05 clip_grad={"max_norm": 10, "norm_type": 2}',
        'initialization': 'ImageNet (ILSVRC 2012) weights',
        'evaluator': 'DetectionMetric of bench 1',
        'tested': 'the checkpoint that is best on val by voc/ap50_11point',
        'hooks': 'ParamSchedulerHook, DistSamplerSeedHook',
        'preprocessing': 'that of the weights',
    }


@pytest.mark.parametrize('file', RECORDS, ids=lambda file: file.parent.name)
def test_every_published_record_has_a_complete_summary(file: Path) -> None:
    rows = dict(summarize(record_file.read(file)['protocol']).rows())
    assert {'NMS', 'BN policy', 'learning rate', 'max detections'} <= rows.keys()
    assert '-' not in rows.values()


def test_other_summaries(voc: Callable[..., dict[str, Any]]) -> None:
    summary = summarize(voc('retinanet_fpn', '1x'))
    assert summary.splits == f'test (annotations {"b" * 12}), train (annotations {"a" * 12})'
    assert summary.schedule == '12 epochs, warm-up of 500 steps from 0.001, lr x 0.1 after 8 and 11 epochs'
    assert summary.learning_rate == (
        '0.01, the same for every network; times 0.125 for the batch (the rate is for 16 images): 0.00125'
    )
    assert summary.sampling == 'every anchor'
    assert summary.proposals == 'none; the best 1000 per level before NMS'
    assert summary.nms == 'nms at IoU 0.5'
    assert summary.initialization == 'random weights'
    assert summary.tested == 'the last checkpoint'
    options = {'model.backbone.frozen_stages': 1, 'model.train_cfg.rpn.assigner.ignore_iof_thr': 0.5}
    summary = summarize(voc(cfg_options=options))
    assert summary.bn_policy == 'train; stem and 1 stages frozen'
    frozen = summarize(protocol_of(config_from_options(TrainOptions(LEAF)), SPLITS, 'ImageNet')).bn_policy
    assert frozen == 'frozen; frozen up to the map at stride 4'
    assert 'ignored, as are anchors with 0.5 of their area on them' in summary.difficult


def test_missing_settings() -> None:
    rows = dict(summarize({}).rows())
    assert rows['coordinates'] == rows['NMS'] == rows['evaluator'] == '-'
    assert len(rows) == len(ProtocolSummary.__dataclass_fields__)


# The learning rate


def test_a_fixed_rate_is_part_of_the_protocol_and_a_chosen_one_is_not(
    voc: Callable[..., dict[str, Any]],
) -> None:
    choice = {'split': 'val', 'among': [0.001, 0.002]}
    one, other = voc(lr=0.001), voc(lr=0.002)
    assert record_file.content_key(one) != record_file.content_key(other)
    one, other = voc(lr=0.001, lr_choice=choice), voc(lr=0.002, lr_choice=choice)
    assert record_file.content_key(one) == record_file.content_key(other)
    assert one['lr_choice'] == choice
    assert summarize(one).learning_rate == (
        'chosen for each network on val among 0.001, 0.002; '
        'times 1 for the batch (the rate is for 2 images)'
    )
    on_test = voc(lr=0.001, lr_choice={**choice, 'split': 'test'})
    assert [d.words for d in find_differences(one, on_test)] == ['choice of the learning rate: split']
    assert voc()['optimiser']['optimizer']['lr'] == 0.001
    assert 'lr_choice' not in voc()


def test_a_config_without_a_learning_rate() -> None:
    cfg = compose_config(DetectorChoice('shufflenetv2_1x', 'frcnn_c4', 'voc07'))
    set_learning_rate(cfg, 0.5)
    assert cfg.optim_wrapper.optimizer.lr == 0.5
    del cfg.optim_wrapper.optimizer['lr']
    with pytest.raises(UserError, match=r'--lr 0.5: .*_frcnn_c4_voc07.py has no optim_wrapper'):
        set_learning_rate(cfg, 0.5)


def test_a_run_that_starts_from_a_detector() -> None:
    cfg = config_from_options(TrainOptions(LEAF, init='none'))
    without = protocol_of(cfg, SPLITS, 'none')
    cfg.load_from = '/somewhere/epoch_9.pth'
    tuned = protocol_of(cfg, SPLITS, 'none')
    assert tuned == {**without, 'load_from': 'epoch_9.pth'}
    assert summarize(tuned).initialization == 'random weights, then the detector epoch_9.pth'
    cfg.resume = True  # `load_from` is then the training state
    assert protocol_of(cfg, SPLITS, 'none') == without


# Differences


def test_descriptions_of_differences(voc: Callable[..., dict[str, Any]]) -> None:
    one = voc()
    other = copy.deepcopy(one)
    other['annotations']['test'] = 'c' * 64
    other['model']['test_cfg']['rcnn']['nms']['iou_threshold'] = 0.5
    other['train_data']['dataset']['pipeline'].insert(2, {'type': 'PhotoMetricDistortion'})
    other['train_data']['dataset']['pipeline'][3]['scale'] = [500, 300]
    del other['model']['rpn_head']['feat_channels']
    other['model']['new'] = {'part': 1}
    found = find_differences(one, other)
    assert {(d.words, d.one, d.other) for d in found} == {
        ('annotations: test', 'b' * 12, 'c' * 12),
        ('IoU of NMS at test', '0.3', '0.5'),
        ('training data: PhotoMetricDistortion', 'nothing', '{"type": "PhotoMetricDistortion"}'),
        ('size of training images: scale', '[1000, 600]', '[500, 300]'),
        ('channels of the RPN', '512', 'nothing'),
        ('model.new', 'nothing', '{"part": 1}'),
    }
    assert {d.place for d in found} >= {'model.test_cfg.rcnn.nms.iou_threshold', 'model.new'}
    assert find_differences(one, copy.deepcopy(one)) == []


def test_the_order_of_steps_is_a_difference() -> None:
    steps = [{'type': 'Resize'}, {'type': 'RandomFlip'}]
    found = find_differences({'pipeline': steps}, {'pipeline': steps[::-1]})
    assert [(d.place, d.one, d.other) for d in found] == [
        ('pipeline.order', '["Resize", "RandomFlip"]', '["RandomFlip", "Resize"]')
    ]
    assert [d.place for d in find_differences({'a': 1}, {'a': True})] == ['a']


def test_a_part_that_only_one_protocol_has_is_one_difference(voc: Callable[..., dict[str, Any]]) -> None:
    found = {d.place: d for d in find_differences(voc(), voc('frcnn_fpn'))}
    assert found['model.neck'].one == 'nothing'
    assert found['model.neck'].words == 'feature pyramid'
    assert not [place for place in found if place.startswith('model.neck.')]
    assert found['model.roi_head.shared_head'].other == 'nothing'


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.sampled_from('ab'),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(
            st.fixed_dictionaries({'type': st.sampled_from('ab')}, optional={'c': inner}), max_size=2
        )
        | st.dictionaries(st.sampled_from('ab'), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from('xyz'), VALUES), st.dictionaries(st.sampled_from('xyz'), VALUES))
def test_protocols_without_differences_have_the_same_key(
    one: dict[str, Any], other: dict[str, Any]
) -> None:
    same_key = record_file.content_key(one) == record_file.content_key(other)
    assert (find_differences(one, other) == []) == same_key


def test_every_description_is_used() -> None:
    """Check that no pattern comes after a more general one, where it would never match."""
    places = [pattern.replace('*', 'x') for pattern in DESCRIPTIONS]
    for pattern, place in zip(DESCRIPTIONS, places, strict=True):
        assert describe_place(place).startswith(DESCRIPTIONS[pattern]), pattern
    assert describe_place('model.elsewhere') == 'model.elsewhere'


# Command


def test_the_tool_shows_a_protocol(run_tool: Any) -> None:
    status, out, err = run_tool('protocol', BCCD)
    assert (status, err) == (0, '')
    assert 'protocol cd7c75435bdb' in out
    assert '0.001, the same for every network' in out
    status, out, _ = run_tool('protocol', BCCD / 'record.json', '--json')
    assert status == 0
    content = json.loads(out)
    assert content['key'] == 'cd7c75435bdb' == record_file.content_key(content['protocol'])
    assert content['card']['NMS'] == 'nms at IoU 0.3; proposals nms at IoU 0.7'


def test_the_tool_compares_two_protocols(run_tool: Any) -> None:
    other = TEMPLATE / 'bccd_random_seed0'
    status, out, err = run_tool('protocol', BCCD, other)
    assert (status, err) == (0, '')
    words = ' '.join(out.split())
    assert 'class of initialization ImageNet (ILSVRC 2012) none' in words
    assert 'two protocols: results may not be ranked together' in words
    status, out, _ = run_tool('protocol', BCCD, other, '--json')
    assert json.loads(out)['differences'] == [
        {
            'place': 'init',
            'words': 'class of initialization',
            'one': 'ImageNet (ILSVRC 2012)',
            'other': 'none',
        }
    ]
    status, out, _ = run_tool('protocol', BCCD, TEMPLATE / 'bccd_imagenet_seed1')
    assert (status, out.count('the same protocol (cd7c75435bdb): results may be ranked together')) == (0, 1)


@pytest.mark.parametrize(
    'protocol',
    [{'loop': 2.5}, {'schedule': {'a': 1}}, {'model': {'test_cfg': 'x'}}, {'evaluator': [{'a': 1}]}],
)
def test_a_protocol_of_another_form_is_an_error(protocol: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r'not of the form that tools/train\.py writes'):
        summarize(protocol)


def test_a_folder_without_a_record(run_tool: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'record\.json: no such record; give a record\.json'):
        read_protocol(tmp_path)
    status, out, err = run_tool('protocol', tmp_path / 'absent.json')
    assert (status, out) == (1, '')
    assert 'no such record' in err
