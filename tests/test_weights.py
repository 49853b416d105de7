import json
import os
import pickle
import subprocess
import sys
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel, BaseModule, MMDistributedDataParallel
from mmengine.registry import HOOKS, WEIGHT_INITIALIZERS
from mmengine.runner import Runner
from PIL import Image
from torch import nn

import weights as tool  # tools/weights.py
from backbones import (
    Conventions,
    Preprocessing,
    StageHead,
    build_backbone,
    build_classifier,
    get_arch,
    list_archs,
)
from backbones import weights as w
from backbones.weights import Pretraining, WeightsError, WeightsInfo
from bench.converters import FORMATS, convert, convert_file
from bench.errors import UserError
from bench.verify import accuracy, find_images, load_image

ARCH = 'menet_108_8x1_g3'
MENET_FILE = 'weights/108-MENet-8x1-group-3.pth.tar'
MOBILENET_FILE = 'weights/mobilenet_v1_075_224_converted.pth'
TENSORFLOW = dict(padding='same', activation='relu6', bn_eps=1e-3)
INFO = WeightsInfo(arch=ARCH, pretraining=Pretraining(data='noise', top1=0.1), source='a test')


def random_state(arch, **kwargs):
    """A classifier's entries, every one of them (BN statistics too) unlike what a constructor gives."""
    generator = torch.Generator().manual_seed(0)
    with torch.device('meta'):
        state = build_classifier(arch, **kwargs).state_dict()
    return {
        key: torch.rand(value.shape, generator=generator) + 0.5
        for key, value in state.items()
        if not w.is_counter(key)
    }


def in_their_format(arch, fmt_family='MENet', prefix=''):
    """A file's content as the network's authors would publish it, from random weights of ours."""
    fmt = next(f for f in FORMATS.values() if f.family == fmt_family)
    theirs = {ours: name for name, ours in fmt.layers(get_arch(arch)).items()}
    ours = random_state(arch, conventions=fmt.conventions)
    renamed = {}
    for key, value in ours.items():
        layer, _, leaf = key.rpartition('.')
        renamed[f'{prefix}{theirs[layer]}.{leaf}'] = value
    return renamed, ours


@pytest.fixture(scope='module')
def state():
    return random_state(ARCH)


@pytest.fixture(scope='module')
def weights_file(tmp_path_factory, state):
    path = tmp_path_factory.mktemp('weights') / 'x.safetensors'
    w.save_weights(path, state, INFO)
    return path


def rewritten(path, tmp_path, info=INFO, drop=(), **entries):
    """A copy of a weights file with other entries."""
    state, _ = w.read_weights(path)
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


# --- files ---------------------------------------------------------------------------------------------


def test_what_is_written_is_read_and_the_bytes_are_always_the_same(weights_file, state, tmp_path):
    read, info = w.read_weights(weights_file)
    assert info == INFO == w.read_info(weights_file)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)
    again = tmp_path / 'again.safetensors'
    w.save_weights(again, dict(reversed(state.items())), INFO)
    assert w.file_sha256(again) == w.file_sha256(weights_file)


text = st.text(max_size=8)
three = st.tuples(*[st.floats(1e-3, 300)] * 3)
percent = st.none() | st.floats(0, 100)


@given(
    st.builds(
        WeightsInfo,
        arch=text,
        source=text,
        source_sha256=st.none() | text,
        licence=st.none() | text,
        pretraining=st.builds(Pretraining, data=text, recipe=st.none() | text, top1=percent, top5=percent),
        preprocessing=st.builds(Preprocessing, st.sampled_from(['rgb', 'bgr']), three, three),
        conventions=st.builds(
            Conventions,
            st.sampled_from(['symmetric', 'same']),
            st.sampled_from(['relu', 'relu6']),
            st.floats(0, 1),
        ),
    )
)
def test_info_survives_json(info):
    assert WeightsInfo.from_json(json.dumps(asdict(info))) == info


def test_an_accuracy_is_in_per_cent():
    with pytest.raises(WeightsError, match=r'top1=560, top5=None: per cent, from 0 to 100'):
        Pretraining(data='x', top1=560)


def test_failed_writing_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / 'x.safetensors'
    path.write_bytes(b'before')

    def full_disk(_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full_disk)
    with pytest.raises(WeightsError, match=r'cannot write .*x\.safetensors: No space left on device'):
        w.save_weights(path, {'a': torch.zeros(3)}, INFO)
    assert [p.name for p in tmp_path.iterdir()] == ['x.safetensors']
    assert path.read_bytes() == b'before'


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / 'folder').write_text('')
    with pytest.raises(WeightsError, match='cannot write'):
        w.save_weights(tmp_path / 'folder' / 'x.safetensors', {'a': torch.zeros(3)}, INFO)


def test_unreadable_weights_files_say_what_they_are(tmp_path):
    path = tmp_path / 'x'
    with pytest.raises(WeightsError, match=r'cannot read .*x: No such file'):
        w.read_info(path)
    path.write_bytes(b'neither one nor the other')
    with pytest.raises(WeightsError, match='is not a safetensors file'):
        w.read_info(path)
    for zipped in (True, False):
        torch.save({'a': torch.zeros(2)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(WeightsError, match=r'is a PyTorch file.*tools/weights\.py convert'):
            w.read_info(path)
    path.write_bytes(safetensors.torch.save({'a': torch.zeros(2)}))
    with pytest.raises(WeightsError, match=r'does not say what it is.*tools/weights\.py convert'):
        w.read_weights(path)
    path.write_bytes(safetensors.torch.save({'a': torch.zeros(2)}, {'compactdet': '{"arch": "x"}'}))
    with pytest.raises(WeightsError, match=r"metadata does not fit this version: 'pretraining'"):
        w.read_weights(path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), kind=st.sampled_from(['safetensors', 'zip', 'legacy']))
def test_a_file_cut_anywhere_is_a_weights_error(tmp_path, share, kind):
    path = tmp_path / 'cut'
    tensors = {f'layer{i}': torch.randn(7, 5) for i in range(4)}
    if kind == 'safetensors':
        w.save_weights(path, tensors, INFO)
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == 'zip')
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(WeightsError, match='cut'):
        (w.read_weights if kind == 'safetensors' else w.load_pickle_safely)(path)


# --- PyTorch files of strangers ------------------------------------------------------------------------


class Code:
    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


@pytest.mark.parametrize('zipped', [True, False])
def test_code_in_a_pickle_is_named_and_not_executed(tmp_path, zipped):
    marker = tmp_path / 'executed'
    path = tmp_path / 'evil.pth'
    content = {'state_dict': {'a': torch.zeros(2)}, 'meta': Code(os.system, f'touch {marker}')}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    for read in (w.load_pickle_safely, lambda p: convert(p, ARCH)):
        with pytest.raises(
            (WeightsError, UserError), match=r'evil\.pth contains code \((posix|nt)\.system\)'
        ):
            read(path)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Code(os.system, f'touch {marker}')))
    assert marker.exists()  # so the file would have


@pytest.mark.parametrize(
    ('code', 'name'),
    [
        (Code(getattr, HistoryBuffer, '__init__'), 'builtins.getattr'),
        (Code(getattr, np.ndarray, 'tofile'), 'builtins.getattr'),
        (Code(eval, '1'), 'eval'),
        (Code(Path, 'x'), 'Path'),
    ],
)
def test_what_checkpoints_may_hold_is_no_way_round(tmp_path, code, name):
    path = tmp_path / 'sly.pth'
    torch.save({'a': code}, path)
    with pytest.raises(WeightsError, match=rf'contains code \(.*{name}'):
        w.load_pickle_safely(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
@pytest.mark.filterwarnings('ignore:Detected pickle protocol')
def test_a_damaged_pickle_is_read_or_is_a_weights_error(tmp_path, data):
    path = tmp_path / 'damaged.pth'
    torch.save({'a': torch.zeros(2), 'b': [1, 'x']}, path, _use_new_zipfile_serialization=False)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        w.load_pickle_safely(path)
    except WeightsError as error:
        assert '\n' not in str(error)  # noqa: PT017 (either outcome is right)


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, inputs, mode='loss'):
        return {'loss': self.layer(torch.stack(inputs)).square().mean()}


@pytest.fixture(scope='module')
def runner_checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    torch.manual_seed(0)
    Runner(
        Toy(),
        work_dir=str(folder),
        experiment_name=folder.name,
        train_dataloader=dict(
            batch_size=2,
            dataset=[{'inputs': torch.ones(2)}] * 4,
            sampler=dict(type='DefaultSampler', shuffle=False),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=2),
            dict(type='MultiStepLR', milestones=[1]),
        ],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=[dict(type='EMAHook')],
        log_level='ERROR',
        default_scope='mmdet',
    ).train()
    return folder / 'epoch_1.pth'


@pytest.mark.parametrize('numpy', ['numpy.core', 'numpy._core'])
def test_a_checkpoint_of_mmengines_runner_is_read_whole(runner_checkpoint, tmp_path, numpy):
    path = tmp_path / 'epoch_1.pth'  # as written under NumPy 1, and under NumPy 2
    with zipfile.ZipFile(runner_checkpoint) as source, zipfile.ZipFile(path, 'w') as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith('data.pkl'):
                content = content.replace(b'cnumpy._core.', b'cnumpy.core.').replace(
                    b'cnumpy.core.', f'c{numpy}.'.encode()
                )
            target.writestr(name, content)
    assert f'c{numpy}.multiarray'.encode() in path.read_bytes()
    read = w.load_pickle_safely(path)
    trusted = torch.load(runner_checkpoint, weights_only=False)
    assert (
        read.keys() == trusted.keys() >= {'message_hub', 'optimizer', 'param_schedulers', 'ema_state_dict'}
    )
    assert read['param_schedulers'] == trusted['param_schedulers']
    assert torch.equal(read['state_dict']['layer.weight'], trusted['state_dict']['layer.weight'])
    losses = read['message_hub']['log_scalars']['train/loss']
    assert losses.data[0].tolist() == trusted['message_hub']['log_scalars']['train/loss'].data[0].tolist()
    assert len(losses.data[0]) == 2
    assert losses.mean() > 0


# --- conversion ----------------------------------------------------------------------------------------


@pytest.mark.parametrize('arch', list_archs('menet_*'))
def test_every_menet_of_the_authors_format_is_converted_whole(arch, tmp_path):
    prefix = 'module.' if 'g8' in arch else ''
    theirs, ours = in_their_format(arch, prefix=prefix)
    torch.save({'state_dict': theirs, 'name': arch}, tmp_path / 'x.pth.tar')
    info = convert_file(tmp_path / 'x.pth.tar', arch, tmp_path / 'x.safetensors')
    state, read_info = w.read_weights(tmp_path / 'x.safetensors')
    assert info == read_info
    assert (info.arch, info.pretraining.top1) == (arch, None)
    assert state.keys() == ours.keys()
    assert all(torch.equal(state[key], ours[key]) for key in ours)


@pytest.mark.parametrize('arch', list_archs('mobilenet_*'))
def test_every_mobilenet_of_keras_is_converted_whole(arch, tmp_path):
    theirs, ours = in_their_format(arch, 'MobileNet')
    theirs['features.conv1.bn.num_batches_tracked'] = torch.tensor(0)
    torch.save(theirs, tmp_path / 'x.pth')
    state, info = convert(tmp_path / 'x.pth', arch, top1=70, top5=90)
    assert info.conventions == Conventions(**TENSORFLOW)
    assert info.preprocessing == Preprocessing('rgb', (127.5,) * 3, (127.5,) * 3)
    assert (info.pretraining.top1, info.pretraining.top5) == (70, 90)
    assert all(torch.equal(state[key], ours[key]) for key in ours)


def test_a_file_that_does_not_fit_is_refused_with_the_list(tmp_path):
    theirs, _ = in_their_format(ARCH)
    del theirs['features.stage_2_3.s_conv.weight']
    theirs['features.stage_2_9.compress.weight'] = torch.zeros(1)
    theirs['classifier.weight'] = torch.zeros(1001, 432)
    torch.save({'state_dict': theirs}, tmp_path / 'x.pth')
    with pytest.raises(UserError) as caught:
        convert_file(tmp_path / 'x.pth', ARCH, tmp_path / 'out.safetensors')
    assert str(caught.value) == (
        f'{tmp_path}/x.pth does not fit {ARCH}: 1 entries missing: features.stage_2_3.s_conv.weight; '
        '1 entries unused: features.stage_2_9.compress.weight; '
        '1 entries misshapen: head.fc.weight (1001, 432) instead of (1000, 432)'
    )
    assert not (tmp_path / 'out.safetensors').exists()


def test_another_arch_is_refused_and_the_right_one_named(tmp_path):
    theirs, _ = in_their_format('menet_256_12x1_g4')
    torch.save({'state_dict': theirs}, tmp_path / 'x.pth')
    with pytest.raises(
        UserError, match=r'entries misshapen: .*, \.\.\.; it fits menet_256_12x1_g4, menet_256_12x1_g4_add'
    ):
        convert(tmp_path / 'x.pth', ARCH)
    with pytest.raises(
        UserError, match=r"one of the MENet authors' .* holds a MENet; mobilenet_1x is a MobileNet"
    ):
        convert(tmp_path / 'x.pth', 'mobilenet_1x')
    with pytest.raises(UserError, match=r"unknown arch 'menet_256_12x1_g5'; near: .*menet_256_12x1_g4"):
        convert(tmp_path / 'x.pth', 'menet_256_12x1_g5')
    with pytest.raises(UserError, match=r'top1=560.* per cent'):
        convert(tmp_path / 'x.pth', 'menet_256_12x1_g4', top1=560)
    with pytest.raises(UserError, match='is the file to convert'):
        convert_file(tmp_path / 'x.pth', 'menet_256_12x1_g4', tmp_path / 'x.pth')


def test_a_file_of_no_known_format_is_refused(tmp_path):
    path = tmp_path / 'x.pth'
    for content, message in [
        (
            {'layer1.0.conv1.weight': torch.zeros(1)},
            r"no known format .*layer1\.0\.conv1\.weight.*known: the MENet authors'",
        ),
        ({'state_dict': {'a': 1, 'b': torch.zeros(1)}}, 'no state_dict: 1 entries that are no tensors: a'),
        ([torch.zeros(1)], 'holds no state_dict'),
        ({}, 'holds no state_dict'),
    ]:
        torch.save(content, path)
        with pytest.raises(UserError, match=message):
            convert(path, ARCH)


@pytest.mark.shared
def test_official_menet_gives_the_stated_logits(shared, tmp_path):
    out = tmp_path / 'menet.safetensors'
    info = convert_file(shared / MENET_FILE, ARCH, out)
    assert (info.pretraining.top1, info.pretraining.top5) == (56.08, 79.24)
    state, _ = w.read_weights(out)
    published = w.load_pickle_safely(shared / MENET_FILE)['state_dict']
    assert len(state) == len(published) == 487
    assert (
        published.keys() == in_their_format(ARCH)[0].keys()
    )  # so the synthetic files are like the real one
    model = build_classifier(ARCH)
    model.load_state_dict(state, strict=True)
    x = torch.sin(0.01 * torch.arange(3 * 224 * 224, dtype=torch.float64)).float().view(1, 3, 224, 224)
    with torch.no_grad():
        logits = model.eval()(x)[0]
    stated = [-3.7814, 2.51741, -1.54092, -4.66729, -2.68861, -2.09181, -0.71993, -4.28376]
    torch.testing.assert_close(logits[:8], torch.tensor(stated), atol=1e-3, rtol=0)
    assert logits.argmax() == 904
    assert logits.sum().item() == pytest.approx(0.1361, abs=1e-3)
    assert logits.norm().item() == pytest.approx(119.5381, abs=1e-3)


@pytest.mark.shared
def test_tensorflow_mobilenet_recognises_images(shared, tmp_path):
    out = tmp_path / 'mobilenet.safetensors'
    convert_file(shared / MOBILENET_FILE, 'mobilenet_0.75x', out)
    images = find_images(shared / 'data/imagenet_sample')
    assert len(images) == 250
    assert accuracy(out, images[::10])['top1'] >= 80


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(
    ('file', 'arch', 'top1', 'top5'),
    [(MENET_FILE, ARCH, 65.6, 84.8), (MOBILENET_FILE, 'mobilenet_0.75x', 84.4, 96.8)],
)
def test_accuracy_on_the_sample(shared, tmp_path, file, arch, top1, top5):
    convert_file(shared / file, arch, tmp_path / 'x.safetensors')
    result = accuracy(tmp_path / 'x.safetensors', find_images(shared / 'data/imagenet_sample'))
    assert result == {
        'top1': pytest.approx(top1, abs=0.41),
        'top5': pytest.approx(top5, abs=0.41),
        'num_images': 250,
    }


# --- initialisation of the halves ----------------------------------------------------------------------


@pytest.mark.parametrize('bn_policy', ['train', 'eval', 'frozen'])
def test_one_file_initialises_both_halves_as_the_runner_does(weights_file, state, bn_policy):
    detector = Detector(weights_file, weights_file, bn_policy=bn_policy)
    detector.init_weights()
    for half in (detector.backbone, detector.roi_head.shared_head):
        own = {k: v for k, v in half.state_dict().items() if not w.is_counter(k)}
        assert all(torch.equal(own[key], state[key]) for key in own)
        assert half.loaded_from == w.LoadedFrom(
            INFO, str(weights_file), w.file_sha256(weights_file), len(own)
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


def test_conventions_of_the_file_must_be_the_networks(tmp_path):
    arch = 'mobilenet_0.25x'
    path = tmp_path / 'x.safetensors'
    w.save_weights(
        path, random_state(arch), replace(INFO, arch=arch, conventions=Conventions(**TENSORFLOW))
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
            ['clavichord93/MENet', 'weights.py convert FILE --arch menet_352_12x1_g8 --out absent'],
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
def test_a_conflict_of_preprocessing_names_both(weights_file, stage, other):
    detector = Detector(weights_file, weights_file)
    detector.init_weights()
    detector.data_preprocessor = preprocessor(other)
    runner = type('Runner', (), {'model': detector})()
    with pytest.raises(WeightsError) as caught:
        getattr(w.PreprocessingCheck(), stage)(runner)
    text = str(caught.value)
    assert f'x.safetensors was trained with {INFO.preprocessing}, but the data_preprocessor gives' in text
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


# --- accuracy ------------------------------------------------------------------------------------------


@pytest.fixture
def image_folder(tmp_path):
    """Five images in class folders 0, 0, 3, 4 and 7 of ten."""
    for number in range(10):
        (tmp_path / f'class{number}').mkdir()
    for i, number in enumerate([0, 0, 3, 4, 7]):
        Image.new('RGB', (300 + i, 260), (10 * i, 20, 30)).save(tmp_path / f'class{number}' / f'{i}.png')
    return tmp_path


@pytest.fixture
def ranking_file(tmp_path):
    """A classifier of ten classes that ranks them 0, 1, ... 9 whatever it sees."""
    state = build_classifier(ARCH, 10).state_dict()
    state['head.fc.weight'].zero_()
    state['head.fc.bias'] = -torch.arange(10.0)
    w.save_weights(tmp_path / 'ten.safetensors', state, INFO)
    return tmp_path / 'ten.safetensors'


def test_accuracy_of_a_known_ranking(image_folder, ranking_file):
    images = find_images(image_folder)
    assert [number for _, number in images] == [0, 0, 3, 4, 7]
    assert accuracy(ranking_file, images) == {'top1': 40, 'top5': 80, 'num_images': 5}


def test_what_cannot_tell_classes_apart_recognises_none(image_folder, tmp_path):
    state = build_classifier(ARCH, 10).state_dict()
    path = tmp_path / 'ten.safetensors'
    w.save_weights(path, state | {'head.fc.weight': torch.zeros(10, 432)}, INFO)  # one logit for all
    assert accuracy(path, find_images(image_folder)) == {'top1': 0, 'top5': 0, 'num_images': 5}
    w.save_weights(path, state | {'head.fc.bias': torch.full((10,), torch.nan)}, INFO)
    with pytest.raises(UserError, match=r'ten\.safetensors gives no finite logits for .*class0'):
        accuracy(path, find_images(image_folder))


def test_classes_by_name_of_the_image_and_a_list(tmp_path, ranking_file):
    for name in ('n02_great_white', 'n00_17', 'n01'):
        Image.new('RGB', (30, 40)).save(tmp_path / f'{name}.JPEG', 'JPEG')
    (tmp_path / 'class_index.txt').write_text('0 n00_tench\n1 n01_goldfish\n2 n02_great_white\n')
    assert [number for _, number in find_images(tmp_path)] == [0, 1, 2]
    (tmp_path / 'other.txt').write_text('5 n00\n6 n01\n')
    with pytest.raises(UserError, match=r"class 'n02_great_white' is not in .*other\.txt"):
        find_images(tmp_path, tmp_path / 'other.txt')
    (tmp_path / 'other.txt').write_text('5 n00\nsix n01\n')
    with pytest.raises(UserError, match=r"other\.txt, line 2: 'six n01'"):
        find_images(tmp_path, tmp_path / 'other.txt')


@pytest.mark.parametrize(('order', 'colour'), [('rgb', (200, 100, 50)), ('bgr', (50, 100, 200))])
def test_an_image_is_presented_as_in_training(tmp_path, order, colour):
    Image.new('RGB', (500, 300), (200, 100, 50)).save(tmp_path / 'x.png')
    preprocessing = Preprocessing(order, (1, 2, 3), (4, 5, 6))
    x = load_image(tmp_path / 'x.png', preprocessing)
    assert x.shape == (3, 224, 224)
    assert x.dtype == torch.float32
    for channel in range(3):
        expected = (colour[channel] - (1, 2, 3)[channel]) / (4, 5, 6)[channel]
        assert x[channel].unique().tolist() == pytest.approx([expected])


def test_the_centre_of_the_scaled_image_is_cut_out(tmp_path):
    pixels = np.zeros((256, 320, 3), np.uint8)
    pixels[16:240, 48:272] = 255  # 224x224 in the middle, and the shorter side is 256 already
    Image.fromarray(pixels).save(tmp_path / 'x.png')
    x = load_image(tmp_path / 'x.png', Preprocessing('rgb', (0, 0, 0), (255, 255, 255)))
    assert x.min() == 1


def test_bad_images_and_folders_are_one_line(image_folder, ranking_file, tmp_path):
    with pytest.raises(UserError, match='no such folder of images'):
        find_images(tmp_path / 'absent')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='holds no image'):
        find_images(tmp_path / 'empty')
    (image_folder / 'class2' / 'x.jpg').write_bytes(b'\xff\xd8\xff')
    with pytest.raises(UserError, match=r'cannot read the image .*class2/x\.jpg'):
        accuracy(ranking_file, find_images(image_folder))
    with pytest.raises(UserError, match='its class is beyond the 10'):
        accuracy(ranking_file, [(image_folder / 'class0' / '0.png', 10)])


# --- the command ---------------------------------------------------------------------------------------


def test_the_verbs(image_folder, ranking_file, tmp_path, capsys):
    theirs, _ = in_their_format(ARCH)
    torch.save({'state_dict': theirs}, tmp_path / 'x.pth')
    out = tmp_path / 'folder' / 'x.safetensors'
    tool.main(['convert', str(tmp_path / 'x.pth'), '--arch', ARCH, '--out', str(out), '--top1', '56.1'])
    assert f'{out}: {ARCH}, from ' in capsys.readouterr().out
    tool.main(['inspect', str(out)])
    summary = json.loads(capsys.readouterr().out)
    assert (summary['arch'], summary['num_entries'], summary['params']) == (ARCH, 487, 654_516)
    assert summary['sha256'] == w.file_sha256(out)
    assert summary['pretraining']['top1'] == 56.1
    tool.main(['verify', str(ranking_file), '--images', str(image_folder)])
    assert capsys.readouterr().out == 'top-1 40.00 %, top-5 80.00 % of 5 images\n'
    with pytest.raises(UserError, match='cannot read'):
        tool.main(['inspect', str(tmp_path / 'absent')])
    with pytest.raises(SystemExit) as caught:
        tool.main(['convert', 'x.pth'])
    assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        tool.main(['--help'])
    assert caught.value.code == 0
    assert 'python tools/weights.py convert' in capsys.readouterr().out


def test_exit_status(weights_file, tmp_path):
    script = Path(__file__).parents[1] / 'tools/weights.py'
    calls = [['inspect', str(weights_file)], ['inspect', str(tmp_path / 'absent')]]
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), *call], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for call in calls
    ]
    (summary, _), (_, error) = (process.communicate() for process in processes)
    assert [process.returncode for process in processes] == [0, 1]
    assert json.loads(summary)['arch'] == ARCH
    assert error == f'error: cannot read {tmp_path}/absent: No such file or directory\n'
