"""Results of several runs as one table: a row a network and protocol, mean and spread over its seeds."""

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
# Over seeds and over images are different things: each has its column.
HEADS = (FIGURES[MAIN_FIGURE], 'its 95 % over images', *list(FIGURES.values())[1:])


def find_records(places: Sequence[str]) -> list[Path]:
    """The ``record.json`` files of detectors in folders, at any depth, each once; a file stands for itself.

    Raises:
        UserError: A place holds none.
    """
    found: list[Path] = []
    for place in map(Path, places):
        every = [place] if place.is_file() else sorted(place.rglob('record.json'))
        files = [path for path in every if path == place or not record_file.is_pretraining(path)]
        if not files:
            only = ' but of pretrainings' if every else ''
            raise UserError(f'{place}: no record.json there{only}; a run of tools/train.py leaves one')
        found += files
    return list(dict.fromkeys(found))


def rows(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Groups runs that differ in their seed alone.

    Returns:
        Per group: what it is (``arch, detector, dataset, init, frozen_stages, protocol``), its ``seeds``
        and ``records``, and for each of ``FIGURES`` the mean over seeds, in [0, 1] (None where a run
        lacks it), the standard deviation (n - 1; None for one seed) and ``images``, the ends of its
        95 % interval over test images, which all seeds share, averaged over seeds (None where a record
        has none). Rows of one protocol stand together, best first, and may be ranked; rows of two may
        not.

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
            raise UserError(f'{names}: two runs of one seed would count twice; leave one out')
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
            defined = None not in values  # a test split without an object of any class has no AP
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
    """How many stages a protocol freezes; -1 for none, and where it does not say."""
    model = protocol.get('model')
    backbone = model.get('backbone') if isinstance(model, dict) else None
    frozen = backbone.get('frozen_stages') if isinstance(backbone, dict) else None
    return frozen if isinstance(frozen, int) else -1


def images_interval(figure: str, tests: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """A figure's 95 % interval over test images: the ends that the runs' records hold, averaged."""
    ends: list[list[float | None]]
    ends = [[test.get(f'{figure}_{end}95') for test in tests] for end in ('low', 'high')]
    known = [[value for value in end if value is not None] for end in ends]
    return [statistics.fmean(end) for end in known] if known == ends else None


def _rank(row: dict[str, Any]) -> float:
    """What rows are ordered by; one without the figure comes last."""
    mean = row[MAIN_FIGURE]['mean']
    return -1 if mean is None else mean


def markdown(table: Sequence[dict[str, Any]], relative_to: Path) -> str:
    """The rows as a Markdown table, in per cent, with a link to each record."""
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
    """Prints the rows on the console, in per cent; the dividing lines part protocols."""
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
    """Initialisation of a row, in words."""
    words = {'none': 'random weights', 'not stated': 'weights of unstated training'}
    start = words.get(row['init'], f'{row["init"]} weights')
    frozen = row['frozen_stages']
    return start + (f', stem and {frozen} stages frozen' if frozen >= 0 else '')


def figures(row: dict[str, Any]) -> list[str]:
    """What stands under ``HEADS``: means and spreads over seeds, the main figure's interval over images."""
    texts = [percent(row[figure]) for figure in FIGURES]
    ends = row[MAIN_FIGURE]['images']
    return [
        *texts[:1],
        '-' if ends is None else '{:.1f} to {:.1f}'.format(*(100 * x for x in ends)),
        *texts[1:],
    ]


def percent(figure: dict[str, Any]) -> str:
    """``73.1 ± 0.8``: mean and standard deviation over seeds, in per cent."""
    mean, sd = figure['mean'], figure['sd']
    if mean is None:
        return '-'
    return f'{100 * mean:.1f}' + ('' if sd is None else f' ± {100 * sd:.1f}')
