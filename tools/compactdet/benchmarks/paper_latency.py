"""Measure the latency results of two papers on this machine, beside the printed ones.

Example:
    python -m compactdet.benchmarks.paper_latency shufflenet --backends eager onnxruntime
    python -m compactdet.benchmarks.paper_latency shufflenet --size 480 640
    python -m compactdet.benchmarks.paper_latency condensenetv2 --backends eager onnxruntime
    python -m compactdet.benchmarks.paper_latency groups --backends eager onnxruntime openvino

'shufflenet' is Table 8 of the ShuffleNet paper (arXiv:1707.01083): one thread, times on a Snapdragon 820.
'condensenetv2' has the networks of Figure 9 of the CondenseNetV2 paper (arXiv:2104.04382), which prints no
times; its errors are those of the paper's Tables 3 to 5. That paper states poor support for group
convolution in a mobile runtime: 'groups' measures stacks of pointwise convolutions of equal multiply-adds
with 1 to 8 groups, with the channels of Table 2 of the ShuffleNet v2 paper (arXiv:1807.11164). The exit
status is 1 if the result is not usable.
"""

import argparse

from torch import nn

from compactdet.deploy.candidates import PYTORCH, Builder, threads_restored
from compactdet.deploy.latency import LIMITS, Measurement, measure, uncertainty
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
GROUP_CHANNELS = {1: 128, 2: 180, 4: 256, 8: 360}
GROUP_SIZE, GROUP_LAYERS = (56, 56), 10
REFERENCES = {
    'shufflenet': 'shufflenet_0.5x_g3',
    'condensenetv2': 'mobilenetv3_large_1x',
    'groups': 'groups_1',
}


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
    args.size = GROUP_SIZE if args.paper == 'groups' else tuple(args.size)
    if args.paper == 'shufflenet' and args.size not in SIZES:
        parser.error(f'--size is one of the table: {", ".join(f"{h} {w}" for h, w in SIZES)}')
    return args


def main() -> int:
    """Measure with one thread and print a table."""
    args = parse_args()
    reference = REFERENCES[args.paper]
    with threads_restored():
        builders = make_builders(args.paper, args.size)
        candidates = [builder.candidate(backend, 1) for backend in args.backends for builder in builders]
        found = measure(candidates, args.rounds, reference)
    show(found, args.paper, SIZES.index(args.size) if args.size in SIZES else 0)
    if any(uncertainty(result.median) > LIMITS['interval'] for result in found.results):
        print('uncertain: intervals of medians are wide; more --rounds narrow them')
    for problem in found.problems:
        print(f'not usable: {problem}')
    return 1 if found.problems else 0


def make_builders(paper: str, size: tuple[int, int]) -> list[Builder]:
    """Return the builders of a paper's networks, or of the stacks of convolutions."""
    if paper != 'groups':
        return [Builder(name, 1, size) for name in (TABLE_8 if paper == 'shufflenet' else FIGURE_9)]
    return [Builder.of_module(f'groups_{groups}', group_stack(groups), size) for groups in GROUP_CHANNELS]


def group_stack(groups: int) -> nn.Sequential:
    """Return `GROUP_LAYERS` pointwise convolutions with ReLU after a first one that widens the image."""
    channels = GROUP_CHANNELS[groups]
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 1), nn.ReLU()]
    for _ in range(GROUP_LAYERS):
        layers += [nn.Conv2d(channels, channels, 1, groups=groups), nn.ReLU()]
    return nn.Sequential(*layers)


def show(found: Measurement, paper: str, size: int) -> None:
    """Print each network's latency, its ratio to the reference, and what the paper prints."""
    reference = REFERENCES[paper]
    printed = {'shufflenet': 'paper, ms  ratio', 'condensenetv2': 'top-1 error, %', 'groups': 'channels'}[
        paper
    ]
    print(f'{"network":24}{"backend":15}{"ms":>8}  ratio to {reference} (95 %)   {printed}')
    for result in found.results:
        name, ratio = result.candidate.name, result.ratio
        own = '1' if ratio is None else f'{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})'
        if paper == 'shufflenet':
            times = TABLE_8[name][size], TABLE_8[reference][size]
            theirs = f'{times[0]:9.1f}  {times[0] / times[1]:.2f}'
        elif paper == 'groups':
            theirs = str(GROUP_CHANNELS[int(name.removeprefix('groups_'))])
        else:
            theirs = f'{FIGURE_9[name]:.1f}'
        print(f'{name:24}{result.candidate.backend:15}{result.median.value:8.2f}  {own:36}{theirs}')


if __name__ == '__main__':
    run_main(main)
