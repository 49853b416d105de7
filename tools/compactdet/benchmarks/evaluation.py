"""Time and memory of the evaluator beside pycocotools, on a made set of COCO's size.

    python tools/compactdet/benchmarks/evaluation.py
    python tools/compactdet/benchmarks/evaluation.py --images 500 --boxes 3600 --detections 50000 --rounds 3

Both start from data in memory, take turns, and run on one thread. Ours computes VOC's and COCO's figures
(pycocotools: COCO's alone, evaluate + accumulate + summarize). The peak of memory is each one's own
process, reading of the two files included.
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from compactdet.data.readers import read_coco, read_predictions
from compactdet.evaluation.average_precision import list_figures
from compactdet.evaluation.bootstrap import bootstrap
from compactdet.evaluation.evaluate import evaluate, match

COCO_FIGURES = 'ap ap50 ap75 ap_small ap_medium ap_large ar_1 ar_10 ar_100 ar_small ar_medium ar_large'


def make_set(
    num_images: int, num_boxes: int, num_detections: int, num_classes: int, seed: int = 0
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A COCO annotation file and a list of results: 60 % jittered boxes, the rest anywhere; 1 % crowds."""
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
                'image_id': im + 1,
                'category_id': la + 1,
                'bbox': box,
                'area': area,
                'iscrowd': cr,
            }
            for i, (im, la, box, area, cr) in enumerate(
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
        {'image_id': im + 1, 'category_id': la + 1, 'bbox': box, 'score': score}
        for im, la, box, score in columns
    ]
    return gt, dt


def _peak_mb() -> float:
    """Largest resident memory of this process so far, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == 'darwin' else 1e3)


def _serve(kind: str, gt_path: Path, dt_path: Path, orders: Any, answers: Any) -> None:
    """Loads the files, then evaluates once for every order until None comes."""
    start = time.perf_counter()
    if kind == 'pycocotools':
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(str(gt_path))
            results = coco.loadRes(str(dt_path))
    else:
        gt = read_coco(gt_path)
        dt = read_predictions(dt_path, gt)
    answers.put(time.perf_counter() - start)
    while orders.get():
        start = time.perf_counter()
        if kind == 'pycocotools':
            with contextlib.redirect_stdout(io.StringIO()):
                judge = COCOeval(coco, results, 'bbox')
                judge.evaluate()
                judge.accumulate()
                judge.summarize()
            figures = judge.stats.tolist()
        elif kind == 'ours':
            all_figures = evaluate(gt, dt)['coco']
            figures = [all_figures[name] for name in COCO_FIGURES.split()]
        else:
            bootstrap(match(gt, dt), list_figures(), 1000)
            figures = []
        answers.put((time.perf_counter() - start, figures, _peak_mb()))


def main() -> None:
    """Runs the benchmark and prints one line a measurement."""
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
    parser.add_argument('--bootstrap', action='store_true', help='also time 1,000 resamples')
    args = parser.parse_args()
    gt, dt = make_set(args.images, args.boxes, args.detections, args.classes)
    context = multiprocessing.get_context('spawn')
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ('gt.json', 'dt.json')]
        for path, content in zip(paths, (gt, dt), strict=True):
            path.write_text(json.dumps(content), encoding='utf-8')
        del gt, dt
        workers = {}
        kinds = ['ours', 'pycocotools'] + ['bootstrap'] * args.bootstrap
        for kind in kinds:
            orders, answers = context.SimpleQueue(), context.SimpleQueue()
            process = context.Process(target=_serve, args=(kind, *paths, orders, answers), daemon=True)
            process.start()
            workers[kind] = (orders, answers)
            print(f'{kind}: reading {answers.get():.2f} s')
        ratios = []
        for _ in range(args.rounds):
            answered = {}
            for kind in ('ours', 'pycocotools'):
                workers[kind][0].put(True)
                answered[kind] = workers[kind][1].get()
                print(f'{kind}: {answered[kind][0]:.2f} s, peak {answered[kind][2]:.0f} MB')
            ratios.append(answered['pycocotools'][0] / answered['ours'][0])
            error = np.abs(np.subtract(answered['ours'][1], answered['pycocotools'][1])).max()
            print(f'ratio {ratios[-1]:.1f}, largest difference of the 12 figures {error:.1e}')
        print(f'median ratio {statistics.median(ratios):.1f} (n={len(ratios)})')
        if args.bootstrap:
            workers['bootstrap'][0].put(True)
            seconds, _, peak = workers['bootstrap'][1].get()
            print(f'bootstrap, 1,000 resamples of all 8 AP figures: {seconds:.1f} s, peak {peak:.0f} MB')


if __name__ == '__main__':
    main()
