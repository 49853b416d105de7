"""Evaluate a detector checkpoint on the test split of its config.

Example:
    python tools/test.py det_configs/menet_frcnn_shapes.py work_dirs/menet_frcnn_shapes/epoch_3.pth
    python tools/test.py work_dirs/voc/menet_frcnn_voc.py work_dirs/voc/epoch_28.pth --out predictions.json
    python tools/test.py work_dirs/menet_frcnn_shapes --backend onnxruntime --model menet_shapes.onnx
    python tools/test.py --arch ghostnet_1x --detector frcnn_c4 --dataset voc07 work_dirs/ghost/epoch_28.pth

A run folder alone stands for its config and the checkpoint of its record. The initial weights of the
training are not needed.
"""

import argparse
from pathlib import Path

from compactdet.arguments import make_parser
from compactdet.config.choice import add_config_arguments, resolve_config_arguments
from compactdet.errors import UserError, run_main
from compactdet.training.command_line import add_config_options


def parse_args() -> argparse.Namespace:
    """Parse the command line; its options follow MMDetection's conventions."""
    parser = make_parser(__doc__)
    add_config_arguments(parser)
    parser.add_argument('checkpoint', help='detector checkpoint (.pth), or the folder of a finished run')
    parser.add_argument('--out', type=Path, help='file for the detections: COCO results list, JSON')
    parser.add_argument('--work-dir', help='folder of the log; default: work_dirs/CONFIG_NAME/test')
    parser.add_argument('--backend', choices=('pytorch', 'onnxruntime'), default='pytorch')
    parser.add_argument(
        '--model', type=Path, metavar='FILE.onnx', help='detector that tools/export.py wrote'
    )
    add_config_options(parser)
    args = parser.parse_intermixed_args()  # a single positional argument is the checkpoint
    if args.config is None and Path(args.checkpoint).is_dir():
        args.config, args.checkpoint = config_and_checkpoint(Path(args.checkpoint))
    resolve_config_arguments(parser, args)
    if (args.backend == 'onnxruntime') != (args.model is not None):
        parser.error('--backend onnxruntime and --model go together')
    return args


def config_and_checkpoint(run_dir: Path) -> tuple[str, str]:
    """Return the config and the tested checkpoint of a finished run.

    Raises:
        UserError: It is not a finished run.
    """
    from compactdet.records import record_file  # here: --help starts without loading PyTorch
    from compactdet.training.predict import config_of_run, find_checkpoint

    config = config_of_run(run_dir)
    return str(config), str(find_checkpoint(run_dir, record_file.read(run_dir / 'record.json')))


def main() -> None:
    """Evaluate and print the metrics."""
    args = parse_args()
    # here: --help starts without loading PyTorch
    from mmengine.dist import is_main_process
    from mmengine.registry import init_default_scope

    from compactdet import distributed
    from compactdet.config.choice import DetectorChoice
    from compactdet.config.detector import detector_name
    from compactdet.config.options import TrainOptions, config_from_options
    from compactdet.console import duration, print_next
    from compactdet.deploy.onnx_detector import OnnxDetector
    from compactdet.files import check_writable
    from compactdet.mmdetection import DATASETS
    from compactdet.records import display
    from compactdet.training.checkpoints import read_checkpoint
    from compactdet.training.record_facts import metric_values
    from compactdet.training.run_folder import open_run_folder
    from compactdet.training.run_stages import evaluate_test_split
    from compactdet.training.runner import SafeRunner

    name = args.config.name if isinstance(args.config, DetectorChoice) else Path(args.config).stem
    options = TrainOptions(
        config=args.config,
        work_dir=args.work_dir or f'work_dirs/{name}/test',
        data_root=args.data_root,
        init=args.init,
        launcher=args.launcher,
        cfg_options=args.cfg_options,
    )
    cfg = config_from_options(options)
    distributed.start(cfg.launcher, cfg.get('env_cfg', {}))
    cfg.load_from, cfg.resume = args.checkpoint, False
    if args.out is not None:
        check_writable(args.out)
        evaluator = cfg.test_evaluator
        if not isinstance(evaluator, dict) or evaluator.get('type') != 'DetectionMetric':
            raise UserError(f"{cfg.filename}: --out needs test_evaluator = dict(type='DetectionMetric')")
        evaluator['out'] = str(args.out)
    read_checkpoint(args.checkpoint)  # checked before the folder of the log is created
    init_default_scope(cfg.default_scope)
    with distributed.main_first():  # the main process draws the embedded data set
        dataset = DATASETS.build(cfg.test_dataloader.dataset)
    work_dir = open_run_folder(cfg.work_dir)
    if args.model is not None:
        cfg.load_from = None
    runner = SafeRunner.from_cfg(cfg)
    runner.use_datasets({'test': dataset})
    if args.model is not None:
        runner.model = OnnxDetector(args.model, dataset.metainfo['classes'])
    if is_main_process():
        print(f'{cfg.model.backbone.arch}: testing on {len(dataset)} images; log in {work_dir}', flush=True)
    result = evaluate_test_split(runner)
    if is_main_process():
        data = dataset.metainfo.get('name', 'custom')
        title = f'{cfg.model.backbone.arch} · {detector_name(cfg.model)} · {data} test'
        display.show_metrics(title, dataset.metainfo['classes'], metric_values(result.metrics))
        print(f'{len(dataset)} images in {duration(result.wall_s)} ({result.images_per_s:.1f} images/s)')
        if args.out is not None:
            print(f"detections: {args.out} (category ids follow the table's order)")
        run = Path(args.checkpoint).parent
        if (run / 'record.json').is_file():
            analyze = ('analyze', run, '--dt', args.out)
            print_next(analyze if args.out is not None else ('predict', run, 'IMAGE'))
    distributed.stop()


if __name__ == '__main__':
    run_main(main)
