"""Speed of our networks beside the same networks of torchvision, timm and pytorchcv.

    python -m compactdet.benchmarks.peers
    python -m compactdet.benchmarks.peers --rounds 100 --only 'ghostnet_*'

One image of 224x224 pixels, one thread, eager forward pass of the classifier in inference mode. Ours and
the peer take turns in one process, the order changing from round to round, so that what else the machine
does hits both. Printed is the median over the rounds of ours / theirs (below 1 ours is faster), with the
95 % interval of that median (bootstrap over rounds). A library that is not installed is left out.
"""

import argparse
import fnmatch
import importlib
import sys
import time

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from backbones import build_classifier
from backbones.base import initialise
from compactdet.costs import count, has_two_forms
from compactdet.errors import UserError, run_main

SIZE = 224
WARM_UP = 3
RESAMPLES = 2000

# The same network under its peers' names; a comment says where one differs. Costs are in the printed table.
PEERS = {
    'condensenet_c': ('pytorchcv:condensenet74_c8_g8',),
    'efficientnet_b0': ('torchvision:efficientnet_b0', 'timm:efficientnet_b0', 'pytorchcv:efficientnet_b0'),
    'espnetv2_2x': ('pytorchcv:espnetv2_w2',),  # theirs adds the image at stride 32 too
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
    ),  # torchvision's unit differs
}


def parse_args() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rounds', type=int, default=50, help='pairs of forward passes')
    parser.add_argument('--only', default='*', metavar='PATTERN', help='shell pattern of our names')
    return parser.parse_args()


def build_ours(name: str) -> nn.Module:
    """Our untrained network; where sparsity is learned, in the form that is tested."""
    sparse = has_two_forms(name)
    return build_classifier(name, conventions={'sparsity': 'converted'} if sparse else None)


def build_peer(peer: str) -> nn.Module | None:
    """A library's untrained network, from 'library:name'; None where the library is not installed."""
    library, _, name = peer.partition(':')
    try:
        module = importlib.import_module('pytorchcv.model_provider' if library == 'pytorchcv' else library)
    except ImportError:
        return None
    if library == 'timm':
        return module.create_model(name)
    return module.models.get_model(name) if library == 'torchvision' else module.get_model(name)


def seconds(network: nn.Module, image: Tensor) -> float:
    """Of one forward pass."""
    start = time.perf_counter()
    network(image)
    return time.perf_counter() - start


def times(networks: tuple[nn.Module, nn.Module], rounds: int) -> np.ndarray:
    """(rounds, 2) seconds; each round runs both, by turns in either order."""
    image = torch.rand(1, 3, SIZE, SIZE)
    taken = np.empty((WARM_UP + rounds, 2))
    for i in range(len(taken)):
        for j in (0, 1) if i % 2 else (1, 0):
            taken[i, j] = seconds(networks[j], image)
    return taken[WARM_UP:]


def median_and_interval(ratios: np.ndarray) -> tuple[float, float, float]:
    """Median of (n,) ratios and the 2.5 % and 97.5 % quantiles of the resampled medians."""
    rng = np.random.default_rng(0)
    samples = np.median(rng.choice(ratios, (RESAMPLES, len(ratios))), axis=1)
    low, high = np.quantile(samples, (0.025, 0.975))
    return float(np.median(ratios)), float(low), float(high)


def million_macs(network: nn.Module) -> str:
    """Multiply-adds, for the table: that they agree shows that the networks do."""
    return f'{count(network, torch.empty(1, 3, SIZE, SIZE, device="meta")).macs / 1e6:.1f}'


def main() -> None:
    """Times and prints."""
    args = parse_args()
    archs = [name for name in PEERS if fnmatch.fnmatchcase(name, args.only)]
    if not archs:
        raise UserError(f'--only {args.only!r} matches none of: {", ".join(PEERS)}')
    if args.rounds < 1:
        raise UserError(f'--rounds {args.rounds}: give 1 or more')
    torch.set_num_threads(1)
    table = Table(title=f'Forward pass, {args.rounds} rounds')
    for heading in ('arch', 'peer'):
        table.add_column(heading, no_wrap=True)
    for heading in ('M MACs', 'peer', 'ms', 'peer', 'ratio', '95 %'):
        table.add_column(heading, justify='right', no_wrap=True)
    console = Console(width=None if sys.stdout.isatty() else 160)
    for arch in archs:
        ours = build_ours(arch).eval()
        for name in PEERS[arch]:
            with console.status(f'{arch} {name}'):
                peer = build_peer(name)
                if peer is None:
                    continue
                initialise(peer)  # as ours: numbers that shrink to denormal ones would be slow
                with torch.inference_mode():
                    taken = times((ours, peer.eval()), args.rounds)
            ratio, low, high = median_and_interval(taken[:, 0] / taken[:, 1])
            table.add_row(
                arch,
                name,
                million_macs(ours),
                million_macs(peer),
                *(f'{1000 * t:.1f}' for t in np.median(taken, axis=0)),
                f'{ratio:.3f}',
                f'{low:.3f} to {high:.3f}',
            )
    console.print(table)


if __name__ == '__main__':
    run_main(main)
