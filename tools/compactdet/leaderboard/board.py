"""The leaderboard: runs grouped by protocol, published results grouped by setting, with ranks.

A group contains results that may be compared: the runs of one protocol, or the results of one paper under
one setting. Each row is a network. Nothing is ranked across groups, and published rows, which have a single
value, are never ranked. `compactdet.leaderboard.writers` writes the files.
"""

import os
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compactdet.errors import UserError
from compactdet.leaderboard import published, ranking
from compactdet.records import record_file, results_table

FIGURES = {
    **results_table.FIGURES,
    'voc/ap50': 'VOC AP50',  # of a paper that does not state the rule
    'top1': 'top-1 accuracy',
}
COSTS = {  # name: column title, description, unit, size of the unit
    'detector_macs': ('detector MACs', 'multiply-adds, whole detector at its input size', 'G', 1e9),
    'network_macs': (
        'network MACs at 224',
        'multiply-adds, backbone at 224x224 (published: network)',
        'M',
        1e6,
    ),
    'params': ('parameters', 'parameters, whole detector (published: network)', 'M', 1e6),
    'time_ms': ('time', 'time an image (published: network at 224x224)', 'ms', 1),
}
Row = dict[str, Any]
Group = dict[str, Any]


@dataclass(frozen=True)
class Board:
    """All groups, the most relevant first, and notes for the reader."""

    groups: Sequence[Group]
    summary: str


@dataclass(frozen=True)
class Run:
    """A record, its path relative to the leaderboard's folder, and whether it was added."""

    record: record_file.Record
    path: str
    added: bool

    @property
    def seed_key(self) -> tuple[str, str, str, int]:
        """Identity of a seed of a network, which counts once however many records it has."""
        record = self.record
        return record['keys']['protocol'], record['arch'], record['init']['sha256'] or '', record['seed']


def make(places: Sequence[str], added: Sequence[str], out: Path) -> Board:
    """Read and check all records, group and rank them, and add the published results.

    Args:
        places: Folders or files of records.
        added: Records made elsewhere.
        out: Folder of the leaderboard, to which paths are relative.

    Raises:
        UserError: A place has no record, or one is not valid. The message names file and field.
    """
    runs = [_read(path, out, False) for path in results_table.find_records(places)]
    runs += [_read(path, out, True) for path in results_table.find_records(added)]
    # Own runs before added ones, earlier ones before repetitions.
    runs.sort(key=lambda r: (r.added, r.record['created_utc'], record_file.content_key(r.record), r.path))
    once: dict[tuple, Run] = {}
    for run in runs:
        once.setdefault(run.seed_key, run)
    groups = measured_groups(once.values()) + published_groups(published.load())
    for group in groups:
        _rank(group)
    summary = f'{len(once)} runs'
    if len(once) < len(runs):
        summary += f' ({len(runs) - len(once)} more records repeat a seed and do not count)'
    count = sum(len(group['rows']) for group in groups if group['kind'] == 'published')
    return Board(groups, f'{summary}, {count} published results')


def _read(path: Path, out: Path, added: bool) -> Run:
    record = record_file.read(path)
    top1 = (record['init']['pretraining'] or {}).get('top1')
    if top1 is not None and not 0 <= top1 <= 100:
        raise UserError(f'{path}: $.init.pretraining.top1 is {top1}; it is in percent, from 0 to 100')
    return Run(record, Path(os.path.relpath(path, out)).as_posix(), added)


# Measured


def measured_groups(runs: Iterable[Run]) -> list[Group]:
    """Return one group per protocol, with one row per network and weights file."""
    by_protocol: dict[str, dict[tuple, list[Run]]] = {}
    for run in sorted(runs, key=lambda run: run.seed_key):
        rows = by_protocol.setdefault(run.record['keys']['protocol'], {})
        rows.setdefault(run.seed_key[:3], []).append(run)
    groups = [_measured_group(key, rows) for key, rows in by_protocol.items()]
    return sorted(groups, key=lambda g: (g['dataset'].casefold(), g['detector'], -_best(g), g['key']))


def _best(group: Group) -> float:
    means = (row['figures'].get(group['main'], {}).get('mean') for row in group['rows'])
    return max((mean for mean in means if mean is not None), default=-1)


def _measured_group(key: str, rows: Mapping[tuple, list[Run]]) -> Group:
    record = next(iter(rows.values()))[0].record
    protocol, name = record['protocol'], record['dataset']['name']
    figures = [
        f
        for f in results_table.FIGURES
        if any(f in r.record['metrics']['test'] for rs in rows.values() for r in rs)
    ]
    start = {'init': record['init']['class'], 'frozen_stages': results_table.frozen_stages(protocol)}
    training = record['training']
    epochs = training['epochs']
    length = f'{training["iterations"]} iterations' if epochs is None else f'{epochs:g} epochs'
    return {
        'key': key,
        'kind': 'measured',
        'task': 'detection',
        'dataset': name,
        'detector': record['detector'],
        'title': f'{name} · {record["detector"]} · {results_table.starts_from(start)}',
        'detail': f'protocol {key}: {length}, batch {training["batch_size"]}; figures on the test split',
        'main': 'coco/ap' if name.upper().startswith('COCO') else results_table.MAIN_FIGURE,
        'figures': figures,
        'protocol': protocol,
        'rows': [_measured_row(key, runs) for key, runs in rows.items()],
    }  # fmt: skip


def _measured_row(key: tuple, runs: Sequence[Run]) -> Row:
    first = runs[0].record
    machines = {_machine(run.record['hardware']) for run in runs}
    speeds = [run.record['evaluation']['images_per_s'] for run in runs]
    classes = first['dataset']['classes']
    top1 = (first['init']['pretraining'] or {}).get('top1')
    return {
        'id': record_file.content_key(['measured', *key]),
        'network': first['arch'],
        'added': any(run.added for run in runs),
        'seeds': [run.record['seed'] for run in runs],
        'figures': {figure: _figure(figure, runs) for figure in results_table.FIGURES},
        'class_ap': {
            figure: {name: _figure(f'{figure}/{name}', runs)['mean'] for name in classes}
            for figure in results_table.FIGURES
            if any(f'{figure}/{name}' in first['metrics']['test'] for name in classes)
        },
        'costs': {
            'detector_macs': first['costs']['at_input']['total_macs'],
            'network_macs': first['costs']['at_224']['backbone_macs'],
            'params': first['costs']['params']['total'],
            'time_ms': None if not all(speeds) else statistics.fmean(1000 / speed for speed in speeds),
        },
        'machine': machines.pop() if len(machines) == 1 else 'several machines',
        'source': 'measured' + (', added' if any(run.added for run in runs) else ''),
        'weights': first['init']['file'],
        'top1': None if top1 is None else top1 / 100,
        'note': None,
        'records': [{'path': run.path, 'added': run.added, 'record': run.record} for run in runs],
    }


def _machine(hardware: Mapping[str, Any]) -> str:
    return hardware['gpu'] or f'{hardware["cpu"]}, threads: {hardware["threads"]}'


def _figure(name: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Return mean, standard deviation and intervals of a metric over seeds; None if a run lacks it.

    A record may contain the 95 % interval over test images as ``NAME_low95`` and ``NAME_high95``. All seeds
    share these images, so the ends are averaged. This is not the spread over seeds.
    """
    tests = [run.record['metrics']['test'] for run in runs]
    values = [test.get(name) for test in tests]
    if None in values:
        return {'mean': None, 'values': values}
    return {
        'mean': statistics.fmean(values),
        'values': values,
        'sd': statistics.stdev(values) if len(values) > 1 else None,
        'seeds_interval': ranking.t_interval(values),
        'images_interval': results_table.images_interval(name, tests),
    }


# Published


def published_groups(data: published.Published) -> list[Group]:
    """Return one group per paper and setting, detection first."""
    groups: dict[tuple[str, str], Group] = {}
    for row in data.results():
        setting, paper = data.settings[row.setting], data.papers[row.paper]
        group = groups.setdefault((paper.id, setting.name), {
            'key': f'{paper.id}/{setting.name}',
            'kind': 'published',
            'task': setting.task,
            'dataset': setting.dataset,
            'detector': setting.detector or 'classifier',
            'title': ' · '.join(
                [setting.dataset, setting.detector or 'classifier', setting.input, f'{paper.name} paper']
            ),
            'detail': f'{paper.citation}: {setting.detail}',
            'main': setting.metric,
            'figures': [setting.metric],
            'protocol': None,
            'rows': [],
        })  # fmt: skip
        group['rows'].append(_published_row(row, group, paper))
    return sorted(
        groups.values(), key=lambda g: (g['task'] != 'detection', g['dataset'].casefold(), g['key'])
    )


def _published_row(row: published.Row, group: Group, paper: published.Paper) -> Row:
    assert row.result is not None
    figure = {'mean': row.result / 100, 'values': [row.result / 100]}
    section, is_text, _ = row.table.partition(' text')
    place = f'section {section}' if is_text else f'Table {section}'
    notes = [row.note] if row.note else []
    notes += [f'printed: {name} {value}' for name, value in row.printed.items()]
    notes += ['quoted by the paper from elsewhere'] if row.quoted else []
    notes += ['the cost is a nominal budget'] if row.budget else []
    return {
        'id': record_file.content_key(
            ['published', group['key'], row.table, row.model, len(group['rows'])]
        ),
        'network': row.arch or row.model,
        'model': row.model,
        'figures': {group['main']: figure},
        'class_ap': {group['main']: {k: v / 100 for k, v in row.class_ap.items()}} if row.class_ap else {},
        'costs': {
            'detector_macs': None,
            'network_macs': None if row.mflops is None else row.mflops * 1e6,
            'params': None if row.params_m is None else row.params_m * 1e6,
            'time_ms': row.latency_ms.get('224x224'),
        },
        'machine': row.device,
        'source': f'{paper.name} paper, {place}',
        'top1': None if row.ap is None or row.top1 is None else row.top1 / 100,  # else it is the result
        'note': '; '.join(notes) or None,
    }  # fmt: skip


# Ranks


def _rank(group: Group) -> None:
    """Add ranks, Pareto frontiers and labels to a group and sort its rows, best first."""
    rows = group['rows']
    rows.sort(key=lambda row: (-(row['figures'][group['main']]['mean'] or -1), row['network'], row['id']))
    count = Counter(row['network'] for row in rows)
    for row in rows:  # distinguishes the rows of a network that occurs twice
        other = row['model'] if group['kind'] == 'published' else row['weights']
        row['label'] = row['network'] if count[row['network']] == 1 else f'{row["network"]} ({other})'
    for figure in group['figures']:
        if group['kind'] == 'measured':
            found = [row['figures'][figure] for row in rows]
            values = [f['values'] if f['mean'] is not None else [] for f in found]
            for one, its_ranks in zip(found, ranking.ranks(values), strict=True):
                one['ranks'] = its_ranks
    machines = {row['machine'] for row in rows if row['costs']['time_ms'] is not None}
    group['frontiers'] = {
        cost: {
            figure: ranking.frontier({
                row['id']: (row['costs'][cost], row['figures'][figure]['mean'])
                for row in rows
                if row['costs'][cost] is not None and row['figures'][figure]['mean'] is not None
            })
            for figure in group['figures']
        }
        for cost in COSTS
        if cost != 'time_ms' or len(machines) == 1  # times of different machines are not comparable
    }  # fmt: skip
