"""Compare the speed of the suite's networks with those of torchvision, timm and pytorchcv.

Example (in tools/, or with the package installed):
    python -m compactdet.benchmarks.peers
    python -m compactdet.benchmarks.peers --rounds 100 --only 'ghostnet_*'

The time is that of an eager forward pass of the classifier in inference mode, with one image of 224x224
pixels and one thread. Both networks run in turn in one process, in alternating order, so that other load on
the machine affects both. The table shows the median over the rounds of the suite's time divided by the
library's (below 1: the suite is faster), and the 95 % interval of that median (bootstrap over rounds).
Libraries that are not installed are skipped.
"""

import argparse
import fnmatch
import importlib
import sys
import time

import numpy as np
import torch
from rich.table import Table
from torch import Tensor, nn

from backbones import build_classifier
from backbones.base import initialize
from compactdet.console import PlainConsole
from compactdet.costs import has_learned_sparsity
from compactdet.errors import UserError, run_main
from compactdet.layer_costs import count

SIZE = 224
WARM_UP = 3
RESAMPLES = 2000

# The same networks in other libraries; comments state differences. The table has the costs of both.
PEERS = {
    'condensenet_c': ('pytorchcv:condensenet74_c8_g8',),
    'efficientnet_b0': ('torchvision:efficientnet_b0', 'timm:efficientnet_b0', 'pytorchcv:efficientnet_b0'),
    'espnetv2_2x': ('pytorchcv:espnetv2_w2',),  # also adds the image at stride 32
    'ghostnet_1x': ('timm:ghostnet_100',),
    'ghostnet_1.3x': ('timm:ghostnet_130',),
    'igcv3d_1x': ('pytorchcv:igcv3_w1',),
    'menet_108_8x1_g3': ('pytorchcv:menet108_8x1_g3',),
    'menet_228_12x1_g3': ('pytorchcv:menet228_12x1_g3',),
    'menet_456_24x1_g3': ('pytorchcv:menet456_24x1_g3',),
    'mobilenet_0.25x': ('pytorchcv:mobilenet_wd4',),
    'mobilenet_1x': ('pytorchcv:mobilenet_w1',),
    'mobilenetv2_1x': ('torchvision:mobilenet_v2', 'timm:mobilenetv2_100', 'pytorchcv:mobilenetv2b_w1'),
    'mobilenetv3_large_1x': ('torchvision:mobilenet_v3_large', 'timm:mobilenetv3_large_100'),
    'mobilenetv3_small_1x': ('torchvision:mobilenet_v3_small', 'timm:mobilenetv3_small_100'),
    'shufflenet_1x_g1': ('pytorchcv:shufflenet_g1_w1',),
    'shufflenet_1x_g3': ('pytorchcv:shufflenet_g3_w1',),
    'shufflenet_1x_g8': ('pytorchcv:shufflenet_g8_w1',),
    'shufflenetv2_0.5x': ('torchvision:shufflenet_v2_x0_5', 'pytorchcv:shufflenetv2b_wd2'),
    'shufflenetv2_1x': (
        'torchvision:shufflenet_v2_x1_0',
        'pytorchcv:shufflenetv2b_w1',
    ),  # torchvision's blocks differ
}


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rounds', type=int, default=50, help='number of pairs of forward passes')
    parser.add_argument('--only', default='*', metavar='PATTERN', help='shell pattern of arch names')
    return parser.parse_args()


def build_own(name: str) -> nn.Module:
    """Build the suite's network with random weights; with learned sparsity, in its test-time form."""
    sparse = has_learned_sparsity(name)
    return build_classifier(name, conventions={'sparsity': 'converted'} if sparse else None)


def build_peer(peer: str) -> nn.Module | None:
    """Build a library's network with random weights; None if the library is not installed.

    Args:
        peer: Library and name, as 'library:name'.
    """
    library, _, name = peer.partition(':')
    try:
        module = importlib.import_module('pytorchcv.model_provider' if library == 'pytorchcv' else library)
    except ImportError:
        return None
    if library == 'timm':
        return module.create_model(name)
    return module.models.get_model(name) if library == 'torchvision' else module.get_model(name)


def time_forward(network: nn.Module, image: Tensor) -> float:
    """Return the time of one forward pass in seconds."""
    start = time.perf_counter()
    network(image)
    return time.perf_counter() - start


def time_alternately(networks: tuple[nn.Module, nn.Module], rounds: int) -> np.ndarray:
    """Return the times of both networks in alternating order: (rounds, 2) seconds."""
    image = torch.rand(1, 3, SIZE, SIZE)
    times_s = np.empty((WARM_UP + rounds, 2))
    for i in range(len(times_s)):
        for j in (0, 1) if i % 2 else (1, 0):
            times_s[i, j] = time_forward(networks[j], image)
    return times_s[WARM_UP:]


def median_and_interval(ratios: np.ndarray) -> tuple[float, float, float]:
    """Return the median of (n,) ratios, and the 2.5 % and 97.5 % quantiles of the resampled medians."""
    rng = np.random.default_rng(0)
    samples = np.median(rng.choice(ratios, (RESAMPLES, len(ratios))), axis=1)
    low, high = np.quantile(samples, (0.025, 0.975))
    return float(np.median(ratios)), float(low), float(high)


def million_macs(network: nn.Module) -> str:
    """Return the multiply-adds in millions as text. Equal values indicate equal networks."""
    return f'{count(network, torch.empty(1, 3, SIZE, SIZE, device="meta")).macs / 1e6:.1f}'


def main() -> None:
    """Time all pairs and print the table."""
    args = parse_args()
    archs = [name for name in PEERS if fnmatch.fnmatchcase(name, args.only)]
    if not archs:
        raise UserError(f'--only {args.only!r} matches no arch; known: {", ".join(PEERS)}')
    if args.rounds < 1:
        raise UserError(f'--rounds {args.rounds} is not positive')
    torch.set_num_threads(1)
    table = Table(title=f'Forward pass, {args.rounds} rounds')
    for heading in ('arch', 'peer'):
        table.add_column(heading, no_wrap=True)
    for heading in ('M MACs', 'peer', 'ms', 'peer', 'ratio', '95 %'):
        table.add_column(heading, justify='right', no_wrap=True)
    console = PlainConsole(width=None if sys.stdout.isatty() else 160)
    for arch in archs:
        own = build_own(arch).eval()
        for name in PEERS[arch]:
            with console.status(f'{arch} {name}'):
                peer = build_peer(name)
                if peer is None:
                    continue
                initialize(peer)  # like the suite's: denormal numbers would be slow
                with torch.inference_mode():
                    times_s = time_alternately((own, peer.eval()), args.rounds)
            ratio, low, high = median_and_interval(times_s[:, 0] / times_s[:, 1])
            table.add_row(
                arch,
                name,
                million_macs(own),
                million_macs(peer),
                *(f'{1000 * t:.1f}' for t in np.median(times_s, axis=0)),
                f'{ratio:.3f}',
                f'{low:.3f} to {high:.3f}',
            )
    console.print(table)


if __name__ == '__main__':
    run_main(main)
