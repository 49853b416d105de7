"""Measure the latency results of two papers on this machine, beside the printed ones.

Example:
    python -m compactdet.benchmarks.paper_latency shufflenet --backends eager onnxruntime
    python -m compactdet.benchmarks.paper_latency shufflenet --size 480 640
    python -m compactdet.benchmarks.paper_latency condensenetv2 --backends eager onnxruntime

'shufflenet' is Table 8 of the ShuffleNet paper (arXiv:1707.01083): one thread, times on a Snapdragon 820.
'condensenetv2' has the networks of Figure 9 of the CondenseNetV2 paper (arXiv:2104.04382), which prints no
times; its errors are those of the paper's Tables 3 to 5. Exit status 1 if the result is not usable.
"""

import argparse

from compactdet.deploy.candidates import PYTORCH, Builder, threads_restored
from compactdet.deploy.latency import Measurement, measure
from compactdet.errors import run_main

SIZES = ((224, 224), (480, 640), (720, 1280))
TABLE_8 = {  # milliseconds at each of SIZES
    'shufflenet_0.5x_g3': (15.2, 87.4, 260.1),
    'shufflenet_1x_g3': (37.8, 222.2, 684.5),
    'shufflenet_2x_g3': (108.8, 617.0, 1857.6),
    'alexnet': (184.0, 1156.7, 3633.9),
    'mobilenet_1x': (110.0, 612.0, 1879.2),
}
FIGURE_9 = {  # top-1 error in percent
    'condensenetv2_a': 35.6,
    'condensenetv2_b': 28.1,
    'condensenetv2_c': 24.1,
    'condensenet_a': 43.5,
    'mobilenetv2_1x': 28.0,
    'mobilenetv3_large_1x': 24.8,
    'mobilenext_1x': 26.0,
    'shufflenetv2_1x': 30.6,
    'shufflenetv2_1.5x': 27.4,
    'sfr_shufflenetv2_1.5x': 26.5,
}
REFERENCES = {'shufflenet': 'shufflenet_0.5x_g3', 'condensenetv2': 'mobilenetv3_large_1x'}


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('paper', choices=[*REFERENCES])
    backends = [*PYTORCH, 'onnxruntime', 'openvino']
    parser.add_argument('--backends', nargs='+', choices=backends, default=['onnxruntime'])
    parser.add_argument('--size', type=int, nargs=2, default=SIZES[0], metavar=('HEIGHT', 'WIDTH'))
    parser.add_argument('--rounds', type=int, default=30, help='default: 30')
    args = parser.parse_args()
    if args.rounds < 2:
        parser.error('--rounds is at least 2: the intervals are over rounds')
    args.size = tuple(args.size)
    if args.paper == 'shufflenet' and args.size not in SIZES:
        parser.error(f'--size is one of the table: {", ".join(f"{h} {w}" for h, w in SIZES)}')
    return args


def main() -> int:
    """Measure with one thread and print a table."""
    args = parse_args()
    reference = REFERENCES[args.paper]
    names = TABLE_8 if args.paper == 'shufflenet' else FIGURE_9
    with threads_restored():
        builders = [Builder(name, 1, args.size) for name in names]
        candidates = [builder.candidate(backend, 1) for backend in args.backends for builder in builders]
        found = measure(candidates, args.rounds, reference)
    show(found, args.paper, SIZES.index(args.size) if args.size in SIZES else 0)
    for problem in found.problems:
        print(f'not usable: {problem}')
    return 1 if found.problems else 0


def show(found: Measurement, paper: str, size: int) -> None:
    """Print each network's latency, its ratio to the reference, and what the paper prints."""
    reference = REFERENCES[paper]
    printed = 'paper, ms  ratio' if paper == 'shufflenet' else 'top-1 error, %'
    print(f'{"network":24}{"backend":15}{"ms":>8}  ratio to {reference} (95 %)   {printed}')
    for result in found.results:
        name, ratio = result.candidate.name, result.ratio
        own = '1' if ratio is None else f'{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})'
        if paper == 'shufflenet':
            times = TABLE_8[name][size], TABLE_8[reference][size]
            theirs = f'{times[0]:9.1f}  {times[0] / times[1]:.2f}'
        else:
            theirs = f'{FIGURE_9[name]:.1f}'
        print(f'{name:24}{result.candidate.backend:15}{result.median.value:8.2f}  {own:36}{theirs}')


if __name__ == '__main__':
    run_main(main)
