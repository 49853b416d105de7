"""Table of results: one row per network and protocol, with mean and standard deviation over seeds."""

from __future__ import annotations

import itertools
import math
import os
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from compactdet.console import print_fitting
from compactdet.errors import UserError
from compactdet.records import record_file
from compactdet.records.network_costs import network_costs
from compactdet.records.record_types import Metrics, Protocol, Record

MAIN_METRIC = 'voc/ap50_11point'
METRICS = {  # name: title
    MAIN_METRIC: 'VOC 11-point AP50',
    'voc/ap50_area': 'VOC area AP50',
    'coco/ap': 'COCO AP',
}
# Titles of the columns of `result_cells`. The interval over images is not the spread over seeds.
HEADS = (METRICS[MAIN_METRIC], '95 % over images', *list(METRICS.values())[1:])
COST_HEADS = ('network MACs, M', 'detector MACs, G')  # of the columns of `cost_cells`
# Columns that a terminal of 80 columns has no room for.
NOT_ON_NARROW = (HEADS[1], HEADS[2])
SORTS = ('result', 'network_macs', 'detector_macs')


@dataclass(frozen=True)
class Result:
    """A metric over the seeds of a row. All values are from 0 to 1.

    Attributes:
        mean: Mean over seeds; None if a run lacks the metric.
        sd: Standard deviation over seeds (n - 1); None for one seed.
        images_interval: Ends of the 95 % interval over test images, averaged over seeds; None if a record
            has none.
    """

    mean: float | None
    sd: float | None
    images_interval: list[float] | None


@dataclass(frozen=True)
class ResultRow:
    """Results of the runs that differ only in their seed.

    Attributes:
        arch: Name of the network.
        detector: Name of the detector.
        dataset: Name of the data set.
        init_class: Class of initialization, such as 'CIFAR-10'; 'none' for random initialization.
        frozen_stages: Number of frozen stages; -1 for none.
        protocol: Protocol key.
        seeds: Seeds, ascending.
        records: Paths of the records, in the order of the seeds.
        results: Result of each of `METRICS`.
        network_macs: Multiply-adds of the network alone at 224x224; None if not measured.
        detector_macs: Multiply-adds of the whole detector at its input size; None if not measured.
    """

    arch: str
    detector: str
    dataset: str
    init_class: str
    frozen_stages: int
    protocol: str
    seeds: list[int]
    records: list[str]
    results: Mapping[str, Result]
    network_macs: int | None
    detector_macs: int | None

    @property
    def main_mean(self) -> float:
        """Mean of `MAIN_METRIC`, by which rows are ordered; -1 if there is none."""
        mean = self.results[MAIN_METRIC].mean
        return -1 if mean is None else mean

    @property
    def initial_weights(self) -> str:
        """Description of the initialization."""
        return describe_initialization(self.init_class, self.frozen_stages)


def find_records(places: Sequence[str]) -> list[Path]:
    """Return the paths of detectors' records, each once.

    Args:
        places: Folders, which are searched at any depth for ``record.json``, and paths of records.

    Raises:
        UserError: A folder contains no such record.
    """
    found: list[Path] = []
    for place in map(Path, places):
        records = [place] if place.is_file() else sorted(place.rglob('record.json'))
        files = [path for path in records if path == place or not record_file.is_pretraining(path)]
        if not files:
            others = ', except those of pretrainings' if records else ''
            raise UserError(
                f'{place}: no record.json in it{others}; tools/train.py writes one at the end of a run'
            )
        found += files
    return list(dict.fromkeys(found))


def rows(paths: Sequence[Path], sort: str = 'result') -> list[ResultRow]:
    """Read records and return one row for the runs that differ only in their seed.

    Args:
        paths: Paths of the records.
        sort: Order of the rows of a protocol: one of `SORTS`.

    Returns:
        The rows. Rows of one protocol are adjacent, the best or cheapest first, and may be ranked.

    Raises:
        UserError: A record is not valid, or two runs of a row have the same seed.
    """
    groups: dict[tuple, list[tuple[Path, Record]]] = {}
    for path in paths:
        record = record_file.read(path)
        key = (record['keys']['protocol'], record['arch'], record['init']['sha256'])
        groups.setdefault(key, []).append((path, record))
    table = [_row(runs) for runs in groups.values()]
    best: dict[str, float] = {}
    for row in table:
        best[row.protocol] = max(row.main_mean, best.get(row.protocol, -1))
    return sorted(
        table,
        key=lambda row: (row.dataset, -best[row.protocol], row.protocol, _cost(row, sort), -row.main_mean),
    )


def _cost(row: ResultRow, sort: str) -> float:
    """Return the cost by which rows are sorted, infinite if not measured; 0 if they are not."""
    if sort == 'result':
        return 0
    cost: int | None = getattr(row, sort)
    return math.inf if cost is None else cost


def _row(runs: Sequence[tuple[Path, Record]]) -> ResultRow:
    runs = sorted(runs, key=lambda run: run[1]['seed'])
    seeds = [record['seed'] for _, record in runs]
    if len(set(seeds)) < len(seeds):
        names = ', '.join(str(path) for path, _ in runs)
        raise UserError(f'{names}: two runs have the same seed; leave one out')
    first = runs[0][1]
    tests = [record['metrics']['test'] for _, record in runs]
    return ResultRow(
        arch=first['arch'],
        detector=first['detector'],
        dataset=first['dataset']['name'],
        init_class=first['init']['class'],
        frozen_stages=frozen_stages(first['protocol']),
        protocol=first['keys']['protocol'],
        seeds=seeds,
        records=[str(path) for path, _ in runs],
        results={metric: _result(metric, tests) for metric in METRICS},
        network_macs=network_costs(first)['classifier_macs'],
        detector_macs=first['costs']['at_input']['total_macs'],
    )


def _result(metric: str, tests: Sequence[Metrics]) -> Result:
    """Return the result of a metric from the test metrics of each seed."""
    values = [value for test in tests if (value := test.get(metric)) is not None]
    defined = len(values) == len(tests)  # without ground truth there is no AP
    return Result(
        mean=statistics.fmean(values) if defined else None,
        sd=statistics.stdev(values) if defined and len(values) > 1 else None,
        images_interval=images_interval(metric, tests),
    )


def as_json(table: Sequence[ResultRow]) -> list[dict[str, Any]]:
    """Return the rows for ``--format json``; results are from 0 to 1."""
    return [
        {
            'arch': row.arch,
            'detector': row.detector,
            'dataset': row.dataset,
            'init': row.init_class,
            'frozen_stages': row.frozen_stages,
            'protocol': row.protocol,
            'network_macs': row.network_macs,
            'detector_macs': row.detector_macs,
            'seeds': row.seeds,
            'records': row.records,
            **{
                metric: {'mean': result.mean, 'sd': result.sd, 'images': result.images_interval}
                for metric, result in row.results.items()
            },
        }
        for row in table
    ]


def frozen_stages(protocol: Protocol) -> int:
    """Return the number of stages that a protocol freezes; -1 for none or if it is not stated."""
    model = protocol.get('model')
    backbone = model.get('backbone') if isinstance(model, dict) else None
    frozen = backbone.get('frozen_stages') if isinstance(backbone, dict) else None
    return frozen if isinstance(frozen, int) else -1


def images_interval(metric: str, tests: Sequence[Metrics]) -> list[float] | None:
    """Return the 95 % interval of a metric over test images, averaged over runs; None if one lacks it."""
    ends: list[list[float | None]]
    ends = [[test.get(f'{metric}_{end}95') for test in tests] for end in ('low', 'high')]
    known = [[value for value in end if value is not None] for end in ends]
    return [statistics.fmean(end) for end in known] if known == ends else None


def markdown(table: Sequence[ResultRow], relative_to: Path) -> str:
    """Return the rows as a Markdown table, in percent, with a link to each record."""
    lines = [['data', 'detector', 'network', 'starts from', *HEADS, *COST_HEADS, 'protocol', 'seeds']]
    for row in table:
        links = ' '.join(
            f'[{seed}]({Path(os.path.relpath(path, relative_to)).as_posix()})'
            for seed, path in zip(row.seeds, row.records, strict=True)
        )
        settings = [row.dataset, row.detector, f'`{row.arch}`', row.initial_weights]
        lines.append([*settings, *result_cells(row), *cost_cells(row), f'`{row.protocol}`', links])
    return _markdown_table(lines)


def short_markdown(table: Sequence[ResultRow]) -> str:
    """Return the rows as a narrow Markdown table, in percent, with the number of seeds and no links."""
    titles = {MAIN_METRIC: 'VOC AP50 (11-point)', 'coco/ap': 'COCO AP'}
    lines = [['data', 'detector', 'network', 'initial weights', *titles.values(), *COST_HEADS, 'seeds']]
    for row in table:
        cells = [row.dataset, row.detector, f'`{row.arch}`', row.initial_weights]
        cells += [percent(row.results[metric]) for metric in titles]
        lines.append([*cells, *cost_cells(row), str(len(row.seeds))])
    return _markdown_table(lines)


def _markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as a Markdown table; the first row is the head."""
    head, *body = lines
    return ''.join('| ' + ' | '.join(line) + ' |\n' for line in [head, ['---'] * len(head), *body])


def show(table: Sequence[ResultRow]) -> None:
    """Print the rows on the console in percent, one table per protocol.

    A terminal that is too narrow gets fewer columns; a file or a pipe gets all.
    """
    for _, group in itertools.groupby(table, key=lambda row: row.protocol):
        rows = list(group)
        title = f'{rows[0].dataset} · {rows[0].detector} · {rows[0].initial_weights}'
        heads = [HEADS[0], *HEADS[2:], HEADS[1], *COST_HEADS, 'seeds']
        lines = []
        for row in rows:
            main, interval, *others = result_cells(row)
            seeds = ' '.join(map(str, row.seeds))
            lines.append(dict(zip(heads, [main, *others, interval, *cost_cells(row), seeds], strict=True)))
        forms = []
        for dropped in ((), NOT_ON_NARROW):
            view = Table(box=box.SIMPLE_HEAD, title=title, title_justify='left', pad_edge=False)
            view.add_column('network', no_wrap=True, min_width=max(len(row.arch) for row in table))
            shown = [head for head in heads if head not in dropped]
            for head in shown:
                widths = [*map(len, head.split()), *(len(line[head]) for line in lines)]
                lines_of_head = '\n'.join(textwrap.wrap(head, max(widths)))
                view.add_column(lines_of_head, justify='left' if head == 'seeds' else 'right', no_wrap=True)
            for row, line in zip(rows, lines, strict=True):
                view.add_row(row.arch, *(line[head] for head in shown))
            forms.append(view)
        print_fitting(forms)


def describe_initialization(init_class: str, frozen_stages: int) -> str:
    """Return a description of the initial weights and frozen stages.

    Args:
        init_class: Class of initialization: ``init.class`` of a record.
        frozen_stages: Number of frozen stages; -1 for none.
    """
    known = {'none': 'random weights', 'not stated': 'weights of unstated training'}
    start = known.get(init_class, f'{init_class} weights')
    return start + (f', stem and {frozen_stages} stages frozen' if frozen_stages >= 0 else '')


def result_cells(row: ResultRow) -> list[str]:
    """Return the texts of a row in the columns `HEADS`, in percent."""
    main, *others = row.results.values()
    ends = main.images_interval
    interval = '-' if ends is None else f'{100 * ends[0]:.1f} to {100 * ends[1]:.1f}'
    return [percent(main), interval, *map(percent, others)]


def cost_cells(row: ResultRow) -> list[str]:
    """Return the texts of a row in the columns `COST_HEADS`."""
    scaled = (row.network_macs, 1e6), (row.detector_macs, 1e9)
    values = [None if macs is None else macs / unit for macs, unit in scaled]
    return [
        '-' if value is None else f'{value:.0f}' if value >= 100 else f'{value:#.3g}' for value in values
    ]


def percent(result: Result) -> str:
    """Return mean and standard deviation over seeds in percent, such as ``73.1 ± 0.8``."""
    if result.mean is None:
        return '-'
    return f'{100 * result.mean:.1f}' + ('' if result.sd is None else f' ± {100 * result.sd:.1f}')
