"""One network a family learns eight images by heart, from random weights, through the real wiring.

Losses that are finite and gradients that are there (test_matrix.py) say nothing of what the maps hold:
maps that hold nothing of the image, or another image's, or BN that prediction measures otherwise
pass there, and fail here. Controls break a working network in just these ways and must fail the gate.
The second half is of weights: what ImageNet's are worth on BCCD, by the committed records.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from torch import nn

from backbones import get_arch, list_archs
from backbones.spec import family_of
from backbones.wiring import detectors
from bench import ranking, records, shapes
from bench.compose import Choice, composed
from bench.metric import DetectionMetric
from bench.mmdetection import MODELS

GATE = 0.9  # AP50 of VOC's rule, area under the curve
STEPS, WARMUP, RATE = 120, 15, 0.003
# One object an image, of the size of the shapes' anchors: what fails is the network, not NMS of neighbours.
SPEC = shapes.Spec(images={'train': 8}, image_size=128, min_size=40, max_size=80, max_objects=1)
ROOT = Path(__file__).parents[1]

Break = Callable[[nn.Module], None]


def cheapest() -> list[str]:
    """Of each family, the network with the fewest multiply-adds, of those that can do C4 if any; rising."""
    entries = json.loads((ROOT / 'tests/golden/complexity.json').read_text())
    macs = {entry['arch']: entry['backbone_macs'] for entry in reversed(entries)}
    families: dict[str, list[tuple[bool, int, str]]] = {}
    for arch in list_archs():
        if able := detectors(arch):
            entry = ('frcnn_c4' not in able, macs[arch], arch)
            families.setdefault(get_arch(arch).family, []).append(entry)
    return [arch for *_, arch in sorted(map(min, families.values()))]


CHEAPEST = cheapest()
FIRST = CHEAPEST[0]
PREACTIVATION = [arch for arch in CHEAPEST if family_of(get_arch(arch)).preactivation]
PAIRS = [
    *((arch, detectors(arch)[0]) for arch in CHEAPEST),
    *((arch, 'frcnn_fpn') for arch in (FIRST, *PREACTIVATION)),
    (FIRST, 'retinanet_fpn'),
]


@pytest.fixture(autouse=True)
def mmdet_scope() -> Iterator[None]:
    """Where a runner looks classes up."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        yield


def drawn() -> dict[str, list]:
    """All images of the set with their objects, as a data loader gives them."""
    data: dict[str, list] = dict(inputs=[], data_samples=[])
    size = (SPEC.image_size,) * 2
    for number in range(SPEC.images['train']):
        image, things = shapes.draw_image(SPEC, 'train', number)
        meta = dict(img_id=number, img_shape=size, ori_shape=size, scale_factor=(1, 1))
        sample = DetDataSample(metainfo=meta)
        boxes = torch.tensor([thing.box for thing in things], dtype=torch.float32)
        labels = torch.tensor([[*shapes.CLASSES].index(thing.name) for thing in things])
        first_pixel = torch.tensor([1.0, 1, 0, 0])  # continuous, from 1-based and inclusive
        sample.gt_instances = InstanceData(bboxes=boxes - first_pixel, labels=labels)
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=labels[:0])
        data['inputs'].append(torch.from_numpy(image).permute(2, 0, 1).contiguous())
        data['data_samples'].append(sample)
    return data


def overfitted(arch: str, detector: str, broken: Break = lambda model: None) -> float:
    """AP50 on the images that a detector was trained on."""
    torch.manual_seed(0)
    cfg = composed(Choice(arch, detector, 'shapes')).model
    if (
        'rpn' in cfg.test_cfg
    ):  # one object an image; so few steps do not teach what to refuse of thirty RoIs
        cfg.test_cfg.rpn.max_per_img = 5
    model = MODELS.build(cfg)
    model.init_weights()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1  # so few steps must do for the statistics that prediction takes
    broken(model)
    optimiser = torch.optim.AdamW(model.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda i: min((i + 1) / WARMUP, (1 + math.cos(math.pi * i / STEPS)) / 2),
    )
    data, half = model.data_preprocessor(drawn(), training=True), SPEC.images['train'] // 2
    model.train()
    for step in range(STEPS):
        if step % 2 == 0:
            order = torch.randperm(2 * half).split(half)
        chosen = order[step % 2]
        samples = [data['data_samples'][i] for i in chosen]
        loss, _ = model.parse_losses(model(data['inputs'][chosen], samples, mode='loss'))
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimiser.step()
        schedule.step()
    return ap50(model.eval())


def ap50(model: nn.Module) -> float:
    """By our evaluator, on the images of the set."""
    metric = DetectionMetric()
    metric.dataset_meta = dict(classes=[*shapes.CLASSES])
    with torch.no_grad():
        metric.process(None, [sample.to_dict() for sample in model.test_step(drawn())])
    return metric.compute_metrics(metric.results)['voc/ap50_area']


def replace_maps(change: Callable[[torch.Tensor], torch.Tensor]) -> Break:
    def broken(model: nn.Module) -> None:
        model.backbone.register_forward_hook(lambda _, args, maps: tuple(map(change, maps)))

    return broken


def never_measured(model: nn.Module) -> None:
    """Prediction normalises by what a constructor gives, not by what training saw."""
    for half in (model.backbone, model.roi_head.shared_head):
        for module in half.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.0


CONTROLS: dict[str, Break] = {
    'empty taps': replace_maps(lambda x: x * 0),
    'taps of noise': replace_maps(torch.randn_like),
    'taps of another image': replace_maps(lambda x: x.roll(1, 0)),
    'wrong normalisation': never_measured,
}


@pytest.mark.slow
@pytest.mark.parametrize(('arch', 'detector'), PAIRS)
def test_eight_images_are_learnt_by_heart(arch: str, detector: str) -> None:
    assert overfitted(arch, detector) > GATE


@pytest.mark.slow
@pytest.mark.parametrize('control', CONTROLS)
def test_what_is_broken_stays_below_the_gate(control: str) -> None:
    assert overfitted(FIRST, 'frcnn_c4', CONTROLS[control]) < GATE


def test_every_family_is_tried() -> None:
    assert {get_arch(arch).family for arch, _ in PAIRS} == {
        get_arch(arch).family for arch in list_archs() if detectors(arch)
    }
    assert {detector for _, detector in PAIRS} == {'frcnn_c4', 'frcnn_fpn', 'retinanet_fpn'}
    assert PREACTIVATION


def test_weights_of_imagenet_beat_random_ones_on_bccd() -> None:
    """Paired by seed: one network, one protocol but for where it starts."""
    differences = []
    for seed in range(3):
        trained, scratch = (
            records.read(ROOT / f'work_dirs_template/bccd_{start}_seed{seed}/record.json')
            for start in ('imagenet', 'random')
        )
        assert trained['arch'] == scratch['arch']
        assert trained['seed'] == scratch['seed'] == seed
        assert trained['protocol'].pop('init') != scratch['protocol'].pop('init')
        assert trained['protocol'] == scratch['protocol']
        first, second = (record['metrics']['test']['voc/ap50_11point'] for record in (trained, scratch))
        differences.append(first - second)
    interval = ranking.t_interval(differences)
    assert interval is not None
    assert interval[0] > 0
