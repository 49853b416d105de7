"""A protocol in words: the card, how two differ, and the learning rate as an axis."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compactdet.config.compose import Choice, composed
from compactdet.config.options import Options, set_lr
from compactdet.config.options import compose as compose_options
from compactdet.errors import UserError
from compactdet.records import record_file
from compactdet.records.protocol import parse_lr_choice, protocol_of
from compactdet.records.protocol_diff import WORDS, differences, read_protocol, words_for
from compactdet.records.protocol_summary import Card, card

TEMPLATE = Path(__file__).parents[2] / 'work_dirs_template'
RECORDS = sorted(TEMPLATE.glob('*/record.json'))
LEAF = str(Path(__file__).parents[2] / 'det_configs' / 'menet_frcnn_voc.py')
BCCD = TEMPLATE / 'bccd_imagenet_seed0'
SPLITS = {name: {'annotations_sha256': letter * 64} for name, letter in (('train', 'a'), ('test', 'b'))}


@pytest.fixture(scope='module')
def voc() -> Callable[..., dict[str, Any]]:
    """Makes the protocol of a VOC run, by what a command line says."""

    def make(detector: str = 'frcnn_c4', schedule: str | None = None, **options: Any) -> dict[str, Any]:
        choice = Choice('shufflenetv2_1x', detector, 'voc07', schedule)
        cfg = compose_options(Options(choice, init='none', **options))
        return json.loads(json.dumps(protocol_of(cfg, SPLITS, 'none')))

    return make


# The card


def test_the_card_of_a_published_run_by_hand() -> None:
    shown = card(record_file.read(BCCD / 'record.json')['protocol'])
    assert vars(shown) == {
        'splits': 'BCCD test (annotations 9b3c6d8c28af), train (annotations 04d32e9fe53f), '
        'val (annotations a20131ba971d)',
        'training_boxes': 'images without an object are left out; boxes without area of 2 named images are '
        'dropped',
        'difficult': 'difficult and crowd: not trained as objects; what lies on them is background',
        'coordinates': 'continuous x1 y1 x2 y2 in pixels from the top left corner; VOC: xmin-1 ymin-1 xmax '
        'ymax',
        'resize': 'shorter side 480, longer at most 640 pixels',
        'flips': 'horizontal 0.25, vertical 0.25, diagonal 0.25',
        'anchors': 'scales=[2.5, 6, 12], ratios=[0.5, 1, 2], strides=[16]',
        'proposals': 'training 300 of the best 1000, test 100 of the best 1000',
        'sampling': '256 anchors per image, at most 0.5 of them positive, '
        '48 RoIs per image, at most 0.25 of '
        'them positive',
        'nms': 'nms at IoU 0.3; proposals nms at IoU 0.7',
        'score_threshold': '0.05',
        'max_detections': '100 an image',
        'bn_policy': 'train; nothing else frozen',
        'schedule': '6 epochs, warm-up of 50 steps from 0.1, cosine over 6 epochs',
        'batch': '4 images per step, over all processes',
        'learning_rate': '0.001, the same for every network',
        'optimiser': 'AdamW weight_decay=0.05 clip_grad={"max_norm": 10, "norm_type": 2}',
        'initialization': 'ImageNet (ILSVRC 2012) weights',
        'evaluator': 'DetectionMetric of bench 1',
        'tested': 'the checkpoint that is best on val by voc/ap50_11point',
    }


@pytest.mark.parametrize('file', RECORDS, ids=lambda file: file.parent.name)
def test_every_published_record_has_a_card(file: Path) -> None:
    rows = dict(card(record_file.read(file)['protocol']).rows())
    assert {'NMS', 'BN policy', 'learning rate', 'max detections'} <= rows.keys()
    assert '-' not in rows.values()


def test_other_cards(voc: Callable[..., dict[str, Any]]) -> None:
    shown = card(voc('retinanet_fpn', '1x'))
    assert shown.splits == f'VOC2007 test (annotations {"b" * 12}), train (annotations {"a" * 12})'
    assert shown.schedule == '12 epochs, warm-up of 500 steps from 0.001, lr x 0.1 after 8 and 11 epochs'
    assert shown.learning_rate == (
        '0.01, the same for every network; times 0.125 for the batch (the rate is for 16 images): 0.00125'
    )
    assert shown.sampling == 'every anchor'
    assert shown.proposals == 'none; the best 1000 a level enter NMS'
    assert shown.nms == 'nms at IoU 0.5'
    assert shown.initialisation == 'random weights'
    assert shown.tested == 'the last checkpoint'
    options = {'model.backbone.frozen_stages': 1, 'model.train_cfg.rpn.assigner.ignore_iof_thr': 0.5}
    shown = card(voc(cfg_options=options))
    assert shown.bn_policy == 'train; stem and 1 stages frozen'
    assert 'anchors with 0.5 of their area on them ignored' in shown.difficult


def test_a_card_of_what_a_protocol_does_not_say() -> None:
    assert {words for _, words in card({}).rows() if words == '-'} == {'-'}
    assert len([*card({}).rows()]) == len(Card.__dataclass_fields__)


# The learning rate


def test_a_rate_that_was_fixed_counts_and_one_that_was_chosen_does_not(
    voc: Callable[..., dict[str, Any]],
) -> None:
    choice = {'split': 'val', 'among': [0.001, 0.002]}
    one, other = voc(lr=0.001), voc(lr=0.002)
    assert record_file.content_key(one) != record_file.content_key(other)
    one, other = voc(lr=0.001, lr_choice=choice), voc(lr=0.002, lr_choice=choice)
    assert record_file.content_key(one) == record_file.content_key(other)
    assert one['lr_choice'] == choice
    assert card(one).learning_rate == 'chosen for each network on val among 0.001, 0.002'
    on_test = voc(lr=0.001, lr_choice={**choice, 'split': 'test'})
    assert [d.words for d in differences(one, on_test)] == ['how the learning rate was chosen: split']
    assert voc()['optimiser']['optimizer']['lr'] == 0.001
    assert 'lr_choice' not in voc()


def test_how_it_was_chosen_on_the_command_line() -> None:
    assert parse_lr_choice('val:0.02,0.01,0.02', 0.01) == {'split': 'val', 'among': [0.01, 0.02]}
    for text, lr, message in (
        ('dev:0.01,0.02', 0.01, 'is not SPLIT:LR'),
        ('val:0.01', 0.01, 'with two rates or more'),
        ('val:0.01,x', 0.01, 'is not SPLIT:LR'),
        ('val', 0.01, 'is not SPLIT:LR'),
        ('val:0.01,0.02', None, '--lr must name .* it is None'),
        ('val:0.01,0.02', 0.03, '--lr must name .* it is 0.03'),
    ):
        with pytest.raises(ValueError, match=message):
            parse_lr_choice(text, lr)


def test_a_config_without_a_rate() -> None:
    cfg = composed(Choice('shufflenetv2_1x', 'frcnn_c4', 'voc07'))
    set_lr(cfg, 0.5)
    assert cfg.optim_wrapper.optimizer.lr == 0.5
    del cfg.optim_wrapper.optimizer['lr']
    with pytest.raises(UserError, match=r'--lr 0.5: .*_frcnn_c4_voc07.py has no optim_wrapper'):
        set_lr(cfg, 0.5)


def test_a_run_that_starts_from_a_detector_says_so() -> None:
    cfg = compose_options(Options(LEAF, init='none'))
    plain = protocol_of(cfg, SPLITS, 'none')
    cfg.load_from = '/somewhere/epoch_9.pth'
    tuned = protocol_of(cfg, SPLITS, 'none')
    assert tuned == {**plain, 'load_from': 'epoch_9.pth'}
    assert card(tuned).initialisation == 'random weights, then the detector epoch_9.pth'
    cfg.resume = True  # then it is the checkpoint that the run resumes from
    assert protocol_of(cfg, SPLITS, 'none') == plain


# Two of them


def test_what_differs_in_words(voc: Callable[..., dict[str, Any]]) -> None:
    one = voc()
    other = copy.deepcopy(one)
    other['annotations']['test'] = 'c' * 64
    other['model']['test_cfg']['rcnn']['nms']['iou_threshold'] = 0.5
    other['train_data']['dataset']['pipeline'].insert(2, {'type': 'PhotoMetricDistortion'})
    other['train_data']['dataset']['pipeline'][3]['scale'] = [500, 300]
    del other['model']['rpn_head']['feat_channels']
    other['model']['new'] = {'part': 1}
    found = differences(one, other)
    assert {(d.words, d.one, d.other) for d in found} == {
        ('annotations: test', 'b' * 12, 'c' * 12),
        ('IoU of NMS at test', '0.3', '0.5'),
        ('training data: PhotoMetricDistortion', 'nothing', '{"type": "PhotoMetricDistortion"}'),
        ('size of training images: scale', '[1000, 600]', '[500, 300]'),
        ('channels of the RPN', '512', 'nothing'),
        ('model.new', 'nothing', '{"part": 1}'),
    }
    assert {d.place for d in found} >= {'model.test_cfg.rcnn.nms.iou_threshold', 'model.new'}
    assert differences(one, copy.deepcopy(one)) == []


def test_the_order_of_steps_is_a_difference() -> None:
    steps = [{'type': 'Resize'}, {'type': 'RandomFlip'}]
    found = differences({'pipeline': steps}, {'pipeline': steps[::-1]})
    assert [(d.place, d.one, d.other) for d in found] == [
        ('pipeline.order', '["Resize", "RandomFlip"]', '["RandomFlip", "Resize"]')
    ]
    assert [d.place for d in differences({'a': 1}, {'a': True})] == ['a']


def test_a_whole_part_is_one_difference(voc: Callable[..., dict[str, Any]]) -> None:
    found = {d.place: d for d in differences(voc(), voc('frcnn_fpn'))}
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
def test_no_difference_is_overlooked(one: dict[str, Any], other: dict[str, Any]) -> None:
    same_key = record_file.content_key(one) == record_file.content_key(other)
    assert (differences(one, other) == []) == same_key


def test_every_word_is_used() -> None:
    """A pattern behind a wider one would never be reached."""
    places = [pattern.replace('*', 'x') for pattern in WORDS]
    for pattern, place in zip(WORDS, places, strict=True):
        assert words_for(place).startswith(WORDS[pattern]), pattern
    assert words_for('model.elsewhere') == 'model.elsewhere'


# The command


def test_the_tool_shows_one(run_tool: Any) -> None:
    status, out, err = run_tool('protocol', BCCD)
    assert (status, err) == (0, '')
    assert 'protocol c5416e6583d8' in out
    assert '0.001, the same for every network' in out
    status, out, _ = run_tool('protocol', BCCD / 'record.json', '--json')
    assert status == 0
    made = json.loads(out)
    assert made['key'] == 'c5416e6583d8' == record_file.content_key(made['protocol'])
    assert made['card']['NMS'] == 'nms at IoU 0.3; proposals nms at IoU 0.7'


def test_the_tool_compares_two(run_tool: Any) -> None:
    other = TEMPLATE / 'bccd_random_seed0'
    status, out, err = run_tool('protocol', BCCD, other)
    assert (status, err) == (0, '')
    words = ' '.join(out.split())
    assert 'class of initialization ImageNet (ILSVRC 2012) none' in words
    assert 'may not be ranked with rows of the other' in words
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
    assert (status, out.count('the same protocol (c5416e6583d8): the two may be ranked')) == (0, 1)


@pytest.mark.parametrize(
    'odd', [{'loop': 2.5}, {'schedule': {'a': 1}}, {'model': {'test_cfg': 'x'}}, {'evaluator': [{'a': 1}]}]
)
def test_a_protocol_from_elsewhere_is_refused(odd: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r'not of the form that tools/train\.py writes'):
        card(odd)


def test_where_there_is_no_record(run_tool: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r'record\.json: no such record; name a record\.json'):
        read_protocol(tmp_path)
    status, out, err = run_tool('protocol', tmp_path / 'absent.json')
    assert (status, out) == (1, '')
    assert 'no such record' in err
