"""Check whether the suite can run on this machine, and state what to do about each problem.

Example:
    python tools/doctor.py
    python tools/doctor.py --full --json work_dirs/menet_frcnn_voc/epoch_12.pth

Exit status 1 if the main job (the README's training on the embedded data set) cannot run.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from compactdet.arguments import add_format, make_parser
from compactdet.doctor import checks
from compactdet.doctor.findings import DoctorOptions
from compactdet.errors import run_main


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.add_argument('checkpoints', nargs='*', type=Path, help='detector checkpoints to check (.pth)')
    parser.add_argument('--data', type=Path, default=Path('data'), help='folder of the data sets')
    parser.add_argument('--work-dirs', type=Path, default=Path('work_dirs'), help='folder of the runs')
    parser.add_argument('--weights', type=Path, default=Path('weights'), help='folder of weights files')
    parser.add_argument('--full', action='store_true', help='decode every image of the data sets')
    add_format(parser)
    return parser.parse_args()


def main() -> int:
    """Print the findings; return 1 if the main job cannot run."""
    args = parse_args()
    options = DoctorOptions(args.data, args.work_dirs, args.weights, tuple(args.checkpoints), args.full)
    findings = []
    for finding in checks.run_checks(options):
        findings.append(finding)
        if args.format != 'json':
            print(finding.line(), flush=True)
    can_run = not any(finding.main_job for finding in findings)
    if args.format == 'json':
        print(json.dumps({'main_job_runs': can_run, 'findings': [*map(asdict, findings)]}, indent=2))
    else:
        print(f'\nthe main job can{"" if can_run else "not"} run: {checks.MAIN_JOB}')
    return 0 if can_run else 1


if __name__ == '__main__':
    run_main(main)
