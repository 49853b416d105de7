"""Input of the transfer study: networks within settings, from records and from published results.

A setting is everything that must be equal for two results to be compared: for records the protocol and the
data set of the pretraining, for published results the paper and the setting of its table. Only the orders
of the networks are compared between settings.
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

SCRATCH = 'none'  # class of initialization of a run from random weights


@dataclass(frozen=True)
class Net:
    """One network in one setting.

    Attributes:
        name: Name of the network; numbered if a setting has it with two pretraining recipes.
        arch: Its arch.
        family: Networks of one family are left out together.
        accuracy: Top-1 accuracy in percent of its initial weights, or None.
        ap: AP in percent, the mean over runs.
        spread: Standard deviation over runs (n - 1), or None for one run.
        cost: Millions of multiply-adds, or None.
        seeds: Seeds of the runs; empty for a published result.
        weights: Number of initial weights files, whose accuracies are averaged.
        sources: Records, or tables of a paper.
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

    Attributes:
        key: Unique key.
        title: Title in words.
        data: Data set of the detection task.
        detector: Detector.
        start: What the networks started from: data of the pretraining, or 'none'.
        frozen: Frozen stages, -1 for none, None where it is not known.
        figure: Which AP.
        cost: What the multiply-adds count.
        base: Equal for settings that differ in nothing but ``start`` and ``frozen``; None if not known.
        networks: The networks, by name.
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
    nets: tuple[Net, ...]


@dataclass(frozen=True)
class LeftOut:
    """A result that the study cannot use, and the reason."""

    what: str
    why: str


# Own runs


def from_records(paths: Sequence[Path], figure: str) -> tuple[list[Setting], list[LeftOut]]:
    """Read records. Runs that differ only in their seed or the seed of their weights are one network.

    Args:
        paths: ``record.json`` files.
        figure: Name of a test metric in the records, such as 'coco/ap'.

    Raises:
        UserError: A record is not valid, two are of the same run, or no record has the metric.
    """
    settings: dict[tuple[str, str], list[tuple[Path, record_file.Record]]] = {}
    left_out = []
    seen: dict[tuple, Path] = {}
    figures: set[str] = set()
    for path in paths:
        record = record_file.read(path)
        protocol = record['keys']['protocol']
        run = (protocol, record['arch'], record['init']['sha256'], record['seed'])
        if run in seen:
            raise UserError(f'{seen[run]}, {path}: two runs have the same seed; leave one out')
        seen[run] = path
        figures |= record['metrics']['test'].keys()
        if record['metrics']['test'].get(figure) is None:
            left_out.append(LeftOut(str(path), f'no metric {figure} on its test split'))
            continue
        if record['init']['class'] != SCRATCH and _accuracy(record) is None:
            left_out.append(LeftOut(str(path), _no_accuracy(record)))  # its AP may still be compared
        settings.setdefault((protocol, _start(record)), []).append((path, record))
    if figures and figure not in figures:
        names = ', '.join(sorted(name for name in figures if name.count('/') == 1 and 'with' not in name))
        raise UserError(f'--figure {figure}: no record has it; they have {names}')
    return [_setting(*key, runs, figure) for key, runs in sorted(settings.items())], left_out


def _start(record: Mapping[str, Any]) -> str:
    pretraining = record['init']['pretraining'] or {}
    return pretraining.get('data') or record['init']['class']


def _accuracy(record: Mapping[str, Any]) -> float | None:
    """Return the top-1 accuracy in percent of the initial weights; None if it is not stated in percent."""
    top1 = (record['init']['pretraining'] or {}).get('top1')
    return top1 if top1 is not None and 1 < top1 <= 100 else None


def _no_accuracy(record: Mapping[str, Any]) -> str:
    top1 = (record['init']['pretraining'] or {}).get('top1')
    if top1 is None:
        return f'its weights ({record["init"]["file"]}) state no top-1 accuracy'
    return f'top-1 accuracy {top1:g} of its weights is not a percentage above 1'


def _setting(
    protocol: str, start: str, runs: Sequence[tuple[Path, record_file.Record]], figure: str
) -> Setting:
    first = runs[0][1]
    frozen = _frozen(first['protocol'])
    words = [first['dataset']['name'], first['detector'], _in_words(start, frozen), f'protocol {protocol}']
    grouped: dict[tuple[str, str], list[tuple[Path, record_file.Record]]] = {}
    for run in runs:
        recipe = (run[1]['init']['pretraining'] or {}).get('recipe') or ''
        grouped.setdefault((run[1]['arch'], recipe), []).append(run)
    nets = []
    for (arch, recipe), same in sorted(grouped.items()):
        recipes = sorted(other for name, other in grouped if name == arch)
        if len(recipes) == 1:
            nets.append(_net(arch, same, figure, note=''))
        else:
            name = f'{arch} #{recipes.index(recipe) + 1}'
            nets.append(_net(name, same, figure, note=f'recipe: {recipe or "not stated"}'))
    return Setting(
        key=f'{protocol} {start}',
        title=' · '.join(words),
        data=first['dataset']['name'],
        detector=first['detector'],
        start=start,
        frozen=frozen,
        figure=figure,
        cost='multiply-adds of the whole detector at its input size',
        base=_base(first),
        nets=tuple(nets),
    )


def _in_words(start: str, frozen: int | None) -> str:
    words = 'random weights' if start == SCRATCH else f'{start} weights'
    return words if frozen is None or frozen < 0 else f'{words}, stem and {frozen} stages frozen'


def _backbone(protocol: Mapping[str, Any]) -> dict[str, Any]:
    model = protocol.get('model')
    backbone = model.get('backbone') if isinstance(model, dict) else None
    return backbone if isinstance(backbone, dict) else {}


def _frozen(protocol: Mapping[str, Any]) -> int | None:
    frozen = _backbone(protocol).get('frozen_stages')
    return frozen if isinstance(frozen, int) else None


def _base(record: Mapping[str, Any]) -> str:
    """Return the key of the protocol without what a contrast varies."""
    protocol = copy.deepcopy(record['protocol'])
    protocol.pop('init', None)
    _backbone(protocol).pop('frozen_stages', None)
    return record_file.content_key([record['dataset']['name'], record['detector'], protocol])


def _net(name: str, runs: Sequence[tuple[Path, record_file.Record]], figure: str, note: str) -> Net:
    runs = sorted(runs, key=lambda run: (run[1]['seed'], str(run[0])))
    aps = [100 * record['metrics']['test'][figure] for _, record in runs]
    first = runs[0][1]
    top1 = {}
    for _, record in runs:
        accuracy = _accuracy(record)
        if accuracy is not None:
            top1[record['init']['sha256']] = accuracy
    costs = [record['costs']['at_input']['total_macs'] for _, record in runs]
    return Net(
        name=name,
        arch=first['arch'],
        family=first['family'],
        accuracy=statistics.fmean(top1.values()) if top1 else None,
        ap=statistics.fmean(aps),
        spread=statistics.stdev(aps) if len(aps) > 1 else None,
        cost=statistics.fmean(costs) / 1e6,
        seeds=tuple(record['seed'] for _, record in runs),
        weights=len(top1),
        sources=tuple(str(path) for path, _ in runs),
        note=note,
    )


# Published results


def from_published() -> tuple[list[Setting], list[LeftOut]]:
    """Return the detection tables of the papers, each network with its accuracy in the same paper."""
    data = published.load()
    groups: dict[tuple[str, str], list[published.Row]] = {}
    for row in data.results('detection'):
        groups.setdefault((row.paper, row.setting), []).append(row)
    settings, left_out = [], []
    for (paper, name), rows in groups.items():
        about = data.settings[name]
        where = f'{data.papers[paper].name} paper ({paper})'
        for row in rows:
            if row.quoted or row.top1_accuracy is None:
                why = f'no accuracy of {about.pretraining} printed for this training'
                place = f'{where}, Table {row.table}, {row.model}, {about.dataset} {about.input}'
                left_out.append(LeftOut(place, row.note or 'quoted' if row.quoted else why))
        nets = [_published_net(row) for row in rows if not row.quoted]
        settings.append(
            Setting(
                key=f'{paper} {name}',
                title=' · '.join(filter(None, (where, about.dataset, about.detector, about.input))),
                data=about.dataset,
                detector=about.detector or '',
                start=about.pretraining or SCRATCH,
                frozen=None,
                figure=about.metric,
                cost='multiply-adds of the network at 224x224 as printed',
                base=None,
                nets=tuple(sorted(nets, key=lambda net: net.name)),
            )
        )
    return settings, left_out


def _published_net(row: published.Row) -> Net:
    name = row.arch or row.model
    return Net(
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
