"""Results of runs as a table: one row per network and protocol, mean and standard deviation over seeds."""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from compactdet.errors import UserError
from compactdet.records import record_file

MAIN_FIGURE = 'voc/ap50_11point'
FIGURES = {
    MAIN_FIGURE: 'VOC 11-point AP50',
    'voc/ap50_area': 'VOC area AP50',
    'coco/ap': 'COCO AP',
}
# The interval over images is not the spread over seeds.
HEADS = (FIGURES[MAIN_FIGURE], '95 % over images', *list(FIGURES.values())[1:])


def find_records(places: Sequence[str]) -> list[Path]:
    """Find the ``record.json`` files of detectors in folders, at any depth, each once; a file stands for
    itself.

    Raises:
        UserError: There is no record in one of the places.
    """
    found: list[Path] = []
    for place in map(Path, places):
        every = [place] if place.is_file() else sorted(place.rglob('record.json'))
        files = [path for path in every if path == place or not record_file.is_pretraining(path)]
        if not files:
            only = ' but of pretrainings' if every else ''
            raise UserError(
                f'{place}: no record.json in it{only}; tools/train.py writes one at the end of a run'
            )
        found += files
    return list(dict.fromkeys(found))


def rows(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Group runs that differ only in their seed.

    Returns:
        For each group its settings (``arch, detector, dataset, init, frozen_stages, protocol``), its
        ``seeds`` and ``records``, and for each of ``FIGURES`` the mean over seeds in [0, 1] (None if a run
        lacks it), the standard deviation (n - 1; None for one seed) and ``images``, the ends of the 95 %
        interval over test images, averaged over seeds (None if a record has none). Rows of one protocol
        are adjacent, best first, and may be ranked.

    Raises:
        UserError: A record is not valid, or two of a group have the same seed.
    """
    groups: dict[tuple, list[tuple[Path, record_file.Record]]] = {}
    for path in paths:
        record = record_file.read(path)
        key = (record['keys']['protocol'], record['arch'], record['init']['sha256'])
        groups.setdefault(key, []).append((path, record))
    table = []
    for runs in groups.values():
        runs.sort(key=lambda run: run[1]['seed'])
        seeds = [record['seed'] for _, record in runs]
        if len(set(seeds)) < len(seeds):
            names = ', '.join(str(path) for path, _ in runs)
            raise UserError(f'{names}: two runs have the same seed; leave one out')
        first = runs[0][1]
        row: dict[str, Any] = {
            'arch': first['arch'],
            'detector': first['detector'],
            'dataset': first['dataset']['name'],
            'init': first['init']['class'],
            'frozen_stages': frozen_stages(first['protocol']),
            'protocol': first['keys']['protocol'],
            'seeds': seeds,
            'records': [str(path) for path, _ in runs],
        }
        for figure in FIGURES:
            tests = [record['metrics']['test'] for _, record in runs]
            values = [test.get(figure) for test in tests]
            defined = None not in values  # without ground truth there is no AP
            row[figure] = {
                'mean': statistics.fmean(values) if defined else None,
                'sd': statistics.stdev(values) if defined and len(values) > 1 else None,
                'images': images_interval(figure, tests),
            }
        table.append(row)
    best: dict[str, float] = {}
    for row in table:
        best[row['protocol']] = max(_rank(row), best.get(row['protocol'], -1))

    def place(row: dict[str, Any]) -> tuple:
        return row['dataset'], -best[row['protocol']], row['protocol'], -_rank(row)

    return sorted(table, key=place)


def frozen_stages(protocol: Mapping[str, Any]) -> int:
    """Return the number of stages that a protocol freezes; -1 for none or if it is not stated."""
    model = protocol.get('model')
    backbone = model.get('backbone') if isinstance(model, dict) else None
    frozen = backbone.get('frozen_stages') if isinstance(backbone, dict) else None
    return frozen if isinstance(frozen, int) else -1


def images_interval(figure: str, tests: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """Return the 95 % interval of a metric over test images: the ends in the records, averaged."""
    ends: list[list[float | None]]
    ends = [[test.get(f'{figure}_{end}95') for test in tests] for end in ('low', 'high')]
    known = [[value for value in end if value is not None] for end in ends]
    return [statistics.fmean(end) for end in known] if known == ends else None


def _rank(row: dict[str, Any]) -> float:
    """Return the value by which rows are ordered; -1 if there is none."""
    mean = row[MAIN_FIGURE]['mean']
    return -1 if mean is None else mean


def markdown(table: Sequence[dict[str, Any]], relative_to: Path) -> str:
    """Return the rows as a Markdown table, in percent, with a link to each record."""
    head = ['data', 'detector', 'network', 'starts from', *HEADS, 'protocol', 'seeds']
    lines = [head, ['---'] * len(head)]
    for row in table:
        links = ' '.join(
            f'[{seed}]({Path(os.path.relpath(path, relative_to)).as_posix()})'
            for seed, path in zip(row['seeds'], row['records'], strict=True)
        )
        lines.append(
            [
                row['dataset'],
                row['detector'],
                f'`{row["arch"]}`',
                starts_from(row),
                *figures(row),
                f'`{row["protocol"]}`',
                links,
            ]
        )
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines) + '\n'


def show(table: Sequence[dict[str, Any]]) -> None:
    """Print the rows on the console, in percent, with lines between protocols."""
    view = Table(box=box.SIMPLE_HEAD)
    for name in ('data', 'detector', 'network', 'starts from', *HEADS, 'seeds'):
        view.add_column(name, justify='right' if name in HEADS else 'left')
    for row, following in zip(table, [*table[1:], None], strict=True):
        cells = row['dataset'], row['detector'], row['arch'], starts_from(row), *figures(row)
        view.add_row(
            *map(escape, cells),
            ' '.join(map(str, row['seeds'])),
            end_section=following is not None and following['protocol'] != row['protocol'],
        )
    Console().print(view)


def starts_from(row: dict[str, Any]) -> str:
    """Describe the initialization of a row."""
    words = {'none': 'random weights', 'not stated': 'weights of unstated training'}
    start = words.get(row['init'], f'{row["init"]} weights')
    frozen = row['frozen_stages']
    return start + (f', stem and {frozen} stages frozen' if frozen >= 0 else '')


def figures(row: dict[str, Any]) -> list[str]:
    """Return the texts of the columns ``HEADS``: mean and standard deviation over seeds, interval over
    images.
    """
    texts = [percent(row[figure]) for figure in FIGURES]
    ends = row[MAIN_FIGURE]['images']
    return [
        *texts[:1],
        '-' if ends is None else '{:.1f} to {:.1f}'.format(*(100 * x for x in ends)),
        *texts[1:],
    ]


def percent(figure: dict[str, Any]) -> str:
    """Return ``73.1 ± 0.8``: mean and standard deviation over seeds, in percent."""
    mean, sd = figure['mean'], figure['sd']
    if mean is None:
        return '-'
    return f'{100 * mean:.1f}' + ('' if sd is None else f' ± {100 * sd:.1f}')
