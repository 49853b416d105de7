"""Statistics of results over seeds: intervals, ranks with ties, and the Pareto frontier."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
RULE = (
    'Only runs of one protocol are ranked together, and only networks with two seeds or more, where there '
    "are two such networks. Two networks are told apart where Welch's t test on their seeds says so, "
    "with Holm's correction over all pairs of the ranked networks: the probability that any pair of equal "
    'networks is told apart is at most 5 %. A rank goes from 1 more than the number of networks told to be '
    'better, to the number of ranked networks less those told to be worse; so two that are not told apart '
    'always share a rank.'
)


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of shares by Student's t, clipped to [0, 1]; None for fewer than
    two values.
    """
    if len(values) < 2:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    mean = statistics.fmean(values)
    return max(0.0, mean - half), min(1.0, mean + half)


def t_factors(count: int) -> list[float]:
    """Return the factors of the standard error in `t_interval` for 1 to ``count`` degrees of freedom."""
    return [float(stats.t.ppf((1 + LEVEL) / 2, freedom)) for freedom in range(1, count + 1)]


def told_apart(results: Sequence[Sequence[float]]) -> NDArray[np.bool_]:
    """Return which pairs of networks differ, by simultaneous tests at 5 % over all pairs.

    The test of a pair is Welch's, which takes the variance of each network from its own seeds: if a pooled
    variance is used and one network varies more than the others, equal networks are told apart in up to
    43 % of simulated boards. A network with one seed never differs. Source of the correction: Holm, "A
    simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.

    Args:
        results: For each of n networks one value per seed.

    Returns:
        (n, n), symmetric.
    """
    found = np.zeros((len(results), len(results)), bool)
    many = [i for i, values in enumerate(results) if len(values) > 1]
    first, second = np.triu_indices(len(many), 1)
    holds = _holm(_welch([results[i] for i in many], first, second))
    index = np.array(many, int)
    found[index[first], index[second]] = found[index[second], index[first]] = holds
    return found


def _welch(
    results: Sequence[Sequence[float]], first: NDArray[np.int_], second: NDArray[np.int_]
) -> NDArray[np.float64]:
    """Return the two-sided p values of Welch's t test for pairs of networks.

    The degrees of freedom are at most those of two networks with the smaller number of seeds. Otherwise a
    network whose two seeds are close by chance is told apart from one with ten seeds too often: equal
    networks with 2, 3, 5 and 10 seeds are told apart in 12 % of simulated boards of twenty.
    """
    # statistics is exact: equal values have no variance.
    num = np.array([len(values) for values in results], float)
    mean = np.array([statistics.mean(values) for values in results])
    part = np.array([statistics.variance(values) for values in results]) / num
    total = part[first] + part[second]
    with np.errstate(invalid='ignore', divide='ignore'):
        share = (part[first] / total) ** 2 / (num[first] - 1)
        share += (part[second] / total) ** 2 / (num[second] - 1)
        freedom = np.minimum(1 / share, 2 * np.minimum(num[first], num[second]) - 2)
        p_values = 2 * stats.t.sf(np.abs(mean[first] - mean[second]) / np.sqrt(total), freedom)
    found: NDArray[np.float64] = np.where(total == 0, mean[first] == mean[second], p_values)
    return found


def _holm(p_values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which hypotheses Holm's procedure rejects, one or more of them true in at most 5 %."""
    order = np.argsort(p_values, kind='stable')
    small = p_values[order] <= (1 - LEVEL) / np.arange(len(order), 0, -1)
    rejected = np.zeros(len(order), bool)
    rejected[order] = np.logical_and.accumulate(small)
    return rejected


def ranks(results: Sequence[Sequence[float]]) -> list[list[int]]:
    """Rank networks by their results over seeds; higher is better.

    All true ranks are inside these intervals with a probability of at least 95 %. Source: the simultaneous
    confidence set for ranks of Mogstad, Romano, Shaikh & Wilhelm, "Inference for Ranks", Review of Economic
    Studies 91, 2024.

    Args:
        results: For each network one value per seed.

    Returns:
        For each network the best and the worst rank that it may have; None with fewer than two seeds, and
        None if only one network has more.
    """
    found: list[list[int]] = [[] for _ in results]
    order = [i for i, values in enumerate(results) if len(values) > 1]
    if len(order) < 2:
        return found
    order.sort(key=lambda i: -statistics.fmean(results[i]))
    apart = told_apart([results[i] for i in order])
    best = 1 + np.triu(apart).sum(axis=0)
    worst = len(order) - np.triu(apart).sum(axis=1)
    # With different degrees of freedom, a network between two others can differ from both although these do
    # not differ from each other. They share a rank nevertheless.
    for i, j in zip(*np.nonzero(np.triu(~apart, 1)), strict=True):
        best[j] = min(best[j], worst[i])
    for i, *ends in zip(order, best, worst, strict=True):
        found[i] = [int(end) for end in ends]
    return found


def frontier(
    points: Mapping[str, tuple[float, float]], ordered: Callable[[str, str], bool] = lambda *_: True
) -> list[str]:
    """Return the names of the points (cost, result) that no other point equals or beats in both, cheapest
    first.

    Args:
        points: Cost and result by name.
        ordered: Whether the costs of two names differ beyond their uncertainty. A point does not beat
            another if they do not.
    """

    def beaten(name: str) -> bool:
        x, y = points[name]
        return any(
            a <= x and b >= y and (a, b) != (x, y) and ordered(name, other)
            for other, (a, b) in points.items()
        )

    kept = [name for name in points if not beaten(name)]
    return sorted(kept, key=lambda name: (points[name], name))
