"""What results on several seeds say: intervals, ranks with ties, and the Pareto frontier."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence

from scipy import stats

LEVEL = 0.95
RULE = (
    'Only runs of one protocol are ranked together, and only networks with two seeds or more. Two networks '
    "are told apart where Welch's t test on their seeds says so (two-sided, 5 %, not corrected for the "
    'number of pairs). Two share a rank exactly where they are not told apart; so a network that is like '
    'its neighbours on both sides, while they differ, holds both their ranks, as 1-2.'
)


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean over seeds by Student's t; None for fewer than two seeds."""
    if len(values) < 2:
        return None
    error = statistics.stdev(values) / math.sqrt(len(values))
    half = float(stats.t.ppf((1 + LEVEL) / 2, len(values) - 1)) * error
    mean = statistics.fmean(values)
    return mean - half, mean + half


def told_apart(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether Welch's t test tells two networks apart; one seed never does."""
    if min(len(first), len(second)) < 2:
        return False
    difference = statistics.fmean(first) - statistics.fmean(second)
    parts = [statistics.variance(values) / len(values) for values in (first, second)]
    total = sum(parts)
    if total == 0:  # every seed of each gave one figure
        return difference != 0
    # Welch and Satterthwaite's degrees of freedom
    shares = zip(parts, (len(first), len(second)), strict=True)
    freedom = 1 / sum((part / total) ** 2 / (num - 1) for part, num in shares)
    return abs(difference) > float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(total)


def ranks(results: Sequence[Sequence[float]]) -> list[list[int]]:
    """Ranks networks by their figures over seeds, higher being better.

    A rank is a largest set of networks that cannot be told apart pairwise (the columns of a compact letter
    display). Source of the way to find them: Piepho, "An algorithm for a letter-based representation of
    all-pairwise comparisons", J. Comput. Graph. Stat. 13, 2004.

    Args:
        results: For each network a figure a seed.

    Returns:
        For each network its ranks, best first; none for one with fewer than two seeds.
    """
    order = [i for i, values in enumerate(results) if len(values) > 1]
    order.sort(key=lambda i: -statistics.fmean(results[i]))
    groups = [frozenset(order)]
    for first, second in itertools.combinations(order, 2):
        if told_apart(results[first], results[second]):
            pair = {first, second}
            split = [group for group in groups if pair <= group]
            parts = [group - {one} for group in split for one in pair]
            kept = {group for group in groups if not pair <= group} | set(parts)
            groups = [group for group in kept if not any(group < other for other in kept)]
    position = {network: i for i, network in enumerate(order)}
    groups.sort(key=lambda group: sorted(position[network] for network in group))
    return [[rank for rank, group in enumerate(groups, 1) if i in group] for i in range(len(results))]


def frontier(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the points (cost, result) that no other point matches or beats in both, cheapest first."""

    def beaten(x: float, y: float) -> bool:
        return any(a <= x and b >= y and (a, b) != (x, y) for a, b in points.values())

    kept = [name for name, (x, y) in points.items() if not beaten(x, y)]
    return sorted(kept, key=lambda name: (points[name], name))
