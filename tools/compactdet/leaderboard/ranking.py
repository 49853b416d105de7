"""Statistics of results over seeds: intervals, ranks with ties, and the Pareto frontier."""

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
RULE = (
    'Only runs of one protocol are ranked together, and only networks with two seeds or more, where there '
    "are two such networks. Two networks are told apart where Welch's t test on their seeds says so "
    '(two-sided, 5 %, not corrected for the number of pairs). A rank goes from 1 more than the number of '
    'networks told to be better, to the number of ranked networks less those told to be worse; so two that '
    'are not told apart always share a rank.'
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


def told_apart(results: Sequence[Sequence[float]]) -> NDArray[np.bool_]:
    """Return which pairs of networks differ by Welch's t test; a network with one seed never does.

    Args:
        results: For each of n networks one value per seed.

    Returns:
        (n, n), symmetric.
    """
    many = [values if len(values) > 1 else (math.nan,) * 2 for values in results]
    num = np.array([len(values) for values in many])
    mean, part = np.full((2, len(many)), math.nan)
    for i, values in enumerate(many):
        if not math.isnan(values[0]):  # exact: equal values have no spread
            mean[i], part[i] = statistics.mean(values), statistics.variance(values) / len(values)
    difference, total = np.abs(mean[:, None] - mean), part[:, None] + part
    with np.errstate(invalid='ignore', divide='ignore'):
        share = (part[:, None] / total) ** 2 / (num[:, None] - 1)
        freedom = 1 / (share + share.T)  # degrees of freedom by Welch and Satterthwaite
        apart = difference > stats.t.ppf((1 + LEVEL) / 2, freedom) * np.sqrt(total)
    found: NDArray[np.bool_] = np.where(total == 0, difference != 0, apart)
    return found


def ranks(results: Sequence[Sequence[float]]) -> list[list[int]]:
    """Rank networks by their results over seeds; higher is better.

    Source: the confidence set for a rank of Mogstad, Romano, Shaikh & Wilhelm, "Inference for Ranks",
    Review of Economic Studies 91, 2024, with pairs tested one by one.

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


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names of the points (cost, result) that no other point equals or beats in both, cheapest
    first.
    """

    def beaten(x: float, y: float) -> bool:
        return any(a <= x and b >= y and (a, b) != (x, y) for a, b in points.values())

    kept = [name for name, (x, y) in points.items() if not beaten(x, y)]
    return sorted(kept, key=lambda name: (points[name], name))
