"""The leaderboard: runs grouped by protocol, published results grouped by setting, with ranks.

A group contains results that can be compared: the runs of one protocol, or the results of one paper under
one setting. Each row is a network. Nothing is ranked across groups, and published rows, which have a single
value, are never ranked. `compactdet.leaderboard.writers` writes the files.
"""

import os
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from compactdet.errors import UserError
from compactdet.leaderboard import latencies, published, ranking
from compactdet.leaderboard.groups import COSTS, Board, Group, MetricValue, Row, Run
from compactdet.leaderboard.latencies import Latencies
from compactdet.records import record_file, results_table
from compactdet.records.network_costs import network_costs


def make(
    places: Sequence[str], added: Sequence[str], out: Path, latency: Latencies = latencies.NONE
) -> Board:
    """Read and check all records, group and rank them, and add the published results.

    Args:
        places: Folders or files of records.
        added: Records made elsewhere.
        out: Folder of the leaderboard, to which paths are relative.
        latency: Latency of the networks.

    Raises:
        UserError: A place has no record, one is not valid, or no network of the records has a latency. The
            message names file and field.
    """
    runs = [_read(path, out, False) for path in results_table.find_records(places)]
    runs += [_read(path, out, True) for path in results_table.find_records(added)]
    # Own runs before added ones, earlier ones before repetitions.
    runs.sort(key=lambda r: (r.added, r.record['created_utc'], record_file.content_key(r.record), r.path))
    once: dict[tuple, Run] = {}
    for run in runs:
        once.setdefault(run.seed_key, run)
    groups = measured_groups(once.values(), latency) + published_groups(published.load())
    networks = {run.record['arch'] for run in once.values()}
    if latency.median_ms and networks.isdisjoint(latency.median_ms):
        raise UserError(
            f'--latency: the file has {", ".join(sorted(latency.median_ms))}, none of which is a network '
            f'of the records ({", ".join(sorted(networks))}); run tools/latency.py with these names'
        )
    summary = f'{len(once)} runs of {len(networks)} network' + ('' if len(networks) == 1 else 's')
    if len(once) < len(runs):
        summary += f' ({len(runs) - len(once)} more records repeat a seed and do not count)'
    count = sum(len(group.rows) for group in groups if not group.is_measured)
    return Board([_ranked(group, latency) for group in groups], f'{summary}, {count} published results')


def _read(path: Path, out: Path, added: bool) -> Run:
    record = record_file.read(path)
    top1 = record_file.initial_weights_top1(record)
    if top1 is not None and not 0 <= top1 <= 100:
        raise UserError(f'{path}: $.init.pretraining.top1 is {top1}; it is in percent, from 0 to 100')
    return Run(record, Path(os.path.relpath(path, out)).as_posix(), added)


# Measured


def measured_groups(runs: Iterable[Run], latency: Latencies) -> list[Group]:
    """Return one group per protocol, with one row per network and weights file."""
    by_protocol: dict[str, dict[tuple, list[Run]]] = {}
    for run in sorted(runs, key=lambda run: run.seed_key):
        rows = by_protocol.setdefault(run.record['keys']['protocol'], {})
        rows.setdefault(run.seed_key[:3], []).append(run)
    groups = [_measured_group(key, rows, latency) for key, rows in by_protocol.items()]
    # Controls last; then the groups with the most networks, of which a comparison can say most.
    return sorted(
        groups,
        key=lambda g: (g.control, -len(g.rows), g.dataset.casefold(), g.detector, -_best(g), g.key),
    )


def _best(group: Group) -> float:
    means = (row.metric(group.main_metric).mean for row in group.rows)
    return max((mean for mean in means if mean is not None), default=-1)


def _measured_group(key: str, rows: Mapping[tuple, list[Run]], latency: Latencies) -> Group:
    record = next(iter(rows.values()))[0].record
    protocol, name = record['protocol'], record['dataset']['name']
    shown = [
        metric
        for metric in results_table.METRICS
        if any(metric in run.record['metrics']['test'] for runs in rows.values() for run in runs)
    ]
    frozen_stages = results_table.frozen_stages(protocol)
    start = results_table.describe_initialization(record['init']['class'], frozen_stages)
    training = record['training']
    epochs = training['epochs']
    length = (
        f'{training["iterations"]} iterations'
        if epochs is None
        else f'{epochs:g} epoch' + ('' if epochs == 1 else 's')
    )
    return Group(
        key=key,
        kind='measured',
        task='detection',
        dataset=name,
        detector=record['detector'],
        title=f'{name} · {record["detector"]} · {start}',
        detail=f'protocol {key}: {length}, batch {training["batch_size"]}; metrics on the test split',
        main_metric='coco/ap' if name.upper().startswith('COCO') else results_table.MAIN_METRIC,
        metric_names=shown,
        rows=[_measured_row(row_key, runs, latency) for row_key, runs in rows.items()],
        control=record['init']['class'] == 'none',
        protocol=protocol,
    )


def _measured_row(key: tuple, runs: Sequence[Run], latency: Latencies) -> Row:
    first = runs[0].record
    median, *interval = latency.median_ms.get(first['arch'], (None,))
    classes = first['dataset']['classes']
    network = network_costs(first)
    top1 = record_file.initial_weights_top1(first)
    return Row(
        id=record_file.content_key(['measured', *key]),
        network=first['arch'],
        family=first['family'],
        metrics={metric: _metric_value(metric, runs) for metric in results_table.METRICS},
        class_ap={
            metric: {name: _metric_value(f'{metric}/{name}', runs).mean for name in classes}
            for metric in results_table.METRICS
            if any(f'{metric}/{name}' in first['metrics']['test'] for name in classes)
        },
        costs={
            'network_macs': network['classifier_macs'],
            'detector_macs': first['costs']['at_input']['total_macs'],
            'network_params': network['classifier_params'],
            'detector_params': first['costs']['params']['total'],
            'latency_ms': median,
        },
        machine=None if median is None else latency.setting,
        source='measured' + (', added' if any(run.added for run in runs) else ''),
        top1=None if top1 is None else top1 / 100,
        latency_interval=(interval[0], interval[1]) if interval else None,
        runs=runs,
    )


def _metric_value(name: str, runs: Sequence[Run]) -> MetricValue:
    """Return the mean, standard deviation and intervals of a metric over seeds.

    A record may contain the 95 % interval over test images as ``NAME_low95`` and ``NAME_high95``. All seeds
    share these images, so the ends are averaged. This is not the spread over seeds.
    """
    tests = [run.record['metrics']['test'] for run in runs]
    values = [value for test in tests if (value := test.get(name)) is not None]
    if len(values) < len(tests):
        return MetricValue(None, [test.get(name) for test in tests])
    return MetricValue(
        mean=statistics.fmean(values),
        values=values,
        sd=statistics.stdev(values) if len(values) > 1 else None,
        seeds_interval=ranking.t_interval(values),
        images_interval=results_table.images_interval(name, tests),
    )


# Published


def published_groups(data: published.Published) -> list[Group]:
    """Return one group per paper and setting, detection first."""
    by_setting: dict[tuple[str, str], list[published.Row]] = {}
    for row in data.results():
        by_setting.setdefault((row.paper, row.setting), []).append(row)
    groups = [
        _published_group(data.papers[paper], data.settings[setting], rows, data.families)
        for (paper, setting), rows in by_setting.items()
    ]
    return sorted(groups, key=lambda g: (g.task != 'detection', g.dataset.casefold(), g.key))


def _published_group(
    paper: published.Paper,
    setting: published.Setting,
    rows: Sequence[published.Row],
    families: Mapping[str | None, str],
) -> Group:
    key = f'{paper.id}/{setting.name}'
    detector = setting.detector or 'classifier'
    return Group(
        key=key,
        kind='published',
        task=setting.task,
        dataset=setting.dataset,
        detector=detector,
        title=' · '.join([setting.dataset, detector, setting.input, f'{paper.name} paper']),
        detail=f'{paper.citation}: {setting.detail}',
        main_metric=setting.metric,
        metric_names=[setting.metric],
        rows=[
            _published_row(
                row,
                record_file.content_key(['published', key, row.table, row.model, number]),
                setting.metric,
                paper,
                families,
            )
            for number, row in enumerate(rows)
        ],
    )


def _published_row(
    row: published.Row,
    row_id: str,
    metric: str,
    paper: published.Paper,
    families: Mapping[str | None, str],
) -> Row:
    assert row.result is not None
    section, is_text, _ = row.table.partition(' text')
    place = f'section {section}' if is_text else f'Table {section}'
    notes = [row.note] if row.note else []
    notes += [f'printed: {name} {value}' for name, value in row.printed.items()]
    notes += ['quoted by the paper from elsewhere'] if row.quoted else []
    notes += ['the cost is a nominal budget'] if row.budget else []
    return Row(
        id=row_id,
        network=row.arch or row.model,
        family=families.get(row.arch),
        metrics={metric: MetricValue(row.result / 100, [row.result / 100])},
        class_ap={metric: {name: ap / 100 for name, ap in row.class_ap.items()}} if row.class_ap else {},
        costs={
            'network_macs': None if row.mflops is None else row.mflops * 1e6,
            'detector_macs': None,
            'network_params': None if row.params_m is None else row.params_m * 1e6,
            'detector_params': None,
            'latency_ms': row.latency_ms.get('224x224'),
        },
        machine=row.device,
        source=f'{paper.name} paper, {place}',
        top1=None if row.ap is None or row.top1 is None else row.top1 / 100,  # else it is the result
        note='; '.join(notes) or None,
        model=row.model,
    )


# Ranks


def _ranked(group: Group, latency: Latencies) -> Group:
    """Return a group with ranks, Pareto frontiers and labels, and its rows sorted, best first."""
    rows = sorted(
        group.rows, key=lambda row: (-(row.metrics[group.main_metric].mean or -1), row.network, row.id)
    )
    count = Counter(row.network for row in rows)
    ranks: dict[str, list[list[int]]] = {}  # by metric, in the order of the rows
    if group.is_measured:
        for name in group.metric_names:
            ranks[name] = ranking.ranks([_complete_values(row.metrics[name]) for row in rows])
    machines = {row.machine for row in rows if row.costs['latency_ms'] is not None}
    costs = [cost for cost in COSTS if cost != 'latency_ms' or len(machines) == 1]
    return replace(
        group,
        rows=[
            replace(
                row,
                label=_label(row, count[row.network] > 1),
                metrics={
                    name: replace(value, ranks=ranks[name][place]) if name in ranks else value
                    for name, value in row.metrics.items()
                },
            )
            for place, row in enumerate(rows)
        ],
        frontiers={
            cost: {name: _frontier(rows, cost, name, latency) for name in group.metric_names}
            for cost in costs
        },
    )


def _complete_values(value: MetricValue) -> list[float]:
    """Return the values of all seeds; none if a run lacks the metric."""
    return [] if value.mean is None else [one for one in value.values if one is not None]


def _label(row: Row, several: bool) -> str:
    """Return the label of a row; ``several`` if its group has more rows of the same network."""
    return f'{row.network} ({row.weights if row.runs else row.model})' if several else row.network


def _frontier(rows: Sequence[Row], cost: str, metric: str, latency: Latencies) -> list[str]:
    points = {}
    networks = {row.id: row.network for row in rows if row.runs}
    for row in rows:
        x, y = row.costs[cost], row.metrics[metric].mean
        if x is not None and y is not None:
            points[row.id] = (x, y)
    if cost != 'latency_ms' or not networks:
        return ranking.frontier(points)
    return ranking.frontier(points, lambda one, other: latency.ordered(networks[one], networks[other]))
