"""Compare time and memory of the evaluator with pycocotools, on synthetic data of COCO's size.

Example (in tools/, or with the package installed):
    python -m compactdet.benchmarks.evaluation
    python -m compactdet.benchmarks.evaluation --images 500 --boxes 3600 --detections 50000 --rounds 3

Both start from data in memory, run alternately, and use one thread. The suite's evaluator computes the VOC
and COCO metrics, pycocotools the COCO metrics (evaluate, accumulate, summarize). The peak memory is that of
each one's process, and includes reading the two files.
"""

import argparse
import contextlib
import io
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from compactdet.data.readers import read_coco, read_predictions
from compactdet.errors import run_main
from compactdet.evaluation.average_precision import list_metrics
from compactdet.evaluation.bootstrap import bootstrap
from compactdet.evaluation.evaluate import evaluate, match

# In the order of pycocotools.
COCO_METRICS = (
    *('ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large'),
    *('ar_1', 'ar_10', 'ar_100', 'ar_small', 'ar_medium', 'ar_large'),
)


def make_data(
    num_images: int, num_boxes: int, num_detections: int, num_classes: int, seed: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return synthetic COCO annotations (1 % crowds) and detections.

    Of the detections, 60 % are shifted and scaled ground-truth boxes, and the others are random boxes.
    """
    rng = np.random.default_rng(seed)

    def boxes(n: int) -> np.ndarray:
        sides = np.exp(rng.uniform(np.log(8), np.log(320), (n, 2)))
        return np.hstack([rng.uniform(0, 320, (n, 2)), sides])

    gt_image, gt_label = rng.integers(0, num_images, num_boxes), rng.integers(0, num_classes, num_boxes)
    gt_boxes = boxes(num_boxes)
    image = rng.permutation(np.arange(num_detections) % num_images)
    label, dt_boxes = rng.integers(0, num_classes, num_detections), boxes(num_detections)
    near = rng.random(num_detections) < 0.6
    source = rng.integers(0, num_boxes, near.sum())
    image[near], label[near] = gt_image[source], gt_label[source]
    sides = gt_boxes[source, 2:]
    dt_boxes[near, :2] = gt_boxes[source, :2] + rng.normal(0, 0.1, sides.shape) * sides
    dt_boxes[near, 2:] = sides * np.exp(rng.normal(0, 0.15, sides.shape))
    scores = rng.random(num_detections) ** np.where(near, 0.5, 1)
    crowd = rng.random(num_boxes) < 0.01
    gt = {
        'images': [{'id': i + 1} for i in range(num_images)],
        'categories': [{'id': i + 1, 'name': f'class {i + 1}'} for i in range(num_classes)],
        'annotations': [
            {
                'id': i + 1,
                'image_id': image_index + 1,
                'category_id': label_index + 1,
                'bbox': box,
                'area': area,
                'iscrowd': is_crowd,
            }
            for i, (image_index, label_index, box, area, is_crowd) in enumerate(
                zip(
                    gt_image.tolist(),
                    gt_label.tolist(),
                    gt_boxes.round(2).tolist(),
                    (gt_boxes[:, 2] * gt_boxes[:, 3] * 0.7).tolist(),
                    crowd.astype(int).tolist(),
                    strict=True,
                )
            )
        ],
    }
    columns = zip(image.tolist(), label.tolist(), dt_boxes.round(2).tolist(), scores.tolist(), strict=True)
    dt = [
        {'image_id': image_index + 1, 'category_id': label_index + 1, 'bbox': box, 'score': score}
        for image_index, label_index, box, score in columns
    ]
    return gt, dt


def _peak_mb() -> float:
    """Return the largest resident memory of this process so far in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == 'darwin' else 1e3)


def _serve(kind: str, gt_path: Path, dt_path: Path, requests: Any, answers: Any) -> None:
    """Read the files, then evaluate once per request, in a process of its own.

    Args:
        kind: 'ours', 'pycocotools' or 'bootstrap'.
        gt_path: Annotation file.
        dt_path: File of detections.
        requests: Queue that contains True for each evaluation.
        answers: Queue for the seconds of reading, then (seconds, values of COCO_METRICS, peak memory in MB)
            of each evaluation.
    """
    start = time.perf_counter()
    if kind == 'pycocotools':
        from pycocotools.coco import COCO  # here: not in the memory of the process that times our evaluator
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(gt_path))
            results = coco.loadRes(str(dt_path))
    else:
        gt = read_coco(gt_path)
        dt = read_predictions(dt_path, gt)
    answers.put(time.perf_counter() - start)
    while requests.get():
        start = time.perf_counter()
        if kind == 'pycocotools':
            with contextlib.redirect_stdout(io.StringIO()):
                evaluator = COCOeval(coco, results, 'bbox')
                evaluator.evaluate()
                evaluator.accumulate()
                evaluator.summarize()
            values = evaluator.stats.tolist()
        elif kind == 'ours':
            metrics = evaluate(gt, dt)['coco']
            values = [metrics[name] for name in COCO_METRICS]
        else:
            bootstrap(match(gt, dt), list_metrics(), 1000)
            values = []
        answers.put((time.perf_counter() - start, values, _peak_mb()))


def main() -> None:
    """Run the benchmark and print one line per measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in {
        'images': 5000,
        'boxes': 36000,
        'detections': 500000,
        'classes': 80,
        'rounds': 3,
    }.items():
        parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument(
        '--bootstrap', action='store_true', help='also time a bootstrap with 1,000 resamples'
    )
    args = parser.parse_args()
    gt, dt = make_data(args.images, args.boxes, args.detections, args.classes)
    context = multiprocessing.get_context('spawn')
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ('gt.json', 'dt.json')]
        for path, content in zip(paths, (gt, dt), strict=True):
            path.write_text(json.dumps(content), encoding='utf-8')
        del gt, dt
        workers = {}
        kinds = ['ours', 'pycocotools'] + ['bootstrap'] * args.bootstrap
        for kind in kinds:
            requests, answers = context.SimpleQueue(), context.SimpleQueue()
            process = context.Process(target=_serve, args=(kind, *paths, requests, answers), daemon=True)
            process.start()
            workers[kind] = (requests, answers)
            print(f'{kind}: reading {answers.get():.2f} s')
        ratios = []
        for _ in range(args.rounds):
            results = {}
            for kind in ('ours', 'pycocotools'):
                workers[kind][0].put(True)
                results[kind] = workers[kind][1].get()
                print(f'{kind}: {results[kind][0]:.2f} s, peak {results[kind][2]:.0f} MB')
            ratios.append(results['pycocotools'][0] / results['ours'][0])
            error = np.abs(np.subtract(results['ours'][1], results['pycocotools'][1])).max()
            print(f'ratio {ratios[-1]:.1f}, largest difference of the 12 metrics {error:.1e}')
        print(f'median ratio {statistics.median(ratios):.1f} (n={len(ratios)})')
        if args.bootstrap:
            workers['bootstrap'][0].put(True)
            seconds, _, peak = workers['bootstrap'][1].get()
            print(f'bootstrap, 1,000 resamples of all 8 AP metrics: {seconds:.1f} s, peak {peak:.0f} MB')


if __name__ == '__main__':
    run_main(main)
