"""Study whether the classification accuracy of a backbone predicts detection AP, also at equal cost.

Example:
    python tools/transfer.py --published --out transfer
    python tools/transfer.py work_dirs --out transfer

Writes report.html, report.md, plots and study.json. The accuracy of own runs is the one that their weights
files state; --published uses the accuracy and AP of the papers. Both can be given; they are never pooled.
"""

import argparse
from pathlib import Path

from compactdet.arguments import make_parser
from compactdet.errors import run_main

DEFAULT_METRIC = 'coco/ap'


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = make_parser(__doc__)
    parser.add_argument(
        'runs', nargs='*', help='run folders, folders that contain them, or record.json files'
    )
    parser.add_argument('--published', action='store_true', help='study the published results')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='folder of the report')
    parser.add_argument(
        '--figure',
        default=DEFAULT_METRIC,
        metavar='METRIC',
        help='test metric of own runs that is used as AP (default: %(default)s)',
    )
    args = parser.parse_args()
    if not args.runs and not args.published:
        parser.error('give runs, or --published, or both')
    return args


def main() -> None:
    """Write the report and print the findings."""
    args = parse_args()
    # here: --help starts without loading SciPy
    from compactdet.records import results_table
    from compactdet.transfer import findings
    from compactdet.transfer.report import write_report
    from compactdet.transfer.sources import settings_from_published, settings_from_records
    from compactdet.transfer.study import make_study

    settings, excluded = settings_from_published() if args.published else ([], [])
    if args.runs:
        own, own_excluded = settings_from_records(results_table.find_records(args.runs), args.figure)
        settings, excluded = own + settings, own_excluded + excluded
    study = make_study(settings, excluded)
    files = write_report(study, args.out)
    for sentence in findings.pair_sentences(study):
        print(sentence)
    for part in study.settings:
        print(f'\n{part.setting.title}')
        for sentence in findings.setting_sentences(part):
            print(f'  {sentence}')
    for contrast in study.contrasts:
        print(f'\n{contrast.a} minus {contrast.b}')
        for sentence in findings.contrast_sentences(contrast):
            print(f'  {sentence}')
    if study.agreements:
        print()
    for agreement in study.agreements:
        print(findings.agreement_sentence(agreement))
    for item in study.left_out:
        print(f'excluded: {item.what}: {item.why}')
    print(f'\n{files[0]}: the complete report')


if __name__ == '__main__':
    run_main(main)
