"""Weights files of ours, and PyTorch files that may hold anything."""

import json
import os
import pickle
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from PIL import Image
from torch import nn

from backbones import Conventions, Preprocessing, build_classifier
from backbones import weights as w
from backbones.weights import Pretraining, WeightsError, WeightsInfo
from compactdet.errors import UserError
from compactdet.weights import verify
from compactdet.weights.convert import convert

ARCH = 'menet_108_8x1_g3'


# --- files ---------------------------------------------------------------------------------------------


def test_what_is_written_is_read_and_the_bytes_are_always_the_same(
    weights_file, weights_info, state, tmp_path
):
    read, info = w.read_weights(weights_file)
    assert info == weights_info == w.read_info(weights_file)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)
    again = tmp_path / 'again.safetensors'
    w.save_weights(again, dict(reversed(state.items())), weights_info)
    assert w.file_sha256(again) == w.file_sha256(weights_file)


text = st.text(st.characters(categories=('L', 'N', 'P', 'S')), max_size=8)
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
    with pytest.raises(WeightsError, match=r'top1=560, top5=None: percent, from 0 to 100'):
        Pretraining(data='x', top1=560)


@pytest.mark.parametrize('size', [0, -1, 10**9, '64', 64.0])
def test_a_size_is_a_number_of_pixels(size):
    with pytest.raises(WeightsError, match='pixels per side, from 1 to 4096'):
        Pretraining(data='x', size=size)


def test_an_image_of_a_small_set_is_scaled_whole(tmp_path):
    row = np.repeat(np.array([[0, 255]], np.uint8), 16, axis=1)  # black, then white
    Image.fromarray(np.repeat(row, 32, axis=0)).save(tmp_path / 'x.png')
    raw = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1))
    whole = verify.load_image(tmp_path / 'x.png', raw, 64, whole=True)
    assert whole.shape == (3, 64, 64)
    assert whole[0, 0, :31].tolist() == [0] * 31
    assert whole[0, 0, 33:].tolist() == [255] * 31
    as_it_is = verify.load_image(tmp_path / 'x.png', raw, 32, whole=True)
    assert as_it_is[0, 0].tolist() == row[0].tolist()
    cut = verify.load_image(tmp_path / 'x.png', raw, 28)  # of 32 x 32, the center
    assert cut.shape == (3, 28, 28)
    assert (cut[0, 0] == 255).sum() == 14


def test_sixteen_bits_become_eight(tmp_path):
    Image.fromarray(np.full((32, 32), 100 * 256, np.uint16)).save(tmp_path / 'x.png')
    raw = Preprocessing(mean=(0, 0, 0), std=(1, 1, 1))
    assert verify.load_image(tmp_path / 'x.png', raw, 32).unique().tolist() == [100]


@pytest.mark.parametrize('arch', ['squeezenet1_0', 'regnetx_200mf', 'mnasnet_a1', 'proxylessnas_mobile'])
def test_every_networks_classifier_is_measured(tmp_path, arch):
    folders = [tmp_path / name for name in 'ab']
    for folder in folders:
        folder.mkdir()
        Image.new('RGB', (64, 64)).save(folder / 'x.png')
    info = WeightsInfo(arch=arch, pretraining=Pretraining(data='x', size=64), source='x')
    w.save_weights(tmp_path / 'x.safetensors', build_classifier(arch, 2).state_dict(), info)
    result = verify.accuracy(tmp_path / 'x.safetensors', verify.find_images(tmp_path))
    assert result['num_images'] == 2  # one of two images that are alike, or none where both logits are
    assert result['top1'] in (0, 50)


def test_failed_writing_leaves_what_was_there(weights_info, tmp_path, monkeypatch):
    path = tmp_path / 'x.safetensors'
    path.write_bytes(b'before')

    def full_disk(_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full_disk)
    with pytest.raises(WeightsError, match=r'cannot write .*x\.safetensors: No space left on device'):
        w.save_weights(path, {'a': torch.zeros(3)}, weights_info)
    assert [p.name for p in tmp_path.iterdir()] == ['x.safetensors']
    assert path.read_bytes() == b'before'


def test_a_file_in_the_place_of_the_folder_is_one_line(weights_info, tmp_path):
    (tmp_path / 'folder').write_text('')
    with pytest.raises(WeightsError, match='cannot write'):
        w.save_weights(tmp_path / 'folder' / 'x.safetensors', {'a': torch.zeros(3)}, weights_info)


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
def test_a_file_cut_anywhere_is_a_weights_error(weights_info, tmp_path, share, kind):
    path = tmp_path / 'cut'
    tensors = {f'layer{i}': torch.randn(7, 5) for i in range(4)}
    if kind == 'safetensors':
        w.save_weights(path, tensors, weights_info)
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
