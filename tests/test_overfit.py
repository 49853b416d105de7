"""One network of each family learns eight images by heart, and one that is wired wrongly does not.

A training that runs and a loss that falls prove little: heads learn much from maps that say nothing. Here
each of eight images holds one object of another class; without maps that tell the images and places apart,
and statistics that fit them, that many detections cannot be right. Config, runner and evaluator are the
suite's, with the same settings for every network.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from backbones.wiring import detectors
from compactdet.config.choice import DetectorChoice
from compactdet.config.options import TrainOptions, config_from_options
from compactdet.data import shapes
from compactdet.training.model_checks import unwrap_model
from compactdet.training.runner import SafeRunner

from matrix import CHEAPEST

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures('plain_config_text')]

SIDE, STEPS = 128, 240  # EfficientNet learns slowest: AP50 0.875 after 160 (and 7x7 RoI maps)
# Of the seeds, the first that draws each class once. Smaller objects ask for more exact boxes than a map of
# 8x8 cells gives: of 45x37 pixels, CondenseNetV2 found no better one than IoU 0.46.
SPEC = shapes.Spec(images={'train': 8}, seed=189, image_size=SIDE, min_size=64, max_objects=1)
FIGURE = 'voc/ap50_11point'
MOST = 5  # proposals per image at prediction: there is one object
CONTROL = 'shufflenet_0.25x_g1'  # one of the fastest


@pytest.fixture(scope='module')
def eight_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shapes.ensure(tmp_path_factory.mktemp('data') / 'eight', SPEC)


def config(arch: str, data: Path, work_dir: Path) -> Any:
    """The composed run on the embedded shapes, its data and schedule made for eight images."""
    choice = DetectorChoice(arch, detectors(arch)[0], 'shapes')  # C4 where it can
    cfg = config_from_options(TrainOptions(choice, str(work_dir), seed=0, data_root=str(data)))
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.batch_size = 4
        loader.dataset.type = 'VOCFormatDataset'  # the embedded set's own class wants its own images
        loader.dataset.metainfo = dict(classes=tuple(shapes.CLASSES))
        loader.dataset.ann_file = 'ImageSets/Main/train.txt'
        for step in loader.dataset.pipeline:
            if step.type == 'Resize':
                step.scale = (SIDE, SIDE)
            if step.type == 'RandomFlip':
                step.prob = 0.0  # what is predicted is what was seen
    cfg.train_dataloader.sampler.type = 'InfiniteSampler'
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=STEPS, val_interval=STEPS + 1)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.log_processor.by_epoch = False
    cfg.default_hooks.checkpoint = None
    # In half as many steps 0.004 was too little for ShuffleNetV2 and 0.008 too much for RegNet. At the end
    # the rate is 0: BN's statistics, which lag behind weights that move, are then the last weights' own.
    cfg.optim_wrapper.optimizer.lr = 0.005
    cfg.param_scheduler = [
        dict(type='LinearLR', start_factor=0.04, by_epoch=False, begin=0, end=20),
        dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=STEPS, T_max=STEPS),
    ]
    cfg.model.test_cfg.rpn.max_per_img = MOST
    # The map has 8x8 cells: of a part of it 7x7 would show no more than 4x4, at three times the cost.
    cfg.model.roi_head.bbox_roi_extractor.roi_layer.output_size = 4
    cfg.model.roi_head.bbox_head.roi_feat_size = 4
    return cfg


def learn(cfg: Any, spoil: Callable[[nn.Module], object] = lambda model: None) -> float:
    """AP50 on the images that were learned, by a model that was spoilt before."""
    runner = SafeRunner.from_cfg(cfg)
    spoil(unwrap_model(runner.model))
    runner.train()
    assert runner.iter == STEPS
    return runner.test()[FIGURE]


def replace_maps(by: Callable[[Tensor], Tensor]) -> Callable[[nn.Module], object]:
    def spoil(model: Any) -> None:
        model.backbone.register_forward_hook(lambda module, images, maps: tuple(map(by, maps)))

    return spoil


def never_measure_bn(model: nn.Module) -> None:
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 0.0


SPOILT = {
    'no maps': replace_maps(torch.zeros_like),
    'maps of noise': replace_maps(torch.randn_like),
    "another image's maps": replace_maps(lambda maps: maps.roll(1, 0)),
    'BN not measured': never_measure_bn,
}


def test_the_images_show_every_class_once(eight_images: Path) -> None:
    drawn = [shapes.draw_image(SPEC, 'train', i)[1] for i in range(8)]
    assert sorted(thing.name for things in drawn for thing in things) == sorted(shapes.CLASSES)
    assert not any(thing.difficult for things in drawn for thing in things)


@pytest.mark.parametrize('arch', sorted(CHEAPEST))
def test_a_network_of_each_family_learns_eight_images(
    arch: str, eight_images: Path, tmp_path: Path
) -> None:
    assert learn(config(arch, eight_images, tmp_path)) > 0.9


@pytest.mark.parametrize('how', SPOILT)
def test_a_spoilt_one_does_not(how: str, eight_images: Path, tmp_path: Path) -> None:
    assert learn(config(CONTROL, eight_images, tmp_path), SPOILT[how]) < 0.5
