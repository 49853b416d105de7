"""Conversion of published weights, their accuracy on images, and tools/weights.py."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
import weights as tool  # tools/weights.py
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from backbones import Conventions, Preprocessing, StageHead, build_classifier, get_arch, list_archs
from backbones import weights as w
from backbones.weights import is_counter
from compactdet.errors import UserError
from compactdet.weights.convert import PREPROCESSING_NAMES, PublishedFacts, convert, convert_file
from compactdet.weights.formats import FORMATS
from compactdet.weights.verify import accuracy, find_images, load_image

ARCH = 'menet_108_8x1_g3'
MENET_FILE = 'weights/108-MENet-8x1-group-3.pth.tar'
MOBILENET_FILE = 'weights/mobilenet_v1_075_224_converted.pth'
MOBILENETV2_FILE = 'weights/mobilenet_v2_1.0_224_dequantised.pth'
TENSORFLOW = dict(padding='same', activation='relu6', bn_eps=1e-3)
FORMAT_OF = {fmt.name: fmt for fmt in FORMATS}


def renamed(entries, layers):
    """Return the entries with renamed layers."""
    parts = ((key.rpartition('.'), value) for key, value in entries.items())
    return {f'{layers[layer]}.{leaf}': value for (layer, _, leaf), value in parts}


@pytest.fixture(scope='module')
def published_entries(random_state):
    """Return a function that makes entries in a published format, from random weights."""

    def make(arch, name="the MENet authors' PyTorch files", prefix=''):
        fmt = FORMAT_OF[name]
        published = {ours: name for name, ours in fmt.layer_names(get_arch(arch)).items()}
        ours = random_state(arch, conventions=fmt.conventions)
        return {prefix + key: value for key, value in renamed(ours, published).items()}, ours

    return make


# Conversion


@pytest.mark.parametrize('arch', list_archs('menet_*'))
def test_menet_authors_files(published_entries, arch, tmp_path):
    prefix = 'module.' if 'g8' in arch else ''
    published, ours = published_entries(arch, prefix=prefix)
    torch.save({'state_dict': published, 'name': arch}, tmp_path / 'x.pth.tar')
    info = convert_file(tmp_path / 'x.pth.tar', arch, tmp_path / 'x.safetensors')
    state, read_info = w.read_weights(tmp_path / 'x.safetensors')
    assert info == read_info
    assert (info.arch, info.pretraining.top1) == (arch, None)
    assert state.keys() == ours.keys()
    assert all(torch.equal(state[key], ours[key]) for key in ours)


@pytest.mark.parametrize('arch', list_archs('mobilenet_*'))
def test_keras_mobilenet_files(published_entries, arch, tmp_path):
    published, ours = published_entries(arch, "Keras' MobileNet as a PyTorch file")
    published['features.conv1.bn.num_batches_tracked'] = torch.tensor(0)
    torch.save(published, tmp_path / 'x.pth')
    state, info = convert(tmp_path / 'x.pth', arch, PublishedFacts(top1=70, top5=90))
    assert info.conventions == Conventions(**TENSORFLOW)
    assert info.preprocessing == Preprocessing('rgb', (127.5,) * 3, (127.5,) * 3)
    assert (info.pretraining.top1, info.pretraining.top5) == (70, 90)
    assert all(torch.equal(state[key], ours[key]) for key in ours)


@pytest.mark.parametrize('arch', list_archs('shufflenetv2_*'))
def test_shufflenetv2_authors_files(published_entries, arch, tmp_path):
    published, ours = published_entries(arch, "the ShuffleNetV2 authors' PyTorch files")
    torch.save(published, tmp_path / 'x.pth')
    state, info = convert(tmp_path / 'x.pth', arch)
    assert info.preprocessing == Preprocessing('bgr', (0, 0, 0), (1, 1, 1))
    assert state.keys() == ours.keys()
    assert all(torch.equal(state[key], ours[key]) for key in ours)


def test_a_backbone_without_classifier_initializes_a_stage_head(random_state, tmp_path):
    arch = get_arch('shufflenetv2_0.5x')
    fmt = next(f for f in FORMATS if f.backbone_only)
    ours = {k: v for k, v in random_state(arch.name).items() if not k.startswith('head.')}
    layers = {mine: name for name, mine in fmt.layer_names(arch).items()}
    published = renamed(ours, layers)
    torch.save(published, tmp_path / 'x.pth')
    info = convert_file(tmp_path / 'x.pth', arch.name, tmp_path / 'x.safetensors')
    assert info.pretraining.data == 'not stated'
    half = StageHead(arch, init_cfg=dict(type='ClassifierWeights', checkpoint=tmp_path / 'x.safetensors'))
    half.init_weights()
    assert all(torch.equal(value, ours[key]) for key, value in half.state_dict().items() if key in ours)
    del published['stage4.3.branch_main.6.bias']
    torch.save(published, tmp_path / 'y.pth')
    with pytest.raises(UserError, match=r'missing: stage4\.3\.branch_main\.6\.bias'):
        convert(tmp_path / 'y.pth', arch.name)


@torch.no_grad()
def test_a_folded_mobilenetv2_computes_the_same_function(tmp_path):
    """The network's BN only adds a bias; the file has TensorFlow Lite's biases, class 0 and names."""
    torch.manual_seed(0)
    network = build_classifier('mobilenetv2_1x', 4, conventions=dict(padding='same', bn_eps=1e-3)).eval()
    fmt = next(f for f in FORMATS if f.before_renaming)
    published = {}
    for name, ours in fmt.layer_names(network.arch).items():
        layer = network.get_submodule(ours)
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_var.fill_(1 - 1e-3)
            published[f'x;{name.removesuffix(".bn")}.bias'] = layer.bias.normal_()
        elif isinstance(layer, nn.Conv2d):
            published[f'MobilenetV2.Conv.Conv2D_Fold;{name.removesuffix(".conv")}.weight'] = layer.weight
        else:
            published[f'x;{name}.weight'] = torch.cat([torch.ones(1, 1280), layer.weight])[..., None, None]
            published[f'x;{name}.bias'] = torch.cat([torch.ones(1), layer.bias])
    entries = fmt.before_renaming(published, network.arch)
    other = build_classifier('mobilenetv2_1x', 4, conventions=fmt.conventions).eval()
    loaded = other.load_state_dict(renamed(entries, fmt.layer_names(network.arch)), strict=False)
    assert not loaded.unexpected_keys
    assert all(is_counter(key) for key in loaded.missing_keys)
    x = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(other(x), network(x), rtol=1e-4, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_library_file_of_an_adapted_network(tmp_path, suffix):
    torch.manual_seed(0)
    published = torchvision.models.resnet18().eval()
    file, out = tmp_path / f'resnet18.{suffix}', tmp_path / 'out.safetensors'
    (torch.save if suffix == 'pth' else lambda state, path: save_file(state, path))(
        published.state_dict(), file
    )
    info = convert_file(file, 'torchvision:resnet18', out)
    assert (info.arch, info.source) == (
        'torchvision:resnet18',
        f"torchvision's resnet18, file resnet18.{suffix}",
    )
    ours = build_classifier('torchvision:resnet18').eval()
    ours.load_state_dict(w.read_weights(out)[0])
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours(x), published(x))


def test_library_file_of_another_network(tmp_path):
    torch.save(torchvision.models.resnet34().state_dict(), tmp_path / 'x.pth')
    with pytest.raises(UserError, match=r'does not fit torchvision:resnet18: 96 entries unused'):
        convert(tmp_path / 'x.pth', 'torchvision:resnet18')
    (tmp_path / 'y.safetensors').write_bytes(b'no')
    with pytest.raises(UserError, match=r'y\.safetensors cannot be read: '):
        convert(tmp_path / 'y.safetensors', 'torchvision:resnet18')


def test_differences_to_the_network_are_listed(published_entries, tmp_path):
    published, _ = published_entries(ARCH)
    del published['features.stage_2_3.s_conv.weight']
    published['features.stage_2_9.compress.weight'] = torch.zeros(1)
    published['classifier.weight'] = torch.zeros(1001, 432)
    torch.save({'state_dict': published}, tmp_path / 'x.pth')
    with pytest.raises(UserError) as caught:
        convert_file(tmp_path / 'x.pth', ARCH, tmp_path / 'out.safetensors')
    assert str(caught.value) == (
        f'{tmp_path}/x.pth does not fit {ARCH}: 1 entries missing: features.stage_2_3.s_conv.weight; '
        '1 entries unused: features.stage_2_9.compress.weight; '
        '1 entries misshapen: head.fc.bias (1000,) instead of (1001,)'
    )
    assert not (tmp_path / 'out.safetensors').exists()


def test_the_matching_archs_are_named(published_entries, tmp_path):
    published, _ = published_entries('menet_256_12x1_g4')
    torch.save({'state_dict': published}, tmp_path / 'x.pth')
    with pytest.raises(
        UserError, match=r'entries misshapen: .*, \.\.\.; it fits menet_256_12x1_g4, menet_256_12x1_g4_add'
    ):
        convert(tmp_path / 'x.pth', ARCH)
    with pytest.raises(
        UserError, match=r"the format of the MENet authors' .*, of MENet; mobilenet_1x is a MobileNet"
    ):
        convert(tmp_path / 'x.pth', 'mobilenet_1x')
    with pytest.raises(UserError, match=r"unknown arch 'menet_256_12x1_g5'; near: .*menet_256_12x1_g4"):
        convert(tmp_path / 'x.pth', 'menet_256_12x1_g5')
    with pytest.raises(UserError, match=r'top1=560.* percent'):
        convert(tmp_path / 'x.pth', 'menet_256_12x1_g4', PublishedFacts(top1=560))
    with pytest.raises(UserError, match='is the input file'):
        convert_file(tmp_path / 'x.pth', 'menet_256_12x1_g4', tmp_path / 'x.pth')


def test_unknown_formats(tmp_path):
    path = tmp_path / 'x.pth'
    for content, message in [
        (
            {'layer1.0.conv1.weight': torch.zeros(1)},
            r"no known format of MENet .*layer1\.0\.conv1\.weight.*known formats: the MENet authors'",
        ),
        ({'state_dict': {'a': 1, 'b': torch.zeros(1)}}, 'no state_dict: 1 entries that are not tensors: a'),
        ([torch.zeros(1)], 'contains no state_dict'),
        ({}, 'contains no state_dict'),
    ]:
        torch.save(content, path)
        with pytest.raises(UserError, match=message):
            convert(path, ARCH)


@pytest.mark.shared
def test_official_menet_gives_the_known_logits(published_entries, shared, tmp_path):
    out = tmp_path / 'menet.safetensors'
    info = convert_file(shared / MENET_FILE, ARCH, out)
    assert (info.pretraining.top1, info.pretraining.top5) == (56.08, 79.24)
    state, _ = w.read_weights(out)
    published = w.load_pickle_safely(shared / MENET_FILE)['state_dict']
    assert len(state) == len(published) == 487
    assert (
        published.keys() == published_entries(ARCH)[0].keys()
    )  # the generated files have the names of the real one
    model = build_classifier(ARCH)
    model.load_state_dict(state, strict=True)
    x = torch.sin(0.01 * torch.arange(3 * 224 * 224, dtype=torch.float64)).float().view(1, 3, 224, 224)
    with torch.no_grad():
        logits = model.eval()(x)[0]
    expected = [-3.7814, 2.51741, -1.54092, -4.66729, -2.68861, -2.09181, -0.71993, -4.28376]
    torch.testing.assert_close(logits[:8], torch.tensor(expected), atol=1e-3, rtol=0)
    assert logits.argmax() == 904
    assert logits.sum().item() == pytest.approx(0.1361, abs=1e-3)
    assert logits.norm().item() == pytest.approx(119.5381, abs=1e-3)


@pytest.mark.shared
@pytest.mark.parametrize(
    ('file', 'arch'), [(MOBILENET_FILE, 'mobilenet_0.75x'), (MOBILENETV2_FILE, 'mobilenetv2_1x')]
)
def test_tensorflow_mobilenets_classify_images(shared, tmp_path, file, arch):
    out = tmp_path / 'mobilenet.safetensors'
    convert_file(shared / file, arch, out)
    images = find_images(shared / 'data/imagenet_sample')
    assert len(images) == 250
    assert accuracy(out, images[::10])['top1'] >= 80


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(
    ('file', 'arch', 'top1', 'top5'),
    [
        (MENET_FILE, ARCH, 65.6, 84.8),
        (MOBILENET_FILE, 'mobilenet_0.75x', 84.4, 96.8),
        (MOBILENETV2_FILE, 'mobilenetv2_1x', 91.2, 99.2),
    ],
)
def test_accuracy_on_the_image_sample(shared, tmp_path, file, arch, top1, top5):
    convert_file(shared / file, arch, tmp_path / 'x.safetensors')
    result = accuracy(tmp_path / 'x.safetensors', find_images(shared / 'data/imagenet_sample'))
    assert result == {
        'top1': pytest.approx(top1, abs=0.41),
        'top5': pytest.approx(top5, abs=0.41),
        'num_images': 250,
    }


# Accuracy


@pytest.fixture
def image_folder(tmp_path):
    """Create five images in the folders of classes 0, 0, 3, 4 and 7 of ten."""
    for number in range(10):
        (tmp_path / f'class{number}').mkdir()
    for i, number in enumerate([0, 0, 3, 4, 7]):
        Image.new('RGB', (300 + i, 260), (10 * i, 20, 30)).save(tmp_path / f'class{number}' / f'{i}.png')
    return tmp_path


@pytest.fixture
def ranking_file(weights_info, tmp_path):
    """Write a classifier of ten classes that ranks them 0, 1, ... 9 for every image."""
    state = build_classifier(ARCH, 10).state_dict()
    state['head.fc.weight'].zero_()
    state['head.fc.bias'] = -torch.arange(10.0)
    w.save_weights(tmp_path / 'ten.safetensors', state, weights_info)
    return tmp_path / 'ten.safetensors'


def test_accuracy_of_a_known_ranking(image_folder, ranking_file):
    images = find_images(image_folder)
    assert [number for _, number in images] == [0, 0, 3, 4, 7]
    assert accuracy(ranking_file, images) == {'top1': 40, 'top5': 80, 'num_images': 5}


def test_a_tie_counts_against_the_correct_class(weights_info, image_folder, tmp_path):
    state = build_classifier(ARCH, 10).state_dict()
    path = tmp_path / 'ten.safetensors'
    w.save_weights(
        path, state | {'head.fc.weight': torch.zeros(10, 432)}, weights_info
    )  # one logit for all
    assert accuracy(path, find_images(image_folder)) == {'top1': 0, 'top5': 0, 'num_images': 5}
    w.save_weights(path, state | {'head.fc.bias': torch.full((10,), torch.nan)}, weights_info)
    with pytest.raises(UserError, match=r'ten\.safetensors gives NaN or infinite logits for .*class0'):
        accuracy(path, find_images(image_folder))


def test_classes_from_file_names_and_a_list(tmp_path, ranking_file):
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


@pytest.mark.parametrize(('order', 'color'), [('rgb', (200, 100, 50)), ('bgr', (50, 100, 200))])
def test_preprocessing_of_an_image(tmp_path, order, color):
    Image.new('RGB', (500, 300), (200, 100, 50)).save(tmp_path / 'x.png')
    preprocessing = Preprocessing(order, (1, 2, 3), (4, 5, 6))
    x = load_image(tmp_path / 'x.png', preprocessing)
    assert x.shape == (3, 224, 224)
    assert x.dtype == torch.float32
    for channel in range(3):
        expected = (color[channel] - (1, 2, 3)[channel]) / (4, 5, 6)[channel]
        assert x[channel].unique().tolist() == pytest.approx([expected])


def test_the_center_of_the_image_is_cropped(tmp_path):
    pixels = np.zeros((256, 320, 3), np.uint8)
    pixels[16:240, 48:272] = 255  # the middle 224x224; the shorter side is already 256
    Image.fromarray(pixels).save(tmp_path / 'x.png')
    x = load_image(tmp_path / 'x.png', Preprocessing('rgb', (0, 0, 0), (255, 255, 255)))
    assert x.min() == 1


def test_errors_of_images_and_folders(image_folder, ranking_file, tmp_path):
    with pytest.raises(UserError, match='no such folder of images'):
        find_images(tmp_path / 'absent')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='contains no image'):
        find_images(tmp_path / 'empty')
    (image_folder / 'class2' / 'x.jpg').write_bytes(b'\xff\xd8\xff')
    with pytest.raises(UserError, match=r'cannot read the image .*class2/x\.jpg'):
        accuracy(ranking_file, find_images(image_folder))
    with pytest.raises(UserError, match=r'class number 10, but .* has 10 classes'):
        accuracy(ranking_file, [(image_folder / 'class0' / '0.png', 10)])


# The command


def test_commands(published_entries, image_folder, ranking_file, tmp_path, capsys):
    published, _ = published_entries(ARCH)
    torch.save({'state_dict': published}, tmp_path / 'x.pth')
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
    with pytest.raises(w.WeightsError, match='cannot read'):
        tool.main(['inspect', str(tmp_path / 'absent')])
    with pytest.raises(SystemExit) as caught:
        tool.main(['convert', 'x.pth'])
    assert caught.value.code == 2
    with pytest.raises(SystemExit) as caught:
        tool.main(['--help'])
    assert caught.value.code == 0
    assert 'python tools/weights.py convert' in capsys.readouterr().out


def test_names_of_preprocessing():
    assert tuple(PREPROCESSING_NAMES) == tool.IMAGES_AS


def test_exit_status(weights_file, tmp_path):
    script = Path(__file__).parents[2] / 'tools/weights.py'
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
