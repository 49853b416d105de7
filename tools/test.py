"""Evaluates a detector's checkpoint on its config's test split.

Example:
    python tools/test.py det_configs/menet_frcnn_shapes.py work_dirs/menet_frcnn_shapes/epoch_3.pth
    python tools/test.py work_dirs/voc/menet_frcnn_voc.py work_dirs/voc/epoch_28.pth --out predictions.json
    python tools/test.py --arch ghostnet_1x --detector frcnn_c4 --dataset voc07 work_dirs/ghost/epoch_28.pth

Weights that the detector started from are not needed.
"""

import argparse
import time
from pathlib import Path

from compactdet.errors import UserError, run_main


def parse_args() -> argparse.Namespace:
    """The command line, in MMDetection's conventions."""
    from mmengine.config import DictAction

    from compactdet.config.compose import add_axes, pop_axes

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_axes(parser)
    parser.add_argument('checkpoint', help='detector checkpoint (.pth)')
    parser.add_argument('--out', type=Path, help='file for the detections: COCO results list, JSON')
    parser.add_argument('--work-dir', help='folder of the log; default: work_dirs/CONFIG_NAME/test')
    parser.add_argument('--data-root', help='folder of the data set; default: the config says it')
    parser.add_argument('--init', metavar='CKPT', help="as in its training, where that said '--init'")
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, help='override values: KEY=VALUE ...'
    )
    args = parser.parse_intermixed_args()  # one positional alone is the checkpoint
    pop_axes(parser, args)
    return args


def main() -> None:
    """Evaluates and shows the figures."""
    args = parse_args()
    from mmengine.dist import is_main_process
    from mmengine.registry import init_default_scope

    from compactdet import distributed
    from compactdet.config.compose import Choice
    from compactdet.console import duration
    from compactdet.files import check_writable
    from compactdet.mmdetection import DATASETS
    from compactdet.records import display
    from compactdet.training import runner, train
    from compactdet.training.checkpoints import read_checkpoint

    name = args.config.name if isinstance(args.config, Choice) else Path(args.config).stem
    options = train.Options(
        config=args.config,
        work_dir=args.work_dir or f'work_dirs/{name}/test',
        data_root=args.data_root,
        init=args.init,
        launcher=args.launcher,
        cfg_options=args.cfg_options,
    )
    cfg = train.compose(options)
    distributed.start(cfg.launcher, cfg.get('env_cfg', {}))
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.out is not None:
        check_writable(args.out)
        evaluator = cfg.test_evaluator
        if not isinstance(evaluator, dict) or evaluator.get('type') != 'DetectionMetric':
            raise UserError(f"{cfg.filename}: --out needs test_evaluator = dict(type='DetectionMetric')")
        evaluator['out'] = str(args.out)
    read_checkpoint(args.checkpoint)  # before anything is made for it
    init_default_scope(cfg.default_scope)
    with distributed.main_first():  # the embedded set is drawn
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    work_dir = train.open_work_dir(cfg.work_dir)
    tester = runner.SafeRunner.from_cfg(cfg)
    tester.use_datasets({'test': dataset})
    if is_main_process():
        print(f'{cfg.model.backbone.arch}: testing on {len(dataset)} images; log in {work_dir}', flush=True)
    start = time.perf_counter()
    metrics = tester.test()
    wall_s = time.perf_counter() - start
    if is_main_process():
        data = dataset.metainfo.get('name', 'custom')
        title = f'{cfg.model.backbone.arch} · {train.detector_name(cfg.model)} · {data} test'
        display.show_figures(title, dataset.metainfo['classes'], train.flat(metrics) or {})
        print(f'{len(dataset)} images in {duration(wall_s)} ({len(dataset) / wall_s:.1f} images/s)')
        if args.out is not None:
            print(f"detections: {args.out} (categories are numbered in the table's order)")
    distributed.stop()


if __name__ == '__main__':
    run_main(main)
