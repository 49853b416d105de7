"""Compare the training speed of a leaf config with MMDetection's C4 config with the same network.

Example (in tools/, or with the package installed):
    python -m compactdet.benchmarks.training ../det_configs/menet_frcnn_voc.py --rounds 5

Both train on the same synthetic 600x800 images with 4 objects each. Their steps alternate in one process,
so that other load on the machine affects both. The leaf config is also timed in channels-last memory
format, whose first loss must agree, and its step is divided into the shares of its parts. The output is
one JSON object; speeds are computed from median times.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmdet
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from backbones.wiring import set_init
from compactdet.config import strict
from compactdet.errors import run_main
from compactdet.mmdetection import MODELS
from compactdet.records import environment

STOCK = Path(mmdet.__file__).parent / '.mim/configs/_base_/models/faster-rcnn_r50-caffe-c4.py'
HEIGHT, WIDTH, NUM_OBJECTS = 600, 800, 4
LOSS_TOLERANCE = 1e-5  # relative


def stock_model(own: Config) -> dict[str, Any]:
    """Return MMDetection's C4 detector with a leaf config's network.

    RPN, sampling and RoI size (14, which the stage head halves) are MMDetection's.
    """
    model = Config.fromfile(STOCK).model
    model.backbone = own.backbone
    model.roi_head.shared_head = dict(own.roi_head.shared_head, stride=None)
    model.rpn_head.in_channels = own.rpn_head.in_channels
    model.roi_head.bbox_roi_extractor.out_channels = own.roi_head.bbox_roi_extractor.out_channels
    for key in ('in_channels', 'num_classes'):
        model.roi_head.bbox_head[key] = own.roi_head.bbox_head[key]
    model.data_preprocessor = own.data_preprocessor
    return model


def make_batch(batch_size: int, num_classes: int, device: str) -> dict[str, Any]:
    """Return a batch of random images and boxes, the same in every call."""
    from mmdet.structures import DetDataSample  # here: needs mmcv's ops, which backbones provides

    generator = torch.Generator().manual_seed(0)
    images, samples = [], []
    for _ in range(batch_size):
        images.append(torch.randint(256, (3, HEIGHT, WIDTH), generator=generator, dtype=torch.uint8))
        corner = torch.rand(NUM_OBJECTS, 2, generator=generator) * torch.tensor([WIDTH / 2, HEIGHT / 2])
        size = 50 + torch.rand(NUM_OBJECTS, 2, generator=generator) * 200
        shape = dict(img_shape=(HEIGHT, WIDTH), ori_shape=(HEIGHT, WIDTH), scale_factor=(1.0, 1.0))
        sample = DetDataSample(metainfo=shape)
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([corner, corner + size], 1).to(device),
            labels=torch.randint(num_classes, (NUM_OBJECTS,), generator=generator).to(device),
        )
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4, device=device), labels=torch.zeros(0, dtype=torch.long, device=device)
        )
        samples.append(sample)
    return {'inputs': images, 'data_samples': samples}


class TimedDetector:
    """A detector with its optimizer and the times of its training steps.

    Attributes:
        times_s: Duration of each step in seconds.
        losses: Loss of each step.
    """

    def __init__(self, model_cfg: dict[str, Any], state: dict | None, device: str, channels_last: bool):
        torch.manual_seed(0)
        self.model = MODELS.build(copy.deepcopy(model_cfg)).to(device).train()
        if state is not None:
            self.model.load_state_dict(state)
        self.channels_last = channels_last
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(
            [p for p in self.model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9
        )
        self.times_s: list[float] = []
        self.losses: list[float] = []

    def step(self, batch: dict[str, Any]) -> None:
        """Run and time one training step."""
        torch.manual_seed(0)  # all detectors sample the same anchors and RoIs
        start = clock()
        data = self.model.data_preprocessor(copy.deepcopy(batch), True)
        if self.channels_last:
            data['inputs'] = data['inputs'].contiguous(memory_format=torch.channels_last)
        loss, _ = self.model.parse_losses(self.model(**data, mode='loss'))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.times_s.append(clock() - start)
        self.losses.append(float(loss.detach()))


def clock() -> float:
    """Return the time in seconds after all queued GPU work is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def time_shares(detector: TimedDetector, batch: dict[str, Any]) -> dict[str, float]:
    """Return the shares of a step's time: the forward pass of each part, the backward pass, the rest."""
    part_s: dict[str, float] = {}
    model = detector.model

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            result = function(*args, **kwargs)
            part_s[name] = part_s.get(name, 0) + clock() - start
            return result

        return call

    originals = [
        (model, 'extract_feat', 'backbone'),
        (model.rpn_head, 'loss_and_predict', 'rpn'),
        (model.roi_head, 'loss', 'roi_head'),
        (torch.Tensor, 'backward', 'backward'),
    ]
    saved = [(owner, attribute, getattr(owner, attribute)) for owner, attribute, _ in originals]
    for owner, attribute, name in originals:
        setattr(owner, attribute, timed(name, getattr(owner, attribute)))
    try:
        detector.step(batch)
    finally:
        for owner, attribute, function in saved:
            setattr(owner, attribute, function)
    total_s = detector.times_s.pop()
    part_s['rest'] = total_s - sum(part_s.values())
    return {name: round(seconds / total_s, 3) for name, seconds in part_s.items()}


def main() -> None:
    """Time all detectors and print the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='a leaf config of Faster R-CNN C4')
    parser.add_argument('--rounds', type=int, default=5, help='steps of each detector; default: 5')
    args = parser.parse_args()
    init_default_scope('mmdet')
    cfg = strict.load(args.config)
    set_init(cfg.model, None)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    batch_size = cfg.train_dataloader.batch_size
    batch = make_batch(batch_size, cfg.model.roi_head.bbox_head.num_classes, device)

    own = TimedDetector(cfg.model, None, device, channels_last=False)
    detectors = {
        'ours': own,
        'ours_channels_last': TimedDetector(cfg.model, own.model.state_dict(), device, channels_last=True),
        'stock': TimedDetector(stock_model(cfg.model), None, device, channels_last=False),
    }
    for number in range(args.rounds + 1):
        for detector in detectors.values():
            detector.step(batch)
            if number == 0:
                detector.times_s.clear()  # the first step allocates
    first, other = own.losses[0], detectors['ours_channels_last'].losses[0]
    speed = {name: batch_size / statistics.median(timed.times_s) for name, timed in detectors.items()}
    result = {
        'config': args.config,
        'rounds': args.rounds,
        'images_per_s': speed,
        'speed_over_stock': {
            name: statistics.median(
                b / a for a, b in zip(timed.times_s, detectors['stock'].times_s, strict=True)
            )
            for name, timed in detectors.items()
        },
        'first_loss_agrees': abs(first - other) <= LOSS_TOLERANCE * abs(first),
        'shares_of_a_step': time_shares(own, batch),
        'hardware': environment.hardware(),
    }
    print(json.dumps(result, indent=2))


if __name__ == '__main__':
    run_main(main)
