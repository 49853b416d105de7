"""The graphs for export give the detections of MMDetection's own code."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.registry import DefaultScope
from torch import Tensor, nn

from backbones.libraries.reparameterize import reparameterize
from backbones.wiring import detectors
from compactdet.config.choice import DetectorChoice
from compactdet.config.compose import compose_config
from compactdet.deploy import onnx_export
from compactdet.deploy.detector_graph import OneStageGraph, TwoStageGraph
from compactdet.mmdetection import MODELS

from matrix import CHEAPEST

SIZE = (160, 256)


@pytest.fixture(autouse=True)
def mmdet_scope() -> Iterator[None]:
    """Select the registry scope in which a runner looks classes up."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def spread(convolution: nn.Module, outputs: Tensor, mean: float) -> None:
    """Scale the weights of the layer that gives the scores, so that scores differ and do not saturate."""
    convolution.weight.mul_(1.5 / outputs.std())
    convolution.bias.fill_(mean)


def build(
    detector: str, image: Tensor, score_thr: float = 0.05, arch: str = 'menet_108_8x1_g3'
) -> nn.Module:
    """Build an untrained detector whose scores are distinct."""
    torch.manual_seed(0)
    config = compose_config(DetectorChoice(arch, detector, 'shapes')).model
    config.test_cfg.get('rcnn', config.test_cfg).score_thr = score_thr
    model = MODELS.build(config)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the statistics become those of the one batch
    with torch.no_grad():
        model.train().backbone(torch.randn(8, 3, *SIZE))
        model.eval()
        maps = model.extract_feat(model.data_preprocessor({'inputs': [image]})['inputs'])
        if detector == 'retinanet_fpn':
            spread(model.bbox_head.retina_cls, model.bbox_head(maps)[0][0], -2.0)
        else:
            spread(model.rpn_head.rpn_cls, model.rpn_head(maps)[0][0], 0.0)
            rois = torch.tensor([[0.0, 8 * i, 4 * i, 8 * i + 60, 4 * i + 40] for i in range(20)])
            logits = model.roi_head._bbox_forward(maps, rois)['cls_score']
            spread(model.roi_head.bbox_head.fc_cls, logits, 0.0)
    return model.requires_grad_(False)


@pytest.mark.parametrize('detector', ['frcnn_c4', 'frcnn_fpn', 'retinanet_fpn'])
def test_detections_are_those_of_mmdetection(detector: str) -> None:
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    model = build(detector, image)
    sample = DetDataSample(metainfo=dict(img_shape=SIZE, ori_shape=SIZE, scale_factor=(1, 1)))
    expected = model.test_step(dict(inputs=[image], data_samples=[sample]))[0].pred_instances
    graph = (OneStageGraph if detector == 'retinanet_fpn' else TwoStageGraph)(model).eval()
    boxes, scores, labels = graph(image[None].float())
    count = len(expected)
    assert expected.scores.unique().numel() == count > 10, 'the test needs distinct scores'
    assert scores.shape == labels.shape == (100,)
    assert boxes.shape == (100, 4)
    torch.testing.assert_close(scores[:count], expected.scores, rtol=0, atol=0)
    torch.testing.assert_close(boxes[:count], expected.bboxes, rtol=0, atol=0)
    assert labels[:count].equal(expected.labels)
    assert (scores[count:] == 0).all()


def test_an_image_without_detections() -> None:
    image = torch.zeros(3, *SIZE, dtype=torch.uint8)
    graph = TwoStageGraph(build('frcnn_c4', image, score_thr=1.0)).eval()
    boxes, scores, labels = graph(image[None].float())
    assert scores.shape == labels.shape == (100,)
    assert not scores.any()
    assert boxes.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize('arch', sorted(CHEAPEST))
def test_one_network_of_each_family_exports_as_detector(arch: str, tmp_path: Path) -> None:
    """The file is written only if ONNX Runtime gives PyTorch's detections."""
    (image,) = onnx_export.sample_images(SIZE, count=1)
    detector = detectors(arch)[0]
    model = build(detector, image[0].byte(), arch=arch)
    reparameterize(model)
    graph = (OneStageGraph if detector == 'retinanet_fpn' else TwoStageGraph)(model).eval()
    outputs = ('boxes', 'scores', 'labels')
    classes = tuple('abcdefgh')
    exportable = onnx_export.Exportable(graph, 'detector', arch, outputs, None, None, classes, SIZE)
    onnx_export.export(exportable, tmp_path / 'detector.onnx')
    assert (tmp_path / 'detector.onnx').stat().st_size > 100_000
