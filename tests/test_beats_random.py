"""Detectors with published initial weights have a higher AP than with random ones, on the same test images.

A loader can fill every key and still give a network the wrong input. With frozen BN statistics, a detector
learns much faster from published weights than from random ones only if its preprocessing and its feature
maps are those of the pretraining. Two negative controls do not pass: the same weights with metadata of
another preprocessing, and with shuffled filters.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from backbones.spec import Preprocessing
from backbones.weights import WeightsInfo, read_weights, save_weights
from compactdet.config.choice import DetectorChoice
from compactdet.config.options import TrainOptions
from compactdet.data.readers import read_predictions, read_voc
from compactdet.evaluation.average_precision import list_metrics
from compactdet.evaluation.bootstrap import Samples, bootstrap, compare
from compactdet.evaluation.evaluate import match
from compactdet.training.train import train
from compactdet.weights.convert import convert_file

pytestmark = [pytest.mark.slow, pytest.mark.shared]

FILES = {
    'menet_108_8x1_g3': '108-MENet-8x1-group-3.pth.tar',
    'mobilenet_0.75x': 'mobilenet_v1_075_224_converted.pth',
}
METRIC = 'voc/ap50_11point'
# Least gain in AP50. Above 0, since the control weights of MENet-108 gain a little too: their BN statistics
# are measured, and filters are of some use at a wrong scale. Lower ends of the intervals: published 0.19,
# other preprocessing 0.06, shuffled 0.04 (AP50: random 0.21, published 0.46, other preprocessing 0.32,
# shuffled 0.29).
MARGIN = 0.1
SCALE = (320, 240)  # half the size of the images, as of the anchors
SHORT = {
    'train_cfg.max_epochs': 2,
    # Without validation, the last checkpoint is tested.
    'val_cfg': None,
    'val_dataloader': None,
    'val_evaluator': None,
    'default_hooks.checkpoint.save_best': None,
    'default_hooks.checkpoint.rule': None,
    'train_dataloader.dataset.pipeline.2.scale': SCALE,
    'test_dataloader.dataset.pipeline.1.scale': SCALE,
    'model.rpn_head.anchor_generator.scales': [1.25, 3, 6],
    # The stage head, which runs on each RoI, has most of the cost.
    'model.train_cfg.rcnn.sampler.num': 8,
    'model.train_cfg.rcnn.sampler.pos_fraction': 0.5,
    'model.test_cfg.rpn.max_per_img': 30,
}

Run = Callable[..., Samples]


@pytest.fixture(scope='module')
def run(shared: Path, tmp_path_factory: pytest.TempPathFactory, plain_config_text: None) -> Run:
    """Return a function that trains shortly and returns the resampled AP50 on the test split (cached)."""

    @functools.cache
    def made(arch: str, init: Path | None = None) -> Samples:
        folder = tmp_path_factory.mktemp('run')
        policy = 'frozen' if init else 'train'  # random initialization has no BN statistics to freeze
        settings = SHORT | {
            'model.backbone.bn_policy': policy,
            'model.roi_head.shared_head.bn_policy': policy,
            'test_evaluator.out': str(folder / 'predictions.json'),
        }
        data = shared / 'data/bccd/BCCD'
        train(
            TrainOptions(
                DetectorChoice(arch, 'frcnn_c4', 'bccd'),
                str(folder),
                seed=0,
                data_root=str(data),
                init=str(init or 'none'),
                cfg_options=settings,
            )
        )
        gt = read_voc(data, 'test')
        tables = match(gt, read_predictions(folder / 'predictions.json', gt))
        return bootstrap(tables, {METRIC: list_metrics()[METRIC]})[METRIC]

    return made


@pytest.fixture(scope='module')
def published(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that converts the published weights of a network."""

    @functools.cache
    def converted(arch: str) -> Path:
        path = tmp_path_factory.mktemp('weights') / f'{arch}.safetensors'
        convert_file(shared / 'weights' / FILES[arch], arch, path)
        return path

    return converted


def gain(better: Samples, worse: Samples) -> float:
    """Return the lower end of the 95 % interval of the paired difference."""
    return compare(worse, better).difference.low


@pytest.mark.parametrize('arch', FILES)
def test_published_weights_beat_random_ones(arch: str, run: Run, published: Callable[[str], Path]) -> None:
    gained = gain(run(arch, published(arch)), run(arch))
    assert gained > MARGIN


Content = tuple[dict[str, Tensor], WeightsInfo]


def other_preprocessing(state: dict[str, Tensor], info: WeightsInfo) -> Content:
    """Change the metadata so that the detector's preprocessing gives BGR from 0 to 255."""
    assert info.preprocessing.channel_order == 'rgb'
    return state, replace(info, preprocessing=Preprocessing('bgr', (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))


def shuffled_filters(state: dict[str, Tensor], info: WeightsInfo) -> Content:
    """Shuffle the filters of each convolution."""
    rng = torch.Generator().manual_seed(0)
    return {
        key: value[torch.randperm(len(value), generator=rng)] if value.dim() == 4 else value
        for key, value in state.items()
    }, info


@pytest.mark.parametrize('change', [other_preprocessing, shuffled_filters])
def test_control_weights_do_not(
    change: Callable[[dict[str, Tensor], WeightsInfo], Content],
    run: Run,
    published: Callable[[str], Path],
    tmp_path: Path,
) -> None:
    arch = 'menet_108_8x1_g3'
    file = tmp_path / 'changed.safetensors'
    save_weights(file, *change(*read_weights(published(arch))))
    changed = run(arch, file)
    gained, lost = gain(changed, run(arch)), gain(run(arch, published(arch)), changed)
    assert gained < MARGIN
    assert lost > 0
