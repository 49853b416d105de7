"""Training speed of a leaf config against MMDetection's stock C4 config with the same network.

    python -m compactdet.benchmarks.training det_configs/menet_frcnn_voc.py --rounds 5

Both take the same synthetic 600x800 images with 4 objects each, and their steps alternate in one process,
so that what else the machine does hits both. Also timed: the same detector in channels-last memory format
(whose first loss must agree), and where the leaf's time goes. Prints one JSON object; times are medians.
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
from compactdet.mmdetection import MODELS
from compactdet.records import environment

STOCK = Path(mmdet.__file__).parent / '.mim/configs/_base_/models/faster-rcnn_r50-caffe-c4.py'
HEIGHT, WIDTH, NUM_OBJECTS = 600, 800, 4
SAME_LOSS = 1e-5  # relative


def stock_model(ours: Config) -> dict[str, Any]:
    """MMDetection's C4 detector around our network: its RPN, its sampling, its RoI size (14, halved)."""
    model = Config.fromfile(STOCK).model
    model.backbone = ours.backbone
    model.roi_head.shared_head = dict(ours.roi_head.shared_head, stride=None)
    model.rpn_head.in_channels = ours.rpn_head.in_channels
    model.roi_head.bbox_roi_extractor.out_channels = ours.roi_head.bbox_roi_extractor.out_channels
    for key in ('in_channels', 'num_classes'):
        model.roi_head.bbox_head[key] = ours.roi_head.bbox_head[key]
    model.data_preprocessor = ours.data_preprocessor
    return model


def make_batch(batch_size: int, num_classes: int, device: str) -> dict[str, Any]:
    """Random images and boxes, the same at every call."""
    from mmdet.structures import DetDataSample

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


class Contender:
    """A detector, its optimiser and the times of its steps."""

    def __init__(self, model_cfg: dict[str, Any], state: dict | None, device: str, channels_last: bool):
        torch.manual_seed(0)
        self.model = MODELS.build(copy.deepcopy(model_cfg)).to(device).train()
        if state is not None:
            self.model.load_state_dict(state)
        self.channels_last = channels_last
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.optimiser = torch.optim.SGD(
            [p for p in self.model.parameters() if p.requires_grad], lr=1e-4, momentum=0.9
        )
        self.times_s: list[float] = []
        self.losses: list[float] = []

    def step(self, batch: dict[str, Any]) -> None:
        """One training step."""
        torch.manual_seed(0)  # the same anchors and RoIs are sampled by all
        start = clock()
        data = self.model.data_preprocessor(copy.deepcopy(batch), True)
        if self.channels_last:
            data['inputs'] = data['inputs'].contiguous(memory_format=torch.channels_last)
        loss, _ = self.model.parse_losses(self.model(**data, mode='loss'))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        self.times_s.append(clock() - start)
        self.losses.append(float(loss.detach()))


def clock() -> float:
    """Seconds, after all that is queued on the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def shares(contender: Contender, batch: dict[str, Any]) -> dict[str, float]:
    """Where a step's time goes: the share of each part's forward, of backward and of the rest."""
    spent: dict[str, float] = {}
    model = contender.model

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            result = function(*args, **kwargs)
            spent[name] = spent.get(name, 0) + clock() - start
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
        contender.step(batch)
    finally:
        for owner, attribute, function in saved:
            setattr(owner, attribute, function)
    whole = contender.times_s.pop()
    spent['rest'] = whole - sum(spent.values())
    return {name: round(seconds / whole, 3) for name, seconds in spent.items()}


def main() -> None:
    """Times and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='a Faster R-CNN C4 leaf')
    parser.add_argument('--rounds', type=int, default=5)
    args = parser.parse_args()
    init_default_scope('mmdet')
    cfg = strict.load(args.config)
    set_init(cfg.model, None)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    batch_size = cfg.train_dataloader.batch_size
    batch = make_batch(batch_size, cfg.model.roi_head.bbox_head.num_classes, device)

    ours = Contender(cfg.model, None, device, channels_last=False)
    contenders = {
        'ours': ours,
        'ours_channels_last': Contender(cfg.model, ours.model.state_dict(), device, channels_last=True),
        'stock': Contender(stock_model(cfg.model), None, device, channels_last=False),
    }
    for number in range(args.rounds + 1):
        for contender in contenders.values():
            contender.step(batch)
            if number == 0:
                contender.times_s.clear()  # the first step allocates
    first, other = ours.losses[0], contenders['ours_channels_last'].losses[0]
    speed = {name: batch_size / statistics.median(c.times_s) for name, c in contenders.items()}
    result = {
        'config': args.config,
        'rounds': args.rounds,
        'images_per_s': speed,
        'speed_over_stock': {
            name: statistics.median(
                b / a for a, b in zip(c.times_s, contenders['stock'].times_s, strict=True)
            )
            for name, c in contenders.items()
        },
        'first_loss_agrees': abs(first - other) <= SAME_LOSS * abs(first),
        'shares_of_a_step': shares(ours, batch),
        'hardware': environment.hardware(),
    }
    print(json.dumps(result, indent=2))


if __name__ == '__main__':
    main()
