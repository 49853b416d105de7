"""Statistics of a latency study.

Multiply-adds are the cost that papers print; Ma et al. 2018 (ShuffleNet v2, arXiv:1807.11164) state that
memory access cost and the degree of grouping also decide the latency. The study estimates, for each
backend, how well each cost orders the networks by latency, and which networks are slower than their
multiply-adds predict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from compactdet.deploy.latency import Interval
from compactdet.latency_study.networks import StudyNetwork
from compactdet.transfer.correlation import (
    MIN_NETWORKS,
    Estimate,
    Statistic,
    estimate,
    fit_residuals,
    partial_spearman,
    spearman,
)

COSTS = {'macs': 'multiply-adds', 'params': 'parameters', 'memory': 'memory traffic'}
RESAMPLES, FAMILY_RESAMPLES = 9999, 2000
SIGNIFICANT = 0.05
EAGER = 'eager'


@dataclass(frozen=True)
class CostStudy:
    """How well one cost predicts the latency of one backend.

    Attributes:
        cost: Key of `COSTS`.
        rho: Rank correlation with the latency; interval over networks.
        by_families: 95 % interval of the same from resamples of whole families.
        families: Rank correlation within each family of at least five networks.
    """

    cost: str
    rho: Estimate
    by_families: tuple[float, float] | None
    families: dict[str, Estimate]


@dataclass(frozen=True)
class NetworkFactor:
    """Latency of a network over the latency that its multiply-adds predict.

    Attributes:
        name: Name of the network.
        factor: Measured over predicted latency.
        p: Probability of such a residual, times the number of networks (Bonferroni).
    """

    name: str
    factor: float
    p: float | None


@dataclass(frozen=True)
class BackendStudy:
    """Results of one backend.

    Attributes:
        backend: Name of the backend.
        costs: One entry per cost.
        memory_minus_macs: Rank correlation of memory traffic minus that of multiply-adds.
        memory_given_macs: Partial rank correlation of latency and memory traffic, given the multiply-adds.
        exponent: Slope of the logarithm of the latency over that of the multiply-adds.
        factors: Every network, the slowest for its multiply-adds first.
        kinds: Geometric mean of the factors by kind of convolution, with its interval over networks.
        frontier: Networks that no network of at least the same accuracy undercuts in latency, by accuracy.
        eager_ratio: Latency over that of eager PyTorch by network; empty without the backend 'eager'.
    """

    backend: str
    costs: tuple[CostStudy, ...]
    memory_minus_macs: Estimate
    memory_given_macs: Estimate
    exponent: float
    factors: tuple[NetworkFactor, ...]
    kinds: dict[str, Estimate]
    frontier: tuple[str, ...]
    eager_ratio: dict[str, float]

    @property
    def slower(self) -> tuple[NetworkFactor, ...]:
        """Networks whose latency lies above the prediction by more than chance explains."""
        return tuple(f for f in self.factors if f.factor > 1 and f.p is not None and f.p < SIGNIFICANT)


def make_study(networks: Sequence[StudyNetwork]) -> tuple[BackendStudy, ...]:
    """Return the results of each backend that measured all networks."""
    backends = [b for b in networks[0].latency_ms if all(b in network.latency_ms for network in networks)]
    return tuple(_backend_study(networks, backend) for backend in backends)


def _backend_study(networks: Sequence[StudyNetwork], backend: str) -> BackendStudy:
    latency = _latencies(networks, backend)
    macs, memory = _costs(networks, 'macs'), _costs(networks, 'memory')
    fit = fit_residuals(np.log(latency), np.log(macs))
    if fit is None:
        raise ValueError('all networks have the same multiply-adds')
    factors = [
        NetworkFactor(network.name, math.exp(residual), p)
        for network, residual, p in zip(networks, fit.residuals, fit.p, strict=True)
    ]
    kinds = {}
    for kind in sorted({network.kind for network in networks}):
        own = [r for network, r in zip(networks, fit.residuals, strict=True) if network.kind == kind]
        kinds[kind] = _exponential(_estimate(_mean, own))
    return BackendStudy(
        backend,
        tuple(_cost_study(networks, backend, cost) for cost in COSTS),
        _estimate(_difference_of_rho, memory, macs, latency),
        _estimate(partial_spearman, latency, memory, macs),
        fit.coefficients[1],
        tuple(sorted(factors, key=lambda f: -f.factor)),
        kinds,
        pareto_frontier(networks, backend),
        {
            network.name: network.latency_ms[backend].value / network.latency_ms[EAGER].value
            for network in networks
            if backend != EAGER and EAGER in network.latency_ms
        },
    )


def _cost_study(networks: Sequence[StudyNetwork], backend: str, cost: str) -> CostStudy:
    families: dict[str, list[StudyNetwork]] = {}
    for network in networks:
        families.setdefault(network.family, []).append(network)
    within = {
        family: _estimate(spearman, _costs(own, cost), _latencies(own, backend))
        for family, own in sorted(families.items())
        if len(own) >= MIN_NETWORKS
    }
    rho = _estimate(spearman, _costs(networks, cost), _latencies(networks, backend))
    groups = [(_costs(own, cost), _latencies(own, backend)) for own in families.values()]
    return CostStudy(cost, rho, family_interval(groups), within)


def family_interval(groups: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of a rank correlation from resamples of whole families.

    None if it is not defined: all networks have the same cost.

    Args:
        groups: Both quantities of the networks of each family, (n,) each.
    """
    rng = np.random.default_rng(0)
    values = []
    for _ in range(FAMILY_RESAMPLES):
        drawn = [groups[i] for i in rng.integers(len(groups), size=len(groups))]
        x, y = (np.concatenate([group[axis] for group in drawn]) for axis in (0, 1))
        values.append(float(spearman(x, y)))
    defined = np.array(values)[np.isfinite(values)]
    if not defined.size:
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return float(low), float(high)


def pareto_frontier(networks: Sequence[StudyNetwork], backend: str) -> tuple[str, ...]:
    """Return the networks of known accuracy that no other one dominates, in the order of their accuracy.

    A network dominates another if its accuracy is at least as high and it is faster; two networks whose
    intervals of the ratio to the reference overlap are not ordered by latency.
    """
    known = [(network.top1, network) for network in networks if network.top1 is not None]
    frontier = [
        (accuracy, network.name)
        for accuracy, network in known
        if not any(
            other_accuracy >= accuracy and _faster(other.ratio[backend], network.ratio[backend])
            for other_accuracy, other in known
        )
    ]
    return tuple(name for _, name in sorted(frontier))


def _faster(one: Interval, other: Interval) -> bool:
    return one.high < other.low


def _costs(networks: Sequence[StudyNetwork], cost: str) -> np.ndarray:
    return np.array([getattr(network, cost) for network in networks], float)


def _latencies(networks: Sequence[StudyNetwork], backend: str) -> np.ndarray:
    return np.array([network.latency_ms[backend].value for network in networks])


def _difference_of_rho(
    one: np.ndarray, other: np.ndarray, latency: np.ndarray, axis: int = -1
) -> np.ndarray:
    return spearman(one, latency) - spearman(other, latency)


def _estimate(statistic: Statistic, *columns: ArrayLike) -> Estimate:
    return estimate(statistic, *columns, resamples=RESAMPLES)


def _mean(values: np.ndarray, axis: int = -1) -> np.ndarray:
    return values.mean(axis=-1)


def _exponential(logarithm: Estimate) -> Estimate:
    value, low, high = (
        None if x is None else math.exp(x) for x in (logarithm.value, logarithm.low, logarithm.high)
    )
    return Estimate(value, low, high, logarithm.n, logarithm.note)
