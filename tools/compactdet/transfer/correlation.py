"""Estimators of the transfer study: rank correlations and their uncertainty.

Sources: Kendall, "Rank Correlation Methods", 1948 (rho, tau-b, partial rank correlation); Efron, "Better
Bootstrap Confidence Intervals", JASA 1987 (BCa); Cook & Weisberg, "Residuals and Influence in Regression",
1982 (externally studentized residuals, the outlier test).

Samples are small (a paper reports four to ten networks), so there is no interval for fewer than
`MIN_NETWORKS` networks. An estimate without an interval states the reason.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

MIN_NETWORKS = 5  # with four, a perfect order occurs by chance in 1 of 12 cases (two-sided)
CONFIDENCE = 0.95
RESAMPLES = 49_999  # the error of an interval's end is then below 0.01
RESAMPLES_OF_MANY = 9999  # for more than MANY networks, whose intervals are smoother
MANY = 32
PERMUTATIONS = 40320  # 8!: all orders of up to 8 networks; for more networks this many random orders
BATCH_VALUES = 4_000_000  # numbers in a batch of resamples, to limit memory

Array = NDArray[np.float64]
Statistic = Callable[..., Array]  # (..., n) columns, axis=-1 -> (...); NaN if it is not defined


@dataclass(frozen=True)
class Estimate:
    """A statistic with its confidence interval.

    Attributes:
        value: The value; None if it is not defined.
        low: Lower end of the interval; None if there is none.
        high: Upper end.
        n: Number of networks.
        note: Reason for a missing value or interval, or the number of excluded resamples.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    note: str = ''

    @property
    def excludes_zero(self) -> bool:
        """True if there is an interval and 0 is outside it."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


# Statistics: over the last axis, NaN if a column is constant


def _correlate(x: Array, y: Array) -> Array:
    """Return Pearson's correlation."""
    x = x - x.mean(axis=-1, keepdims=True)
    y = y - y.mean(axis=-1, keepdims=True)
    scale = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.clip(np.where(scale > 0, (x * y).sum(axis=-1) / scale, np.nan), -1, 1)


def spearman(x: Array, y: Array, axis: int = -1) -> Array:
    """Return Spearman's rho: Pearson's correlation of the ranks; ties share the mean rank."""
    return _correlate(stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1))


def kendall(x: Array, y: Array, axis: int = -1) -> Array:
    """Return Kendall's tau-b: concordant minus discordant pairs, corrected for ties."""
    i, j = np.triu_indices(x.shape[-1], 1)
    dx = np.sign(x[..., i] - x[..., j]).astype(np.float32)  # sums of these are exact up to 2**24 pairs
    dy = np.sign(y[..., i] - y[..., j]).astype(np.float32)
    both, in_x, in_y = (
        np.einsum('...p,...p', *pair).astype(float) for pair in ((dx, dy), (dx, dx), (dy, dy))
    )
    scale = np.sqrt(in_x * in_y)
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.where(scale > 0, both / scale, np.nan)


def partial_spearman(x: Array, y: Array, given: Array, axis: int = -1) -> Array:
    """Return the partial rank correlation of x and y, controlled for ``given``.

    The value is 0 if ``given`` orders the networks exactly as x or y, where the formula gives 0 / 0. With
    few networks many resamples are of this kind. Without them, four of five intervals would exclude 0 in
    simulations in which only ``given`` has an effect.
    """
    xy, xz, yz = spearman(x, y), spearman(x, given), spearman(y, given)
    left = (1 - xz * xz) * (1 - yz * yz)
    with np.errstate(invalid='ignore', divide='ignore'):
        partial = np.where(left < 1e-12, 0 * left, (xy - xz * yz) / np.sqrt(left))
    return np.clip(partial, -1, 1)


def mean_difference(a: Array, b: Array, axis: int = -1) -> Array:
    """Return the mean of a - b over pairs."""
    return (a - b).mean(axis=-1)


# Uncertainty


def estimate(statistic: Statistic, *columns: ArrayLike, resamples: int | None = None) -> Estimate:
    """Return a statistic and its 95 % BCa bootstrap interval over networks.

    Resamples in which the statistic is not defined (such as one network drawn n times) are excluded, and
    the note states their number.

    Args:
        statistic: Function, vectorized over the last axis.
        *columns: (n,) each; the i-th entries belong to the i-th network.
        resamples: Number of resamples (drawn with a fixed seed). None for `RESAMPLES`, or
            `RESAMPLES_OF_MANY` for more than `MANY` networks.
    """
    data = [np.asarray(column, np.float64) for column in columns]
    n = data[0].size
    if resamples is None:
        resamples = RESAMPLES if n <= MANY else RESAMPLES_OF_MANY
    value = float(statistic(*data)) if n else math.nan
    if math.isnan(value):
        return Estimate(None, None, None, n, _undefined_reason(data))
    if n < MIN_NETWORKS:
        return Estimate(value, None, None, n, f'{n} networks are too few for an interval')

    def interval(previous: Any = None) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # a degenerate distribution gives NaN, handled below
            return stats.bootstrap(
                data, statistic, paired=True, vectorized=True, axis=-1, confidence_level=CONFIDENCE,
                n_resamples=0 if previous else resamples, batch=max(1, BATCH_VALUES // n**2), method='BCa',
                bootstrap_result=previous, rng=np.random.default_rng(0),
            )  # fmt: skip

    drawn = interval()
    values = drawn.bootstrap_distribution[np.isfinite(drawn.bootstrap_distribution)]
    excluded = resamples - values.size
    if excluded and values.size:
        drawn = interval(replace(drawn, bootstrap_distribution=values))
    note = (
        f'{excluded} of {resamples} resamples are excluded: the statistic is not defined'
        if excluded
        else ''
    )
    low, high = map(float, drawn.confidence_interval)
    if not math.isnan(low + high):
        return Estimate(value, low, high, n, note)
    if not values.size or np.ptp(values) < 1e-12:
        return Estimate(value, None, None, n, 'no interval: all resamples give the same value')
    jackknife = [statistic(*(np.delete(column, i) for column in data)) for i in range(n)]
    if not np.isfinite(jackknife).all():
        note = 'no interval: the statistic is not defined without one of the networks'
        return Estimate(value, None, None, n, note)
    low, high = _bias_corrected_interval(value, values)
    note = 'BCa without acceleration: all jackknife values are equal'
    return Estimate(value, low, high, n, note)


def _bias_corrected_interval(value: float, drawn: Array) -> tuple[float, float]:
    """Return the BCa interval with acceleration 0."""
    below = np.mean(drawn < value) + np.mean(drawn == value) / 2
    tail = stats.norm.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.quantile(drawn, stats.norm.cdf(2 * stats.norm.ppf(below) + tail))
    return float(low), float(high)


def _undefined_reason(data: Sequence[Array]) -> str:
    if data[0].size < 2:
        return 'one network is not enough'
    return 'all networks have the same value of one quantity'


def permutation_p_value(x: ArrayLike, y: ArrayLike) -> float | None:
    """Return the probability that a random order of x gives a rho at least as far from 0 (two-sided).

    The value is exact for up to 8 networks. For more it is estimated from random orders and the observed
    one. None if rho is not defined.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    result = stats.permutation_test(
        (x,), lambda drawn, axis: np.abs(spearman(drawn, np.broadcast_to(y, drawn.shape))),
        permutation_type='pairings', alternative='greater', vectorized=True, axis=-1,
        n_resamples=PERMUTATIONS, batch=max(1, BATCH_VALUES // x.size), rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(result.pvalue)


# Concordant pairs of networks, over several settings


@dataclass(frozen=True)
class Measurement:
    """The two quantities of one network in one setting.

    Attributes:
        name: Name of the network, equal in all settings.
        x: First quantity.
        y: Second quantity.
        cost: Cost of the network; None if it is unknown.
    """

    name: str
    x: float
    y: float
    cost: float | None


@dataclass(frozen=True)
class Pairs:
    """Number of concordant pairs of networks; the networks of a pair are measured in the same setting.

    Attributes:
        agree: Number of pairs that both quantities order alike.
        total: Number of pairs without ties.
        share: ``agree / total`` with its interval from resamples of the networks.
    """

    agree: int
    total: int
    share: Estimate


def count_pairs(settings: Sequence[Sequence[Measurement]], max_cost_ratio: float) -> Pairs:
    """Count concordant pairs within settings; no pair spans two settings.

    Args:
        settings: The networks of each setting. A network may occur in several settings.
        max_cost_ratio: Count only pairs whose costs differ by at most this factor; infinity for all pairs.
    """
    names = sorted({network.name for networks in settings for network in networks})
    agree, total = (np.zeros((len(names), len(names))) for _ in range(2))
    for networks in settings:
        for a, b in combinations(networks, 2):
            order = np.sign(a.x - b.x) * np.sign(a.y - b.y)
            if order == 0 or not _similar_cost(a.cost, b.cost, max_cost_ratio):
                continue
            row, column = names.index(a.name), names.index(b.name)
            agree[[row, column], [column, row]] += order > 0
            total[[row, column], [column, row]] += 1

    def share(drawn: Array, axis: int = -1) -> Array:
        index = drawn.astype(int)
        rows, columns = index[..., :, None], index[..., None, :]
        count = total[rows, columns].sum(axis=(-2, -1))
        with np.errstate(invalid='ignore'):
            return np.where(count > 0, agree[rows, columns].sum(axis=(-2, -1)) / count, np.nan)

    paired = np.flatnonzero(total.sum(axis=0))  # a network without a pair carries no information
    return Pairs(int(agree.sum()) // 2, int(total.sum()) // 2, estimate(share, paired))


def _similar_cost(a: float | None, b: float | None, max_ratio: float) -> bool:
    if math.isinf(max_ratio):
        return True
    return a is not None and b is not None and max(a, b) <= max_ratio * min(a, b)


# Residuals


@dataclass(frozen=True)
class Fit:
    """A least-squares line or plane with its residuals.

    Attributes:
        coefficients: The constant, then one coefficient per predictor.
        residuals: (n,) observed minus fitted values.
        studentised: (n,) externally studentized residuals: in units of their standard error in the fit
            without the network; None if the network alone determines its fitted value.
        p: (n,) two-sided p values of these under Student's t, multiplied by n (Bonferroni), at most 1.
    """

    coefficients: tuple[float, ...]
    residuals: tuple[float, ...]
    studentised: tuple[float | None, ...]
    p: tuple[float | None, ...]


def fit_residuals(y: ArrayLike, *predictors: ArrayLike) -> Fit | None:
    """Fit y by least squares; return None with too few networks or linearly dependent predictors.

    Args:
        y: (n,).
        *predictors: (n,) each.
    """
    observed = np.asarray(y, np.float64)
    n = observed.size
    columns = [np.asarray(predictor, np.float64) for predictor in predictors]
    parameters = 1 + len(columns)
    freedom = n - parameters - 1  # degrees of freedom of the fit without one network
    if n < MIN_NETWORKS or freedom < 2:
        return None
    centered = [column - column.mean() for column in columns]
    if any(np.ptp(column) == 0 for column in columns):
        return None
    scaled = np.column_stack([np.ones(n), *(column / column.std() for column in centered)])
    if np.linalg.matrix_rank(scaled) < parameters:
        return None
    orthonormal, _ = np.linalg.qr(scaled)
    residuals = observed - orthonormal @ (orthonormal.T @ observed)
    complement = 1 - (orthonormal**2).sum(axis=1)  # 1 - leverage
    squares = float(residuals @ residuals)
    slopes = np.linalg.lstsq(np.column_stack([np.ones(n), *columns]), observed, rcond=None)[0]
    rounding = 1e-12 * max(1.0, float(observed @ observed))  # the other networks may fit exactly
    studentised: list[float | None] = []
    for residual, share in zip(residuals, complement, strict=True):
        if share < 1e-9:
            studentised.append(None)
            continue
        variance = max((squares - residual**2 / share) / freedom, rounding)  # without this network
        studentised.append(float(residual / math.sqrt(variance * share)))
    p = tuple(
        None if t is None else min(1.0, n * float(2 * stats.t.sf(abs(t), freedom))) for t in studentised
    )
    return Fit(tuple(map(float, slopes)), tuple(map(float, residuals)), tuple(studentised), p)
