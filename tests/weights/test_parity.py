"""Converted weights give the logits of the published network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from backbones import Conventions, StageHead, build_backbone, build_classifier, get_arch
from backbones import weights as w
from compactdet.errors import UserError
from compactdet.weights.convert import NO_FACTS, PublishedFacts, convert, convert_file

from author_networks import AuthorsCondenseNet, MegviiShuffleNetV1, MegviiShuffleNetV2Plus
from peers import randomize_bn


def logits(network: nn.Module, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return network.eval()(torch.randn(2, 3, size, size, generator=generator))


def random_network(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    network = make()
    with torch.no_grad():
        randomize_bn(network)
    return network


def check(
    arch: str,
    make: Callable[[], nn.Module],
    folder: Path,
    *,
    size: int = 64,
    prefix: str = '',
    facts: PublishedFacts = NO_FACTS,
) -> w.WeightsInfo:
    """Save a network as its publisher does, convert the file, and compare the logits of both networks."""
    published = random_network(make)
    state = {prefix + key: value for key, value in published.state_dict().items()}
    torch.save({'state_dict': state}, folder / 'x.pth.tar')
    info = convert_file(folder / 'x.pth.tar', arch, folder / 'x.safetensors', facts)
    state, read = w.read_weights(folder / 'x.safetensors')
    assert read == info
    ours = build_classifier(arch, w.num_classes_of(state, arch), conventions=info.conventions)
    loaded = ours.load_state_dict(state, strict=False)
    assert not loaded.unexpected_keys
    assert all(w.is_counter(key) for key in loaded.missing_keys)
    expected = logits(published, size)
    assert expected.std(0).max() > 0  # the logits depend on the image
    torch.testing.assert_close(
        logits(ours, size), expected, rtol=0, atol=1e-5 * expected.abs().max().item()
    )
    return info


# The authors' code


@pytest.mark.parametrize(
    ('arch', 'stem', 'width', 'groups'),
    [
        ('shufflenet_1x_g3', 24, 240, 3),  # the 20 channels per group are not a multiple of 3
        ('shufflenet_0.5x_g3', 12, 120, 3),
        ('shufflenet_1x_g1', 24, 144, 1),
        ('shufflenet_2x_g3', 48, 480, 3),
        ('shufflenet_1.5x_g3', 24, 360, 3),
    ],
)
def test_shufflenet_authors_network(arch: str, stem: int, width: int, groups: int, tmp_path: Path) -> None:
    """The published network has another order of concatenation, the inverse shuffle and no bias."""
    info = check(arch, lambda: MegviiShuffleNetV1(stem, width, groups), tmp_path, prefix='module.', size=96)
    assert info.preprocessing.channel_order == 'bgr'
    if arch == 'shufflenet_1x_g3':
        with pytest.raises(UserError, match=r'shufflenet_1x_g3_noshuffle has no channel shuffle'):
            convert(tmp_path / 'x.pth.tar', 'shufflenet_1x_g3_noshuffle')
        with pytest.raises(UserError, match=r'misshapen: .*; it fits shufflenet_1x_g3$'):
            convert(tmp_path / 'x.pth.tar', 'shufflenet_0.5x_g3')


@pytest.mark.parametrize(('width', 'groups'), [(384, 8), (272, 4)])
def test_an_inverse_shuffle_that_cannot_be_converted(width: int, groups: int, tmp_path: Path) -> None:
    torch.save(MegviiShuffleNetV1(24, width, groups).state_dict(), tmp_path / 'x.pth')
    with pytest.raises(UserError, match=rf'with {groups} groups of .* passes other numbers .* cannot'):
        convert(tmp_path / 'x.pth', f'shufflenet_1x_g{groups}')


def test_shufflenetv2plus_authors_network(tmp_path: Path) -> None:
    check('shufflenetv2plus_small', MegviiShuffleNetV2Plus, tmp_path)


A, CIFAR = ((2, 4, 6, 8, 4), (8, 8, 16, 32, 64)), ((14, 14, 14), (8, 16, 32))
V2_A = ((1, 1, 4, 6, 8), (8, 8, 16, 32, 64))


@pytest.mark.parametrize('drops', [0, 3, 7, None])
def test_condensenet_authors_network(drops: int | None, tmp_path: Path) -> None:
    info = check('condensenet_a', lambda: AuthorsCondenseNet(*A, 8, drops=drops), tmp_path, size=64)
    assert info.conventions == Conventions(sparsity='converted' if drops is None else 'masked')
    state, _ = w.read_weights(tmp_path / 'x.safetensors')
    if drops is not None:
        assert {tuple(v.tolist()) for k, v in state.items() if k.endswith('.drops')} == {(drops, 7)}


def test_condensenet_authors_network_for_cifar(tmp_path: Path) -> None:
    def make() -> nn.Module:
        return AuthorsCondenseNet(*CIFAR, 4, drops=3, num_classes=10)

    check('condensenet_86_cifar', make, tmp_path, size=32, facts=PublishedFacts(data='CIFAR-10'))


@pytest.mark.parametrize('drops', [0, 7, None])
def test_condensenetv2_authors_network(drops: int | None, tmp_path: Path) -> None:
    check('condensenetv2_a', lambda: AuthorsCondenseNet(*V2_A, 8, drops=drops, wide=828), tmp_path, size=64)
    state, _ = w.read_weights(tmp_path / 'x.safetensors')
    if drops == 7:  # all drops are made, so it can be converted to the test-time form
        from backbones.sparsity import converted_state_dict

        converted = build_classifier('condensenetv2_a', conventions={'sparsity': 'converted'})
        converted.load_state_dict(converted_state_dict(state), strict=False)
        masked = build_classifier('condensenetv2_a')
        masked.load_state_dict(state, strict=False)
        torch.testing.assert_close(logits(converted, 64), logits(masked, 64), rtol=0, atol=1e-5)


def test_invalid_masks_and_indices(tmp_path: Path) -> None:
    state = AuthorsCondenseNet(*V2_A, 8, drops=1, wide=828).state_dict()
    key = 'features.denseblock_1.denselayer_1.conv_1._mask'
    state[key][0, 0] = 1 - state[key][0, 0]
    torch.save(state, tmp_path / 'x.pth')
    with pytest.raises(UserError, match=rf'{key}: the masks within a group of 8 differ'):
        convert(tmp_path / 'x.pth', 'condensenetv2_a')
    state = AuthorsCondenseNet(*V2_A, 8, drops=None, wide=828).state_dict()
    key = 'features.denseblock_1.denselayer_1.sfr.index'
    state[key][0] = 1
    torch.save(state, tmp_path / 'x.pth')
    with pytest.raises(UserError, match=rf'{key}: a row does not select exactly one channel'):
        convert(tmp_path / 'x.pth', 'condensenetv2_a')


def test_the_moving_average_is_preferred(tmp_path: Path) -> None:
    average = random_network(lambda: torchvision.models.mobilenet_v3_small(num_classes=3)).state_dict()
    last = torchvision.models.mobilenet_v3_small(num_classes=3).state_dict()
    torch.save({'state_dict': last, 'state_dict_ema': average, 'epoch': 3}, tmp_path / 'x.pth')
    state, _ = convert(tmp_path / 'x.pth', 'mobilenetv3_small_1x')
    assert torch.equal(state['head.fc.weight'], average['classifier.3.weight'])


# Libraries


@pytest.mark.parametrize(
    ('arch', 'name'),
    [
        ('mobilenetv2_1x', 'mobilenet_v2'),
        ('mobilenetv3_large_1x', 'mobilenet_v3_large'),
        ('mobilenetv3_small_1x', 'mobilenet_v3_small'),
        ('efficientnet_b0', 'efficientnet_b0'),
        pytest.param('efficientnet_b5', 'efficientnet_b5', marks=pytest.mark.slow),
    ],
)
def test_torchvision_networks(arch: str, name: str, tmp_path: Path) -> None:
    check(arch, getattr(torchvision.models, name), tmp_path)


@pytest.mark.parametrize(
    ('arch', 'name'),
    [
        ('mobilenet_1x', 'mobilenetv1_100'),
        ('mobilenetv2_1x', 'mobilenetv2_100'),
        ('mobilenetv3_large_1x', 'mobilenetv3_large_100'),
        ('mobilenetv3_small_0.75x', 'mobilenetv3_small_075'),
        ('mobilenetv3_large_0.75x', 'tf_mobilenetv3_large_075'),
        ('efficientnet_b0', 'efficientnet_b0'),
        ('efficientnet_b1', 'tf_efficientnet_b1'),
        ('ghostnet_1x', 'ghostnet_100'),
        ('ghostnet_1.3x', 'ghostnet_130'),
    ],
)
def test_timm_networks(arch: str, name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip('timm')
    tensorflow = Conventions(padding='same', bn_eps=1e-3) if name.startswith('tf_') else None
    facts = PublishedFacts(conventions=tensorflow)
    check(arch, lambda: timm.create_model(name), tmp_path, facts=facts)


@pytest.mark.parametrize(
    ('arch', 'name', 'size'),
    [
        ('menet_108_8x1_g3', 'menet108_8x1_g3', 224),
        ('shufflenet_0.5x_g3', 'shufflenet_g3_wd2', 224),
        ('mobilenet_0.5x', 'mobilenet_wd2', 224),
        ('mobilenetv2_1x', 'mobilenetv2b_w1', 224),
        ('igcv3d_1x', 'igcv3_w1', 224),
        ('condensenet_c', 'condensenet74_c8_g8', 224),
    ],
)
def test_pytorchcv_networks(arch: str, name: str, size: int, tmp_path: Path) -> None:
    provider = pytest.importorskip('pytorchcv.model_provider')
    check(arch, lambda: provider.get_model(name), tmp_path, size=size)


def test_unordered_entries(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    provider = pytest.importorskip('pytorchcv.model_provider')
    save_file(provider.get_model('mobilenet_wd4').state_dict(), tmp_path / 'x.safetensors')
    with pytest.raises(UserError, match='does not keep the order of the entries'):
        convert(tmp_path / 'x.safetensors', 'mobilenet_0.25x')


def mmpretrain_network(
    backbone: dict, channels: int, hidden: int = 0, num_classes: int = 1000
) -> nn.Module:
    pytest.importorskip('mmpretrain.models')
    from mmpretrain.registry import MODELS

    head = dict(type='LinearClsHead', num_classes=num_classes, in_channels=channels)
    if hidden:
        head |= dict(type='StackedLinearClsHead', mid_channels=[hidden], act_cfg=dict(type='HSwish'))
    neck = dict(type='GlobalAveragePooling')
    return MODELS.build(dict(type='ImageClassifier', backbone=backbone, neck=neck, head=head))


@pytest.mark.parametrize(
    ('arch', 'backbone', 'channels', 'hidden'),
    [
        ('mobilenetv2_1x', dict(type='MobileNetV2'), 1280, 0),
        ('mobilenetv3_large_1x', dict(type='MobileNetV3', arch='large'), 960, 1280),
        ('mobilenetv3_small_1x', dict(type='MobileNetV3', arch='small'), 576, 1024),
        ('mobilenetv3_small_0.75x', dict(type='MobileNetV3', arch='small_075'), 432, 1024),
        ('efficientnet_b0', dict(type='EfficientNet', arch='b0'), 1280, 0),
        ('shufflenet_1x_g3', dict(type='ShuffleNetV1', groups=3), 960, 0),
        ('shufflenet_1x_g4', dict(type='ShuffleNetV1', groups=4), 1088, 0),
        ('regnetx_400mf', dict(type='RegNet', arch='regnetx_400mf'), 384, 0),
        pytest.param('resnet101', dict(type='ResNet', depth=101), 2048, 0, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings('ignore:In MMCV v1.4.4')
def test_mmpretrain_networks(arch: str, backbone: dict, channels: int, hidden: int, tmp_path: Path) -> None:
    check(arch, lambda: mmpretrain_network(backbone, channels, hidden), tmp_path)


@pytest.mark.slow
def test_mmpretrain_vgg(tmp_path: Path) -> None:
    def make() -> nn.Module:
        pytest.importorskip('mmpretrain.models')
        from mmpretrain.registry import MODELS

        backbone = dict(type='VGG', depth=16, num_classes=1000)
        return MODELS.build(dict(type='ImageClassifier', backbone=backbone, head=dict(type='ClsHead')))

    check('vgg16', make, tmp_path, size=224)


# Any number of classes, and none


@pytest.mark.parametrize(('arch', 'classes'), [('mobilenetv2_1x', 7), ('squeezenet1_0', 5)])
def test_other_numbers_of_classes(arch: str, classes: int, tmp_path: Path) -> None:
    name = get_arch(arch).source.partition(':')[2] if arch != 'mobilenetv2_1x' else 'mobilenet_v2'
    make = getattr(torchvision.models, name)
    info = check(arch, lambda: make(num_classes=classes), tmp_path, size=128)
    assert info.pretraining.data == 'not stated'  # another number of classes than ImageNet
    state, _ = w.read_weights(tmp_path / 'x.safetensors')
    assert w.num_classes_of(state, arch) == classes
    _, info = convert(tmp_path / 'x.pth.tar', arch, PublishedFacts(data='flowers'))
    assert info.pretraining.data == 'flowers'


def detector_entries(backbone: nn.Module, **others: Tensor) -> dict[str, Tensor]:
    return {f'backbone.{key}': value for key, value in backbone.state_dict().items()} | others


MM_CONFIG = """
model = dict(
    backbone=dict(depth=101, type='ResNet'),
    data_preprocessor=dict(
        bgr_to_rgb=True, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
        type='DetDataPreprocessor'),
    evil=__import__('os').system('touch executed'))
"""
OLD_CONFIG = 'img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)\n'


@pytest.mark.slow
def test_backbone_of_an_mmdetection_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    published = random_network(torchvision.models.resnet101)
    del published.fc  # MMDetection's ResNet has the same names of layers as torchvision's
    content: dict[str, Any] = {
        'state_dict': detector_entries(
            published, **{'neck.x.weight': torch.ones(1), 'bbox_head.y': torch.ones(1)}
        )
    }
    torch.save(content, 'x.pth')
    with pytest.raises(
        UserError, match=r'x\.pth is a detector checkpoint that does not state its preprocessing'
    ):
        convert('x.pth', 'resnet101')
    for config, order, std in ((MM_CONFIG, 'rgb', 58.395), (OLD_CONFIG, 'bgr', 1.0)):
        torch.save(content | {'meta': {'cfg': config}}, 'x.pth')
        info = convert_file('x.pth', 'resnet101', tmp_path / 'out.safetensors')
        assert (info.preprocessing.channel_order, info.preprocessing.std[0]) == (order, std)
        assert info.pretraining.data == 'not stated'
        assert info.source == "mmpretrain's format of resnet101, backbone of a detector, file x.pth"
    assert not Path('executed').exists()
    backbone = build_backbone(
        'resnet101', (4, 32), init_cfg=dict(type='ClassifierWeights', checkpoint='out.safetensors')
    )
    backbone.init_weights()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        y = published.eval().maxpool(published.relu(published.bn1(published.conv1(x))))
        y = published.layer4(published.layer3(published.layer2(published.layer1(y))))
        torch.testing.assert_close(backbone.eval()(x)[-1], y)
    state, _ = w.read_weights('out.safetensors')
    assert w.num_classes_of(state, 'resnet101') is None


def test_backbone_of_a_c4_detector_of_the_suite(random_state: Callable, tmp_path: Path) -> None:
    arch = 'mobilenetv3_small_1x'
    ours = random_state(arch, conventions=dict(bn_eps=1e-3))
    state = {'rpn_head.rpn_conv.weight': torch.ones(1)}
    for key, value in ours.items():
        if key.startswith('stage32'):
            state[f'roi_head.shared_head.{key}'] = value
        elif not key.startswith('head.'):
            state[f'backbone.{key}'] = value
    inputs = "Preprocessing(channel_order='rgb', mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0)), Conventions("
    inputs += "padding='symmetric', activation='relu', bn_eps=0.001)"
    torch.save({'state_dict': state, 'meta': {'inputs': inputs}}, tmp_path / 'x.pth')
    info = convert_file(tmp_path / 'x.pth', arch, tmp_path / 'x.safetensors')
    assert info.conventions == Conventions(bn_eps=1e-3)
    assert info.preprocessing.std == (4, 5, 6)
    init = dict(type='ClassifierWeights', checkpoint=tmp_path / 'x.safetensors')
    half = StageHead(arch, conventions=dict(bn_eps=1e-3), init_cfg=init)
    half.init_weights()
    assert all(torch.equal(value, ours[key]) for key, value in half.state_dict().items() if key in ours)
    del state['roi_head.shared_head.stage32.0.expand.bn.bias']
    torch.save({'state_dict': state, 'meta': {'inputs': inputs}}, tmp_path / 'x.pth')
    with pytest.raises(UserError, match=r'1 entries missing: stage32\.0\.expand\.bn\.bias'):
        convert(tmp_path / 'x.pth', arch)
