"""Measure the latency of networks, detectors and ONNX files, one image at a time.

Example:
    python tools/latency.py menet_228_12x1_g3 mobilenet_0.5x shufflenet_1x_g3 --backends eager onnxruntime
    python tools/latency.py mobilenet_1x mobilenetv2_1x --threads 1 2 --size 480 640 --json latency.json
    python tools/latency.py work_dirs/menet_frcnn_shapes --backends onnxruntime
    python tools/latency.py --study study --backends onnxruntime openvino

All candidates run in interleaved rounds. The result states what else the machine did, and is marked as not
usable (exit status 1) if that was too much. Needs pip install -e ".[export]" for onnxruntime and
".[openvino]" for openvino.

--study writes a report on which costs predict the latency. Without targets it measures all networks with at
most 600 million multiply-adds; with one latency.json as the target it studies that file.
"""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from compactdet.arguments import make_parser
from compactdet.console import print_next
from compactdet.errors import run_main

BACKENDS = ('eager', 'channels_last', 'compile', 'onnxruntime', 'openvino')


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('targets', nargs='*', metavar='ARCH|FILE.onnx|RUN_DIR')
    parser.add_argument('--backends', nargs='+', choices=BACKENDS, default=['eager'])
    parser.add_argument('--threads', nargs='+', type=int, default=[1], metavar='N')
    parser.add_argument('--batch', type=int, default=1, help='images per inference (default: 1)')
    parser.add_argument(
        '--size', type=int, nargs='+', metavar='PX', help="height and width; default: the target's own"
    )
    parser.add_argument('--rounds', type=int, default=30, help='default: 30')
    parser.add_argument(
        '--reference', metavar='TARGET', help='ratios refer to it; default: the first target'
    )
    parser.add_argument('--seed', type=int, default=0, help='of the order in each round')
    parser.add_argument('--json', type=Path, metavar='FILE', help='write latency.json')
    parser.add_argument('--study', type=Path, metavar='DIR', help='write the study of costs and latency')
    args = parser.parse_args()
    if not args.targets and args.study is None:
        parser.error('give networks, ONNX files or run folders, or --study DIR for all networks')
    if min(args.threads) < 1 or args.batch < 1:
        parser.error('--threads and --batch are at least 1')
    if args.rounds < 2:
        parser.error('--rounds is at least 2: the intervals are over rounds')
    if args.size is not None and (len(args.size) > 2 or min(args.size) < 32):
        parser.error('--size takes one or two sides of at least 32 pixels')
    if len({*args.targets}) < len(args.targets):
        parser.error('each target is given once')
    return args


def main() -> int:
    """Measure, print a table, and return the exit status."""
    args = parse_args()
    from compactdet.deploy import latency_file, latency_table  # here: they load PyTorch
    from compactdet.files import check_writable

    if args.study is not None:
        from compactdet.latency_study import report  # here: only a study needs it

        report.check(args.study)
        if [Path(target).suffix for target in args.targets] == ['.json']:
            write_study(args.study, latency_file.read(Path(args.targets[0])), args.targets[0])
            return 0
    out = args.json or (args.study and args.study / 'latency.json')
    if out is not None:
        check_writable(out)
    value = run_measurement(args)
    latency_table.show(value)
    if out is not None:
        latency_file.write(out, value)
        print(f'written: {out}')
        one_setting = len(args.backends) == len(args.threads) == 1  # the leaderboard takes no more
        if value['usable'] and one_setting and not any(Path(target).exists() for target in args.targets):
            print_next(('leaderboard', 'work_dirs', '--out', 'leaderboard', '--latency', out))
    if args.study is not None:
        write_study(args.study, value, str(out))
    return 0 if value['usable'] else 1


def run_measurement(args: argparse.Namespace) -> dict[str, Any]:
    """Measure the targets and return the content of the latency.json."""
    from compactdet.deploy import latency_file  # here: they load PyTorch
    from compactdet.deploy.candidates import Builder, peak_memory_mb, threads_restored
    from compactdet.deploy.latency import measure
    from compactdet.records.environment import hardware

    machine = hardware()  # before the process is bound to some of the cores
    size = None if args.size is None else (args.size[0], args.size[-1])
    targets = args.targets
    if not targets:
        from compactdet.latency_study import networks  # here: only a study needs it

        targets = networks.select()
    builders = [Builder(target, args.batch, size) for target in targets]
    candidates = [
        builder.candidate(backend, threads)
        for backend in args.backends
        for threads in args.threads
        for builder in builders
    ]
    reference = builders[targets.index(args.reference) if args.reference in targets else 0].name
    memory = {}
    with threads_restored():
        for index, candidate in enumerate(candidates):
            candidate.prepare()
            memory[index] = peak_memory_mb(candidate.run)
        measurement = measure(candidates, args.rounds, reference if len(builders) > 1 else None, args.seed)
    command = shlex.join(['python', 'tools/latency.py', *sys.argv[1:]])
    return latency_file.content(measurement, reference, memory, machine, command)


def write_study(out: Path, content: dict[str, Any], source: str) -> None:
    """Write the study of a latency.json and print the names of its files."""
    from compactdet.latency_study import networks, report, study  # here: only a study needs it

    found = networks.from_latencies(content, source)
    for path in report.write(out, content, found, study.make_study(found)):
        print(f'written: {path}')


if __name__ == '__main__':
    run_main(main)
