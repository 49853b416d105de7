"""Measure the training step of leaf configs: images per second, its parts, what the GPU does in it.

Example (in tools/, or with the package installed):
    python -m compactdet.benchmarks.training ../det_configs/menet_frcnn_voc.py --batch-sizes 2 16

Every config trains on synthetic 600x800 images with 4 objects each, from random weights, in several forms:
'ours', as tools/train.py trains it; 'mmdet_heads', the same with MMDetection's own heads; for Faster
R-CNN C4, 'stock', MMDetection's C4 config with the same network; and, on a GPU, 'cuda_graphs', 'ours' with
--cuda-graphs. Their steps alternate in one process, so
that other load on the machine affects all. Speeds are computed from median times. The output is one JSON
object.
"""

import argparse
import contextlib
import copy
import gc
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mmdet
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from torch.profiler import ProfilerActivity, profile

from backbones.wiring import set_init
from compactdet.config import strict
from compactdet.errors import UserError, run_main
from compactdet.heads import with_batched_heads
from compactdet.heads.detectors import BatchedDataPreprocessor, stack_images
from compactdet.mmdetection import MODELS
from compactdet.records import environment
from compactdet.training.acceleration import fast_optimizer, use_channels_last
from compactdet.training.graphs import with_cuda_graphs

STOCK = Path(mmdet.__file__).parent / '.mim/configs/_base_/models/faster-rcnn_r50-caffe-c4.py'
HEIGHT, WIDTH, NUM_OBJECTS = 600, 800, 4
PRECISIONS = {'fp32': None, 'bf16': torch.bfloat16, 'fp16': torch.float16}
SYNCHRONIZING = ('cudaStreamSynchronize', 'cudaDeviceSynchronize', 'cudaEventSynchronize', 'cudaMemcpy')
LAUNCHES = ('cudaLaunchKernel', 'cudaLaunchKernelExC', 'cuLaunchKernel', 'cuLaunchKernelEx')


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
    """

    def __init__(self, model_cfg: Any, optimizer_cfg: Any, device: str, precision: str):
        torch.manual_seed(0)
        self.model = MODELS.build(copy.deepcopy(model_cfg)).to(device).train()
        if model_cfg['type'].startswith('Batched'):
            wrapper = {'fp32': 'OptimWrapper', 'bf16': 'Bf16OptimWrapper', 'fp16': 'AmpOptimWrapper'}
            use_channels_last(self.model, {'type': wrapper[precision]})
            optimizer_cfg = fast_optimizer(optimizer_cfg)
        options = dict(optimizer_cfg['optimizer'])
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = getattr(torch.optim, options.pop('type'))(parameters, **{**options, 'lr': 1e-5})
        self.clip = optimizer_cfg.get('clip_grad')
        self.dtype = PRECISIONS[precision]
        # bfloat16 has the range of float32.
        self.scaler = torch.amp.GradScaler(device, enabled=self.dtype == torch.float16)
        self.device = device
        self.times_s: list[float] = []

    def step(self, batch: dict[str, Any]) -> None:
        """Run and time one training step."""
        start = clock()
        self.run(batch)
        self.times_s.append(clock() - start)

    def run(self, batch: dict[str, Any]) -> None:
        """Run one training step."""
        with torch.autocast(self.device, self.dtype, enabled=self.dtype is not None):
            data = self.model.data_preprocessor(copy_of(batch), True)
            loss, _ = self.model.parse_losses(self.model(**data, mode='loss'))
        self.scaler.scale(loss).backward()
        if self.clip:
            self.scaler.unscale_(self.optimizer)
            parameters = [p for p in self.model.parameters() if p.grad is not None]
            torch.nn.utils.clip_grad_norm_(parameters, **self.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()


def loaded(batch: dict[str, Any], model: Any) -> dict[str, Any]:
    """Return a batch in the form in which the data loader hands it to a model: pinned, stacked for ours."""
    images = batch['inputs']
    if isinstance(model.data_preprocessor, BatchedDataPreprocessor):
        images = stack_images(images)
        return {**batch, 'inputs': images.pin_memory() if torch.cuda.is_available() else images}
    if torch.cuda.is_available():
        images = [image.pin_memory() for image in images]
    return {**batch, 'inputs': images}


def copy_of(batch: dict[str, Any]) -> dict[str, Any]:
    """Return a batch whose samples a step can change."""
    return {'inputs': batch['inputs'], 'data_samples': [sample.clone() for sample in batch['data_samples']]}


def clock() -> float:
    """Return the time in seconds after all queued GPU work is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


@contextlib.contextmanager
def timed_parts(detector: TimedDetector) -> Iterator[dict[str, float]]:
    """Measure the parts of the steps inside the block, each with the GPU work that it queues."""
    part_s: dict[str, float] = {}
    model = detector.model

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = clock()
            result = function(*args, **kwargs)
            part_s[name] = part_s.get(name, 0) + clock() - start
            return result

        return call

    rpn, roi = getattr(model, 'rpn_head', None), getattr(model, 'roi_head', None)
    places = [
        (model.data_preprocessor, 'forward', 'preprocessor'),
        (model, 'extract_feat', 'features'),
        (rpn, 'batch_loss' if hasattr(rpn, 'batch_loss') else 'loss_and_predict', 'rpn'),
        (roi, 'batch_loss' if hasattr(roi, 'batch_loss') else 'loss', 'roi_head'),
        (torch.Tensor, 'backward', 'backward'),
        (detector.optimizer, 'step', 'optimizer'),
    ]
    places = [place for place in places if place[0] is not None]
    saved = [(owner, attribute, vars(owner).get(attribute)) for owner, attribute, _ in places]
    for owner, attribute, name in places:
        setattr(owner, attribute, timed(name, getattr(owner, attribute)))
    try:
        yield part_s
    finally:
        for owner, attribute, function in saved:
            if function is None:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, function)


def measure_parts(detector: TimedDetector, batch: dict[str, Any]) -> dict[str, float]:
    """Return the time of each part of a step in milliseconds; 'rest' is what is in none."""
    with timed_parts(detector) as part_s:
        detector.step(batch)
    part_s['rest'] = detector.times_s.pop() - sum(part_s.values())
    return {name: round(1e3 * seconds, 2) for name, seconds in part_s.items()}


def measure_gpu(detector: TimedDetector, batch: dict[str, Any], step_s: float) -> dict[str, Any]:
    """Return kernel launches and synchronizations of a step, and the share of the time that the GPU works.

    Args:
        detector: The detector.
        batch: The batch.
        step_s: Duration of a step without the profiler.
    """
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        detector.run(batch)
        torch.cuda.synchronize()
    events = found.events()
    calls = Counter(event.name for event in events)
    busy_us = sum(e.time_range.elapsed_us() for e in events if e.device_type.name == 'CUDA')
    return {
        'launches': sum(calls[name] for name in LAUNCHES),
        'synchronizations': sum(calls[name] for name in SYNCHRONIZING) - 1,  # the one at the end
        'busy_share': round(busy_us / 1e6 / step_s, 3),
    }


def measure(path: str, batch_size: int, precision: str, rounds: int, device: str) -> dict[str, Any]:
    """Return the measurements of one config, batch size and precision."""
    cfg = strict.load(path)
    set_init(cfg.model, None)
    head = cfg.model.get('roi_head', cfg.model).bbox_head
    batch = make_batch(batch_size, head.num_classes, device)
    forms = {'ours': with_batched_heads(cfg.model), 'mmdet_heads': cfg.model}
    if cfg.model.get('roi_head', {}).get('shared_head'):
        forms['stock'] = stock_model(cfg.model)
    detectors = {
        name: TimedDetector(form, cfg.optim_wrapper, device, precision) for name, form in forms.items()
    }
    if device == 'cuda':
        graphed = TimedDetector(forms['ours'], cfg.optim_wrapper, device, precision)
        with contextlib.suppress(UserError):  # learned sparsity
            with_cuda_graphs(graphed.model.backbone)
            detectors['cuda_graphs'] = graphed
    batches = {name: loaded(batch, detector.model) for name, detector in detectors.items()}
    for number in range(rounds + 3):
        for name, detector in detectors.items():
            detector.step(batches[name])
            if number < 3:
                detector.times_s.clear()  # the first steps allocate and choose kernels
    medians = {name: statistics.median(detector.times_s) for name, detector in detectors.items()}
    result: dict[str, Any] = {
        'config': path,
        'batch_size': batch_size,
        'precision': precision,
        'images_per_s': {name: round(batch_size / median, 1) for name, median in medians.items()},
        'ours_over': {name: round(median / medians['ours'], 2) for name, median in medians.items()},
        'parts_ms': {name: measure_parts(detector, batches[name]) for name, detector in detectors.items()},
    }
    if device == 'cuda':
        result['gpu'] = {
            name: measure_gpu(detector, batches[name], medians[name])
            for name, detector in detectors.items()
        }
        result['peak_memory_gib'] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    return result


def main() -> None:
    """Measure all configs and print the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='+', help='leaf configs')
    parser.add_argument('--rounds', type=int, default=5, help='steps of each detector; default: 5')
    parser.add_argument('--batch-sizes', type=int, nargs='+', default=[2], help='images a step')
    parser.add_argument('--precisions', nargs='+', choices=PRECISIONS, default=['fp32'])
    args = parser.parse_args()
    init_default_scope('mmdet')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    results = []
    for path in args.configs:
        for batch_size in args.batch_sizes:
            for precision in args.precisions:
                results.append(measure(path, batch_size, precision, args.rounds, device))
                gc.collect()
    report = {'rounds': args.rounds, 'results': results, 'hardware': environment.hardware()}
    print(json.dumps(report, indent=2))


if __name__ == '__main__':
    run_main(main)
