"""A network meets a detector: widths and conventions are derived, and every config builds and trains."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from networks import archs

from backbones import Conventions, Preprocessing, build_backbone, get_arch
from backbones.spec import UnknownArchError
from backbones.weights import WeightsError, check_preprocessing, save_weights
from backbones.wiring import (
    detectors,
    frcnn_c4,
    frcnn_fpn,
    halves,
    retinanet_fpn,
    set_init,
)
from compactdet.config import strict
from compactdet.evaluation.metric import MAIN_FIGURE
from compactdet.mmdetection import MODELS

from detector_leaf import batch, detector_config

CONFIGS = Path(__file__).parents[2] / 'det_configs'
LEAVES = sorted(CONFIGS.glob('*.py'))
ARCH = 'menet_108_8x1_g3'
WIRINGS = [frcnn_c4, frcnn_fpn, retinanet_fpn]


@pytest.fixture(autouse=True)
def mmdet_scope() -> Iterator[None]:
    """Where a runner looks classes up."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


# Widths


@pytest.mark.parametrize('arch', archs())
def test_widths_are_those_of_the_network(arch: str) -> None:
    strides = [*get_arch(arch).strides]
    with torch.device('meta'):
        maps = build_backbone(arch, strides).eval()(torch.empty(1, 3, 64, 64))
    channels = {stride: m.shape[1] for stride, m in zip(strides, maps, strict=True)}
    able = detectors(arch)
    if 'frcnn_c4' in able:
        model = frcnn_c4(arch, num_classes=7, init=None)
        assert model['backbone']['out_strides'] == (16,)
        assert model['roi_head']['shared_head']['in_stride'] == 16
        assert model['rpn_head']['in_channels'] == channels[16]
        assert model['roi_head']['bbox_roi_extractor']['out_channels'] == channels[16]
        assert model['roi_head']['bbox_head'] == dict(in_channels=channels[32], num_classes=7)
    if 'frcnn_fpn' in able:
        model = frcnn_fpn(arch, num_classes=7, init=None)
        assert model['backbone']['out_strides'] == (4, 8, 16, 32)
        assert model['neck']['in_channels'] == [channels[stride] for stride in (4, 8, 16, 32)]
        assert model['roi_head']['bbox_head']['num_classes'] == 7
    if 'retinanet_fpn' in able:
        model = retinanet_fpn(arch, num_classes=7, init=None)
        assert model['backbone']['out_strides'] == (8, 16, 32)
        assert model['neck']['in_channels'] == [channels[stride] for stride in (8, 16, 32)]
        assert model['bbox_head']['num_classes'] == 7
    for wire in WIRINGS:
        if wire.__name__ not in able:
            with pytest.raises(ValueError, match=rf'has no .*, which {wire.__name__} needs'):
                wire(arch, num_classes=7, init=None)


@pytest.mark.parametrize('wire', WIRINGS)
def test_what_a_wiring_is_told_reaches_every_half(wire: Any) -> None:
    model = wire(ARCH, num_classes=2, init='a/{arch}.safetensors', bn_policy='eval', frozen_stages=1)
    assert model['backbone']['frozen_stages'] == 1
    assert len([*halves(model)]) == (2 if wire is frcnn_c4 else 1)
    for half in halves(model):
        assert (half['arch'], half['bn_policy']) == (ARCH, 'eval')
        assert half['init_cfg'] == dict(type='ClassifierWeights', checkpoint=f'a/{ARCH}.safetensors')
    usual = 'frozen' if wire is frcnn_c4 else 'eval'
    assert {half['bn_policy'] for half in halves(wire(ARCH, num_classes=2))} == {usual}
    frozen = wire(ARCH, num_classes=2, frozen_stride=4)
    assert frozen['backbone']['frozen_stride'] == 4
    set_init(frozen, None)
    assert frozen == wire(ARCH, num_classes=2, init=None)  # random weights are not frozen


@pytest.mark.parametrize(
    ('arch', 'parts'),
    [
        ('shufflenet_1x_g3', ['stem']),
        ('mobilenet_1x', ['stem', 'stage2', 'stage4']),
        ('condensenetv2_a', ['stem', 'stage2', 'stage4']),
        ('resnet101', ['stem', 'stage4']),
    ],
)
def test_a_network_is_frozen_up_to_its_map_at_stride_4(arch: str, parts: list[str]) -> None:
    with torch.device('meta'):
        network = build_backbone(arch, (8,), frozen_stride=4)
    frozen = {name.split('.')[0] for name, p in network.named_parameters() if not p.requires_grad}
    trained = {name.split('.')[0] for name, p in network.named_parameters() if p.requires_grad}
    assert (sorted(frozen), trained) == (sorted(parts), {'stage8'})


@pytest.mark.parametrize('wire', WIRINGS)
def test_an_unknown_arch_names_those_that_are_near(wire: Any) -> None:
    with pytest.raises(UnknownArchError, match=r"'menet_108_8x1_g4'; near: .*menet_108_8x1_g3"):
        wire('menet_108_8x1_g4', num_classes=2)


# Initial weights

TENSORFLOW = Conventions(padding='same', activation='relu6', bn_eps=1e-3)
BGR = Preprocessing('bgr', (1, 2, 3), (4, 5, 6))


@pytest.fixture
def tensorflow_weights(random_state: Any, weights_info: Any, tmp_path: Path) -> str:
    info = replace(weights_info, arch='mobilenet_0.25x', conventions=TENSORFLOW, preprocessing=BGR)
    path = tmp_path / 'x.safetensors'
    save_weights(path, random_state(info.arch, conventions=TENSORFLOW), info)
    return str(path)


@pytest.mark.parametrize('wire', WIRINGS)
def test_what_weights_were_trained_with_goes_with_them(wire: Any, tensorflow_weights: str) -> None:
    model = wire('mobilenet_0.25x', num_classes=2, init=tensorflow_weights)
    assert model['data_preprocessor'] == dict(
        type='DetDataPreprocessor', mean=[1, 2, 3], std=[4, 5, 6], bgr_to_rgb=False, pad_size_divisor=32
    )
    assert [half['conventions'] for half in halves(model)] == [asdict(TENSORFLOW)] * len([*halves(model)])
    before = model['backbone']
    set_init(model, None)
    assert model['data_preprocessor']['mean'] == [123.675, 116.28, 103.53]
    assert model['data_preprocessor']['bgr_to_rgb'] is True
    assert model['backbone'] is before
    for half in halves(model):
        assert half['conventions'] == asdict(Conventions())
        assert (half['init_cfg'], half['bn_policy']) == (None, 'train')


def test_both_halves_are_filled_and_the_preprocessor_agrees(
    tensorflow_weights: str, tmp_path: Path
) -> None:
    wiring = f"frcnn_c4('mobilenet_0.25x', num_classes=2, init={tensorflow_weights!r})"
    model = MODELS.build(detector_config(tmp_path, 'frcnn_c4', wiring).model)
    model.init_weights()
    assert model.backbone.loaded_from == replace(
        model.roi_head.shared_head.loaded_from, num_keys=model.backbone.loaded_from.num_keys
    )
    check_preprocessing(model)


def test_weights_of_another_arch_are_refused(weights_file: Path) -> None:
    with pytest.raises(
        WeightsError, match=rf'x\.safetensors holds the weights of {ARCH}; .* needs menet_352'
    ):
        frcnn_c4('menet_352_12x1_g8', num_classes=2, init=str(weights_file))


# Whole detectors


@pytest.mark.parametrize('leaf', LEAVES, ids=lambda path: path.stem)
def test_a_leaf_config_says_all_and_builds(leaf: Path) -> None:
    cfg = strict.load(leaf)
    again = Config.fromstring(cfg.pretty_text, '.py')
    assert again.to_dict() == cfg.to_dict()
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    assert model.backbone.arch == get_arch(cfg.model.backbone.arch)
    assert {half.bn_policy for half in halves(cfg.model)} == {model.backbone.bn_policy}
    assert f'tools/train.py det_configs/{leaf.name}' in leaf.read_text()


# arXiv:1803.09127, Table VIII: the network and its mAP in percent.
PAPER = {
    'menet_frcnn_voc': ('menet_352_12x1_g8', 58.9),
    'shufflenet_frcnn_voc': ('shufflenet_1x_g3', 56.6),
    'mobilenet_frcnn_voc': ('mobilenet_0.5x', 54.8),
    'menet_550m_frcnn_voc': ('menet_456_24x1_g3', 65.5),
    'shufflenet_550m_frcnn_voc': ('shufflenet_2x_g3', 63.5),
    'mobilenet_550m_frcnn_voc': ('mobilenet_1x', 62.4),
}


def test_every_voc_config_is_in_the_papers_table() -> None:
    assert {leaf.stem for leaf in LEAVES if leaf.stem.endswith('_voc')} == PAPER.keys()


@pytest.mark.parametrize('name', PAPER)
def test_a_voc_config_is_the_papers_row(name: str) -> None:
    arch, figure = PAPER[name]
    cfg = strict.load(CONFIGS / f'{name}.py')
    model = cfg.model
    assert (model.backbone.arch, model.roi_head.shared_head.arch) == (arch, arch)
    assert 'stride' not in model.roi_head.shared_head  # its default, 1
    assert model.roi_head.bbox_roi_extractor.roi_layer.type == 'RoIAlign'
    assert model.roi_head.bbox_head.num_classes == 20
    assert model.test_cfg.rpn.max_per_img == 300
    for loader, split in ((cfg.train_dataloader, 'trainval'), (cfg.test_dataloader, 'test')):
        resize = [step for step in loader.dataset.pipeline if step.type == 'Resize']
        assert [(step.scale, step.keep_ratio) for step in resize] == [((1000, 600), True)]
        assert loader.dataset.ann_file == f'VOC2007/ImageSets/Main/{split}.txt'
        assert len(loader.dataset.metainfo.classes) == 20
    assert cfg.test_evaluator == dict(type='DetectionMetric')
    assert MAIN_FIGURE == 'voc/ap50_11point'
    text = (CONFIGS / f'{name}.py').read_text()
    assert f'Paper: mAP {figure} %' in text
    assert f'weights/{arch}.safetensors' in text


DETECTORS = {
    'menet': 'menet_frcnn_shapes',
    'shufflenet': 'shufflenet_frcnn_voc',
    'mobilenet': 'mobilenet_frcnn_voc',
    'roi_pool': 'shufflenet_1x_frcnn_coco_300',
    'frcnn_fpn': f"frcnn_fpn('{ARCH}', num_classes=3, init=None)",
    'retinanet_fpn': f"retinanet_fpn('{ARCH}', num_classes=3, init=None)",
}


@pytest.mark.parametrize('name', DETECTORS)
def test_every_part_of_a_detector_learns_and_it_predicts(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = DETECTORS[name]
    if '(' in source:
        cfg = detector_config(tmp_path, name, source)
    else:
        cfg = strict.load(CONFIGS / f'{source}.py')
    set_init(cfg.model, None)
    cfg.model.test_cfg.get('rcnn', cfg.model.test_cfg).score_thr = 0.0  # nothing has learned yet
    model = MODELS.build(cfg.model).train()
    num_classes = cfg.model.get('roi_head', cfg.model).bbox_head.num_classes
    data = model.data_preprocessor(batch(num_classes), training=True)
    assert data['inputs'].shape == (2, 3, 96, 96)
    loss, figures = model.parse_losses(model(**data, mode='loss'))
    assert loss.isfinite()
    assert {'loss_cls', 'loss_bbox'} <= figures.keys()
    loss.backward()
    assert all(parameter.requires_grad for parameter in model.parameters())
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert without == []

    model.eval()
    with torch.no_grad():
        found = model.test_step(batch(num_classes))
    for sample in found:
        boxes, scores, labels = (sample.pred_instances[key] for key in ('bboxes', 'scores', 'labels'))
        assert 0 < len(boxes) == len(scores) == len(labels) <= 100
        assert boxes.min() >= 0
        assert (boxes <= torch.tensor([48, 45, 48, 45]) + 1e-3).all()  # in the original image
        assert labels.min() >= 0
        assert labels.max() < num_classes
