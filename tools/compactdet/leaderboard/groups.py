"""Data of a leaderboard: groups of rows, metrics and costs.

Metric values are shares from 0 to 1. Costs are single operations and single parameters; latencies are
milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from compactdet.records import results_table
from compactdet.records.record_types import Record

METRICS = {  # name: title
    **results_table.METRICS,
    'voc/ap50': 'VOC AP50',  # of a paper that does not state the rule
    'top1': 'top-1 accuracy',
}


@dataclass(frozen=True)
class Cost:
    """A kind of cost.

    Attributes:
        title: Title of a table column.
        label: Description.
        unit: Unit in which it is shown.
        size: Number of single operations, parameters or milliseconds in one unit.
    """

    title: str
    label: str
    unit: str
    size: float


COSTS = {
    'network_macs': Cost(
        'network MACs at 224',
        'multiply-adds of the network alone with its classifier, at 224x224 or its own smaller size',
        'M',
        1e6,
    ),
    'detector_macs': Cost(
        'detector MACs', 'multiply-adds of the whole detector at its input size', 'G', 1e9
    ),
    'network_params': Cost(
        'network parameters', 'parameters of the network alone with its classifier', 'M', 1e6
    ),
    'detector_params': Cost('detector parameters', 'parameters of the whole detector', 'M', 1e6),
    'latency_ms': Cost('latency', 'latency of the network (published: at 224x224)', 'ms', 1),
}


@dataclass(frozen=True)
class Run:
    """A record, its path relative to the leaderboard's folder, and whether it was added."""

    record: Record
    path: str
    added: bool

    @property
    def seed_key(self) -> tuple[str, str, str, int]:
        """Identity of a seed of a network, which counts once however many records it has."""
        record = self.record
        return record['keys']['protocol'], record['arch'], record['init']['sha256'] or '', record['seed']


@dataclass(frozen=True)
class MetricValue:
    """The value of a metric for one row; all numbers but ranks are shares from 0 to 1.

    Attributes:
        mean: Mean over seeds, or the published value; None if a run lacks the metric.
        values: One value per seed, in the order of `Row.seeds`; None where a run lacks the metric. For a
            published row, its only value.
        sd: Standard deviation over seeds (n - 1); None for fewer than two seeds.
        seeds_interval: 95 % interval of the mean over seeds; None for fewer than two seeds.
        images_interval: 95 % interval over test images, the ends averaged over seeds; None if a record has
            none.
        ranks: Best and worst rank in the group; empty without a rank. None before ranking, for published
            rows, and for metrics that the group does not show.
    """

    mean: float | None
    values: Sequence[float | None]
    sd: float | None = None
    seeds_interval: Sequence[float] | None = None
    images_interval: Sequence[float] | None = None
    ranks: Sequence[int] | None = None


NO_VALUE = MetricValue(None, ())


@dataclass(frozen=True)
class Row:
    """A network in a group.

    Attributes:
        id: Identity of the row, used in links to it.
        network: Registered name of the network; for a network outside the suite the printed name.
        family: Network family; None for a network outside the suite.
        metrics: Values by name of metric.
        class_ap: AP by metric and class, from 0 to 1; None where a run lacks it.
        costs: Value of each of `COSTS`, in single operations, parameters or milliseconds; None if unknown.
        machine: Hardware and setting of the latency; None without one.
        source: The text 'measured' with additions, or paper and table.
        top1: Top-1 accuracy of the pretraining, from 0 to 1; None if unknown.
        note: Remarks on a published row.
        latency_interval: 95 % interval of a measured latency in milliseconds.
        runs: Runs of a measured row, in the order of their seeds; empty for a published row.
        model: Name of the network as printed; None for a measured row.
        label: Network, with weights file or printed name if several rows of the group have this network.
    """

    id: str
    network: str
    family: str | None
    metrics: Mapping[str, MetricValue]
    class_ap: Mapping[str, Mapping[str, float | None]]
    costs: Mapping[str, float | None]
    machine: str | None
    source: str
    top1: float | None
    note: str | None = None
    latency_interval: tuple[float, float] | None = None
    runs: Sequence[Run] = ()
    model: str | None = None
    label: str = ''

    @property
    def seeds(self) -> list[int]:
        """Seeds of the runs."""
        return [run.record['seed'] for run in self.runs]

    @property
    def added(self) -> bool:
        """Whether a run was added."""
        return any(run.added for run in self.runs)

    @property
    def weights(self) -> str | None:
        """File of the initial weights of a measured row."""
        return self.runs[0].record['init']['file'] if self.runs else None

    def metric(self, name: str) -> MetricValue:
        """Return the value of a metric, with mean None if the row lacks it."""
        return self.metrics.get(name, NO_VALUE)


@dataclass(frozen=True)
class Group:
    """Results that can be compared: runs of one protocol, or results of one paper and setting.

    Attributes:
        key: Protocol key, or paper and setting.
        kind: 'measured' or 'published'.
        task: 'detection' or 'classification'.
        dataset: Name of the data set.
        detector: Name of the detector, or 'classifier'.
        title: Heading.
        detail: Description of the setting.
        main_metric: Name of the metric by which rows are sorted.
        metric_names: Names of the metrics that are shown.
        rows: Rows of the group.
        control: Whether the runs start from random weights.
        protocol: Protocol of measured rows; None for published ones.
        frontiers: Ids of the rows on the Pareto frontier, cheapest first, by cost and metric. Costs that
            are not comparable within the group are missing.
    """

    key: str
    kind: str
    task: str
    dataset: str
    detector: str
    title: str
    detail: str
    main_metric: str
    metric_names: Sequence[str]
    rows: Sequence[Row]
    control: bool = False
    protocol: Mapping[str, Any] | None = None
    frontiers: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)

    @property
    def is_measured(self) -> bool:
        """Whether the rows are runs of the suite."""
        return self.kind == 'measured'


@dataclass(frozen=True)
class Board:
    """All groups, in display order, and a summary of them for the console."""

    groups: Sequence[Group]
    summary: str
