"""Input of the transfer study: networks within settings, from records and from published results.

A setting is everything that must be equal for two results to be compared: for records the protocol and the
data set of the pretraining, for published results the paper and the setting of its table. Between settings
only the orders of the networks are compared.
"""

from __future__ import annotations

import copy
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compactdet.errors import UserError
from compactdet.leaderboard import published
from compactdet.records import record_file
from compactdet.records.record_types import Record

Run = tuple[Path, Record]  # a record and its path

SCRATCH = 'none'  # value of init.class in the record of a run from random weights


@dataclass(frozen=True)
class NetworkResult:
    """Result of one network in one setting.

    Attributes:
        name: The arch, with a number if the setting has the arch with several pretraining recipes.
        arch: The arch.
        family: Its family.
        accuracy: Top-1 accuracy of the initial weights in percent, the mean over weights files; None if
            unknown.
        ap: AP in percent, the mean over runs.
        spread: Standard deviation of AP over runs (n - 1), or None for one run.
        cost: Millions of multiply-adds, or None if unknown.
        seeds: Seeds of the runs; empty for a published result.
        weights: Number of initial weights files with an accuracy.
        sources: Paths of records, or tables of a paper.
        note: Remark of the source.
    """

    name: str
    arch: str
    family: str
    accuracy: float | None
    ap: float
    spread: float | None
    cost: float | None
    seeds: tuple[int, ...]
    weights: int
    sources: tuple[str, ...]
    note: str = ''


@dataclass(frozen=True)
class Setting:
    """Networks that may be compared with each other.

    The names of the fields are keys of study.json.

    Attributes:
        key: Unique key.
        title: Title in the report.
        data: Data set of the detection task.
        detector: Detector.
        start: Data set of the pretraining, or 'none' for random weights.
        frozen: Value of the backbone's ``frozen_stages``, -1 for none; None if unknown.
        figure: Metric that is used as AP.
        cost: Description of what the multiply-adds count.
        base: Key that is equal for settings that differ only in ``start`` and ``frozen``; None if unknown.
        nets: The networks, by name.
    """

    key: str
    title: str
    data: str
    detector: str
    start: str
    frozen: int | None
    figure: str
    cost: str
    base: str | None
    nets: tuple[NetworkResult, ...]


@dataclass(frozen=True)
class ExcludedResult:
    """A result that the study cannot use.

    Attributes:
        what: The result.
        why: The reason.
    """

    what: str
    why: str


# Own runs


def settings_from_records(paths: Sequence[Path], metric: str) -> tuple[list[Setting], list[ExcludedResult]]:
    """Read the settings from records.

    Runs that differ only in their seed or the seed of their weights are one network.

    Args:
        paths: ``record.json`` files.
        metric: Name of the test metric that is used as AP, such as 'coco/ap'.

    Returns:
        The settings, and the results that cannot be used. A run from weights without an accuracy is in
        both: its AP may still be compared with that of other settings.

    Raises:
        UserError: A record is not valid, two are of the same run, or no record has the metric.
    """
    settings: dict[tuple[str, str], list[Run]] = {}
    excluded = []
    seen: dict[tuple, Path] = {}
    metrics: set[str] = set()
    for path in paths:
        record = record_file.read(path)
        protocol = record['keys']['protocol']
        run = (protocol, record['arch'], record['init']['sha256'], record['seed'])
        if run in seen:
            raise UserError(f'{seen[run]}, {path}: two records of the same run; omit one of them')
        seen[run] = path
        metrics |= record['metrics']['test'].keys()
        if record['metrics']['test'].get(metric) is None:
            excluded.append(ExcludedResult(str(path), f'no metric {metric} of its test split'))
            continue
        if record['init']['class'] != SCRATCH and _accuracy(record) is None:
            excluded.append(ExcludedResult(str(path), _missing_accuracy_reason(record)))
        settings.setdefault((protocol, _start(record)), []).append((path, record))
    if metrics and metric not in metrics:
        names = ', '.join(sorted(name for name in metrics if name.count('/') == 1 and 'with' not in name))
        raise UserError(f'--figure {metric}: no record has this metric; use one of {names}')
    return [
        _setting(protocol, start, runs, metric) for (protocol, start), runs in sorted(settings.items())
    ], excluded


def _start(record: Record) -> str:
    """Return the data set of the pretraining, or the class of the initialization."""
    pretraining = record['init']['pretraining']
    return (pretraining and pretraining['data']) or record['init']['class']


def _accuracy(record: Record) -> float | None:
    """Return the top-1 accuracy in percent of the initial weights; None if it is not stated in percent."""
    top1 = record_file.initial_weights_top1(record)
    return top1 if top1 is not None and 1 < top1 <= 100 else None


def _missing_accuracy_reason(record: Record) -> str:
    top1 = record_file.initial_weights_top1(record)
    if top1 is None:
        return f'its weights ({record["init"]["file"]}) state no top-1 accuracy'
    return f'top-1 accuracy {top1:g} of its weights is not a percentage above 1'


def _setting(protocol: str, start: str, runs: Sequence[Run], metric: str) -> Setting:
    first = runs[0][1]
    frozen = _frozen(first['protocol'])
    title = [
        first['dataset']['name'],
        first['detector'],
        _describe_start(start, frozen),
        f'protocol {protocol}',
    ]
    grouped: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        pretraining = run[1]['init']['pretraining']
        recipe = (pretraining and pretraining['recipe']) or ''
        grouped.setdefault((run[1]['arch'], recipe), []).append(run)
    networks = []
    for (arch, recipe), same in sorted(grouped.items()):
        recipes = sorted(other for name, other in grouped if name == arch)
        if len(recipes) == 1:
            networks.append(_network_result(arch, same, metric, note=''))
        else:
            name = f'{arch} #{recipes.index(recipe) + 1}'
            note = f'recipe: {recipe or "not stated"}'
            networks.append(_network_result(name, same, metric, note=note))
    return Setting(
        key=f'{protocol} {start}',
        title=' · '.join(title),
        data=first['dataset']['name'],
        detector=first['detector'],
        start=start,
        frozen=frozen,
        figure=metric,
        cost='multiply-adds of the whole detector at its input size',
        base=_base_key(first),
        nets=tuple(networks),
    )


def _describe_start(start: str, frozen: int | None) -> str:
    text = 'random weights' if start == SCRATCH else f'{start} weights'
    return text if frozen is None or frozen < 0 else f'{text}, stem and {frozen} stages frozen'


def _backbone(protocol: Mapping[str, Any]) -> dict[str, Any]:
    model = protocol.get('model')
    backbone = model.get('backbone') if isinstance(model, dict) else None
    return backbone if isinstance(backbone, dict) else {}


def _frozen(protocol: Mapping[str, Any]) -> int | None:
    frozen = _backbone(protocol).get('frozen_stages')
    return frozen if isinstance(frozen, int) else None


def _base_key(record: Record) -> str:
    """Return the key of the protocol without the initialization and the frozen stages."""
    protocol = copy.deepcopy(record['protocol'])
    protocol.pop('init', None)
    _backbone(protocol).pop('frozen_stages', None)
    return record_file.content_key([record['detector'], protocol])


def _network_result(name: str, runs: Sequence[Run], metric: str, note: str) -> NetworkResult:
    runs = sorted(runs, key=lambda run: (run[1]['seed'], str(run[0])))
    values = [record['metrics']['test'][metric] for _, record in runs]
    aps = [100 * value for value in values if value is not None]
    first = runs[0][1]
    top1 = {}
    for _, record in runs:
        accuracy = _accuracy(record)
        if accuracy is not None:
            top1[record['init']['sha256']] = accuracy
    costs = [macs for _, record in runs if (macs := record['costs']['at_input']['total_macs']) is not None]
    return NetworkResult(
        name=name,
        arch=first['arch'],
        family=first['family'],
        accuracy=statistics.fmean(top1.values()) if top1 else None,
        ap=statistics.fmean(aps),
        spread=statistics.stdev(aps) if len(aps) > 1 else None,
        cost=statistics.fmean(costs) / 1e6 if costs else None,
        seeds=tuple(record['seed'] for _, record in runs),
        weights=len(top1),
        sources=tuple(str(path) for path, _ in runs),
        note=note,
    )


# Published results


def settings_from_published() -> tuple[list[Setting], list[ExcludedResult]]:
    """Return the settings of the papers' detection tables, with the accuracies from the same paper."""
    data = published.load()
    groups: dict[tuple[str, str], list[published.Row]] = {}
    for row in data.results('detection'):
        groups.setdefault((row.paper, row.setting), []).append(row)
    settings, excluded = [], []
    for (paper, name), rows in groups.items():
        about = data.settings[name]
        where = f'{data.papers[paper].name} paper ({paper})'
        for row in rows:
            if row.quoted or row.top1_accuracy is None:
                why = f'the paper states no accuracy on {about.pretraining} for this training'
                what = f'{where}, Table {row.table}, {row.model}, {about.dataset} {about.input}'
                excluded.append(ExcludedResult(what, row.note or 'quoted' if row.quoted else why))
        networks = [_published_result(row) for row in rows if not row.quoted]
        settings.append(
            Setting(
                key=f'{paper} {name}',
                title=' · '.join(filter(None, (where, about.dataset, about.detector, about.input))),
                data=about.dataset,
                detector=about.detector or '',
                start=about.pretraining or SCRATCH,
                frozen=None,
                figure=about.metric,
                cost='multiply-adds of the network at 224x224, as published',
                base=None,
                nets=tuple(sorted(networks, key=lambda network: network.name)),
            )
        )
    return settings, excluded


def _published_result(row: published.Row) -> NetworkResult:
    name = row.arch or row.model
    return NetworkResult(
        name=name,
        arch=name,
        family=family_of(name),
        accuracy=row.top1_accuracy,
        ap=row.ap or 0.0,
        spread=None,
        cost=row.mflops,
        seeds=(),
        weights=1,
        sources=(f'Table {row.table}',),
        note=row.note or '',
    )


def family_of(arch: str) -> str:
    """Return a network's name without its size: 'sfr_shufflenetv2' of 'sfr_shufflenetv2_1.5x'."""
    match = re.match(r'(?:sfr_)?[^_]+', arch)
    return match[0] if match else arch
