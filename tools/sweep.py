"""Run a grid of trainings: networks x detectors x data sets x seeds, here, on Slurm or on Ray.

Example:
    python tools/sweep.py --archs menet_108_8x1_g3 ghostnet_1x --detectors frcnn_c4 --datasets shapes \\
        --seeds 0 1 --init none --out work_dirs/sweep_first --jobs 2
    python tools/sweep.py grid.yaml --plan
    python tools/sweep.py grid.yaml
    python tools/sweep.py grid.yaml --slurm --slurm-options "--partition=gpu --gres=gpu:1 --time=12:00:00"
    python tools/sweep.py grid.yaml --ray --gpus-per-run 1
    python tools/sweep.py --out work_dirs/sweep_grid --status

After a kill or Ctrl-C the same command continues: finished runs are skipped, unfinished ones resumed. A run
that fails is resumed up to --retries times, except after a user error. Exit status 1 if a run failed.
Several machines that share the folder may run the same command: each run is done once.

A grid file:
    archs: [menet_108_8x1_g3, ghostnet_1x]
    seeds: [0, 1]
    blocks:
      - {detectors: [frcnn_c4], datasets: [shapes], init: [none]}
      - {detectors: [frcnn_c4], datasets: [bccd], pretrain: {dataset: cifar10, recipe: short}}
"""

import argparse
import sys

from compactdet.arguments import make_parser
from compactdet.errors import run_main
from compactdet.sweep import command, options


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    options.add_arguments(parser)
    return options.parse(parser, sys.argv[1:])


def main() -> int:
    """Run, plan or submit the sweep."""
    args = parse_args()
    return command.main(args)


if __name__ == '__main__':
    run_main(main)
