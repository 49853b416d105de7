"""Evaluates a detector's checkpoint on its config's test split.

Example:
    python tools/test.py det_configs/menet_frcnn_shapes.py work_dirs/menet_frcnn_shapes/epoch_3.pth
    python tools/test.py work_dirs/voc/menet_frcnn_voc.py work_dirs/voc/epoch_14.pth --out predictions.json

Weights that the detector started from are not needed.
"""

import argparse
import time
from pathlib import Path

from bench.errors import UserError, run_main


def parse_args() -> argparse.Namespace:
    """The command line, in MMDetection's conventions."""
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='detector checkpoint (.pth)')
    parser.add_argument('--out', type=Path, help='file for the detections: COCO results list, JSON')
    parser.add_argument('--work-dir', help='folder of the log; default: work_dirs/CONFIG_NAME/test')
    parser.add_argument('--data-root', help='folder of the data set; default: the config says it')
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, help='override values: KEY=VALUE ...'
    )
    return parser.parse_args()


def main() -> None:
    """Evaluates and shows the figures."""
    args = parse_args()
    from mmengine.dist import is_main_process
    from mmengine.registry import init_default_scope

    from bench import report, runner, training
    from bench.mmdetection import DATASETS

    name = Path(args.config).stem
    options = training.Options(
        config=args.config,
        work_dir=args.work_dir or f'work_dirs/{name}/test',
        data_root=args.data_root,
        launcher=args.launcher,
        cfg_options=args.cfg_options,
    )
    cfg = training.compose(options)
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.out is not None:
        check_out(args.out)
        evaluator = cfg.test_evaluator
        if not isinstance(evaluator, dict) or evaluator.get('type') != 'DetectionMetric':
            raise UserError(f"{args.config}: --out needs test_evaluator = dict(type='DetectionMetric')")
        evaluator['out'] = str(args.out)
    runner.read_checkpoint(args.checkpoint)  # before anything is made for it
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    work_dir = training.open_work_dir(cfg.work_dir)
    tester = runner.SafeRunner.from_cfg(cfg)
    tester.use_datasets({'test': dataset})
    if is_main_process():
        print(f'{cfg.model.backbone.arch}: testing on {len(dataset)} images; log in {work_dir}', flush=True)
    start = time.perf_counter()
    metrics = tester.test()
    wall_s = time.perf_counter() - start
    if is_main_process():
        data = dataset.metainfo.get('name', 'custom')
        title = f'{cfg.model.backbone.arch} · {training.detector_name(cfg.model)} · {data} test'
        report.show_figures(title, dataset.metainfo['classes'], training.flat(metrics) or {})
        print(f'{len(dataset)} images in {runner.duration(wall_s)} ({len(dataset) / wall_s:.1f} images/s)')
        if args.out is not None:
            print(f"detections: {args.out} (categories are numbered in the table's order)")


def check_out(path: Path) -> None:
    """Sees, before the test, that its result can be written.

    Raises:
        UserError: It cannot.
    """
    probe = path.with_name(f'{path.name}.part')
    try:
        if path.is_dir():
            raise IsADirectoryError(0, 'is a folder')
        path.parent.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f'--out {path} cannot be written ({error.strerror}); name another file') from error


if __name__ == '__main__':
    run_main(main)
