"""Both halves of a detector start from one weights file, presented with images as in its training."""

from dataclasses import replace

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.model import BaseModule, MMDistributedDataParallel
from mmengine.registry import HOOKS, WEIGHT_INITIALIZERS
from torch import nn

from backbones import Conventions, Preprocessing, StageHead, build_backbone
from backbones import weights as w
from backbones.weights import WeightsError

ARCH = 'menet_108_8x1_g3'
TENSORFLOW = dict(padding='same', activation='relu6', bn_eps=1e-3)


def rewritten(path, tmp_path, drop=(), **entries):
    """A copy of a weights file with other entries."""
    state, info = w.read_weights(path)
    state = {k: v for k, v in state.items() if k not in drop} | {
        k.replace('__', '.'): v for k, v in entries.items()
    }
    copy = tmp_path / 'changed.safetensors'
    w.save_weights(copy, state, info)
    return copy


class Detector(BaseModule):
    """The places where a two-stage detector holds a network's halves."""

    def __init__(self, trunk_init, head_init, **kwargs):
        super().__init__()
        init = {
            path: path and dict(type='ClassifierWeights', checkpoint=str(path))
            for path in (trunk_init, head_init)
        }
        self.backbone = build_backbone(ARCH, (16,), init_cfg=init[trunk_init], **kwargs)
        self.roi_head = BaseModule()
        self.roi_head.shared_head = StageHead(ARCH, init_cfg=init[head_init], **kwargs)
        self.data_preprocessor = preprocessor(Preprocessing())


def data_preprocessor(**kwargs):
    return MODELS.build(dict(type='DetDataPreprocessor', **kwargs))


def preprocessor(preprocessing):
    """MMDetection's, doing just this."""
    bgr_to_rgb = preprocessing.channel_order == 'rgb'
    return data_preprocessor(mean=preprocessing.mean, std=preprocessing.std, bgr_to_rgb=bgr_to_rgb)


# --- initialization of the halves ----------------------------------------------------------------------


@pytest.mark.parametrize('bn_policy', ['train', 'eval', 'frozen'])
def test_one_file_initialises_both_halves_as_the_runner_does(weights_file, weights_info, state, bn_policy):
    detector = Detector(weights_file, weights_file, bn_policy=bn_policy)
    detector.init_weights()
    for half in (detector.backbone, detector.roi_head.shared_head):
        own = {k: v for k, v in half.state_dict().items() if not w.is_counter(k)}
        assert all(torch.equal(own[key], state[key]) for key in own)
        assert half.loaded_from == w.LoadedFrom(
            weights_info, str(weights_file), w.file_sha256(weights_file), len(own)
        )
        norms = [m for m in half.modules() if isinstance(m, nn.BatchNorm2d)]
        assert {m.training for m in norms} == {bn_policy == 'train'}
        assert {m.weight.requires_grad for m in norms} == {bn_policy != 'frozen'}
    w.check_preprocessing(detector)


def test_counters_of_the_file_are_taken(weights_file, tmp_path):
    path = rewritten(weights_file, tmp_path, stem__0__bn__num_batches_tracked=torch.tensor(7))
    backbone = build_backbone(ARCH, (4,))
    w.ClassifierWeights(path)(backbone)
    assert backbone.stem[0].bn.num_batches_tracked == 7


def test_a_half_is_loaded_whole_or_not_at_all(weights_file, tmp_path):
    gone = ['stage8.1.merge.conv.weight', 'stem.0.bn.running_var', 'stage32.0.reduce.conv.weight']
    path = rewritten(
        weights_file, tmp_path, drop=gone, stage8__0__reduce__conv__weight=torch.zeros(3, 3, 1, 1)
    )
    backbone = build_backbone(ARCH, (16,))
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(WeightsError) as caught:
        w.ClassifierWeights(path)(backbone)
    assert str(caught.value) == (
        f'{path}: 2 entries missing: stem.0.bn.running_var, stage8.1.merge.conv.weight; '
        '1 entries misshapen: stage8.0.reduce.conv.weight (3, 3, 1, 1) instead of (27, 12, 1, 1)'
    )
    assert all(torch.equal(before[key], value) for key, value in backbone.state_dict().items())
    assert not hasattr(backbone, 'loaded_from')
    with pytest.raises(WeightsError, match=r'1 entries missing: stage32\.0\.reduce\.conv\.weight$'):
        w.ClassifierWeights(path)(StageHead(ARCH))


def test_weights_of_another_arch_are_refused(weights_file):
    with pytest.raises(
        WeightsError, match=rf'holds the weights of {ARCH}; this network is menet_128_8x1_g4'
    ):
        w.ClassifierWeights(weights_file)(build_backbone('menet_128_8x1_g4', (16,)))


def test_conventions_of_the_file_must_be_the_networks(random_state, weights_info, tmp_path):
    arch = 'mobilenet_0.25x'
    path = tmp_path / 'x.safetensors'
    w.save_weights(
        path, random_state(arch), replace(weights_info, arch=arch, conventions=Conventions(**TENSORFLOW))
    )
    with pytest.raises(
        WeightsError, match=r"give MobileNet conventions=\{'padding': 'same', 'activation': 'relu6'"
    ):
        w.ClassifierWeights(path)(build_backbone(arch, (16,)))
    for half in (
        build_backbone(arch, (16,), conventions=TENSORFLOW),
        StageHead(arch, conventions=TENSORFLOW),
    ):
        w.ClassifierWeights(path)(half)
        assert half.loaded_from.info.arch == arch


@pytest.mark.parametrize(
    ('arch', 'words'),
    [
        (
            'menet_352_12x1_g8',
            ['weights.py list menet_', 'weights.py convert FILE --arch menet_352_12x1_g8 --out absent'],
        ),
        ('shufflenet_1x_g3', ['put it at absent']),
    ],
)
def test_absent_weights_say_which_and_how_to_get_them(arch, words):
    with pytest.raises(WeightsError) as caught:
        w.ClassifierWeights('absent.safetensors')(build_backbone(arch, (16,)))
    for word in [
        f'{arch} needs its ImageNet weights',
        'absent.safetensors is not there',
        '--init none',
        *words,
    ]:
        assert word in str(caught.value)


def test_the_initialiser_is_for_the_halves_only(weights_file):
    with pytest.raises(WeightsError, match='not Linear'):
        w.ClassifierWeights(weights_file)(nn.Linear(2, 2))


def test_both_are_registered_where_a_config_finds_them():
    assert WEIGHT_INITIALIZERS.get('ClassifierWeights') is w.ClassifierWeights
    assert HOOKS.get('PreprocessingCheck') is w.PreprocessingCheck


# --- preprocessing -------------------------------------------------------------------------------------

BGR = Preprocessing('bgr', (103.53, 116.28, 123.675), (57.375, 57.12, 58.395))


@pytest.mark.parametrize(
    'preprocessing', [Preprocessing(), BGR, Preprocessing('rgb', (127.5,) * 3, (127.5,) * 3)]
)
def test_what_the_data_preprocessor_does_is_recognised(preprocessing):
    read = w.preprocessing_of(preprocessor(preprocessing))
    assert read.channel_order == preprocessing.channel_order
    assert read.mean + read.std == pytest.approx(preprocessing.mean + preprocessing.std)


def test_one_number_serves_all_channels_and_none_means_raw_pixels():
    assert w.preprocessing_of(data_preprocessor(mean=[127.5], std=[2])) == Preprocessing(
        'bgr', (127.5,) * 3, (2,) * 3
    )
    assert w.preprocessing_of(data_preprocessor(bgr_to_rgb=True)) == Preprocessing(
        'rgb', (0,) * 3, (1,) * 3
    )


@pytest.mark.parametrize('stage', ['before_train', 'before_val', 'before_test'])
@pytest.mark.parametrize('other', [BGR, Preprocessing(mean=(127.5,) * 3), Preprocessing(std=(1, 1, 1))])
def test_a_conflict_of_preprocessing_names_both(weights_file, weights_info, stage, other):
    detector = Detector(weights_file, weights_file)
    detector.init_weights()
    detector.data_preprocessor = preprocessor(other)
    runner = type('Runner', (), {'model': detector})()
    with pytest.raises(WeightsError) as caught:
        getattr(w.PreprocessingCheck(), stage)(runner)
    text = str(caught.value)
    assert (
        f'x.safetensors was trained with {weights_info.preprocessing}, but the data_preprocessor gives'
        in text
    )
    assert f"gives Preprocessing(channel_order='{other.channel_order}', mean=({int(other.mean[0])}." in text


def test_the_check_looks_into_a_distributed_wrapper(weights_file, tmp_path):
    detector = Detector(weights_file, weights_file)
    detector.init_weights()
    detector.data_preprocessor = preprocessor(BGR)
    wrapper = MMDistributedDataParallel.__new__(MMDistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = detector
    with pytest.raises(WeightsError, match='was trained with'):
        w.check_preprocessing(wrapper)


def test_the_halves_start_from_one_file_or_both_from_none(weights_file, tmp_path):
    other = rewritten(weights_file, tmp_path, head__fc__bias=torch.zeros(1000))
    for trunk, head, words in [
        (weights_file, other, r'StageHead: .*changed\.safetensors'),
        (weights_file, None, 'StageHead: random weights'),
        (None, weights_file, 'MENet: random weights'),
    ]:
        detector = Detector(trunk, head)
        detector.init_weights()
        with pytest.raises(WeightsError, match=f'different weights .*{words}'):
            w.check_preprocessing(detector)
    detector = Detector(None, None)
    detector.data_preprocessor = preprocessor(BGR)
    w.check_preprocessing(detector)
