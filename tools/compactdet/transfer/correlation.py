"""Estimators of the transfer study: rank correlations and their uncertainty.

Sources: Kendall, "Rank Correlation Methods", 1948 (rho, tau-b, partial rank correlation); Efron, "Better
Bootstrap Confidence Intervals", JASA 1987 (BCa); Cook & Weisberg, "Residuals and Influence in Regression",
1982 (externally studentized residuals, the outlier test).

Samples are small here (a paper measures four to ten networks): an estimate without an interval states the
reason, and there is no interval for fewer than `MIN_NETS` networks.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

MIN_NETS = 5  # with four, a perfect order occurs by chance in 1 of 12 cases (two-sided)
CONFIDENCE = 0.95
RESAMPLES = 49_999  # the error of an end is then below 0.01
RESAMPLES_OF_MANY = (
    9999  # of more networks than MANY, whose intervals are smooth and whose samples are large
)
MANY = 32
EXACT_ORDERS = 40320  # 8!: up to 8 networks every order is tried, beyond that so many random ones
CELLS = 4_000_000  # numbers in a batch of resamples

Array = NDArray[np.float64]
Statistic = Callable[..., Array]  # (..., n) columns, axis=-1 -> (...); NaN where it is not defined


@dataclass(frozen=True)
class Estimate:
    """A statistic with its interval.

    Attributes:
        value: The value; None if it is not defined.
        low: Lower end of the interval; None if there is none.
        high: Upper end.
        n: Number of networks.
        note: Why there is no value or no interval, or which resamples were excluded.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    note: str = ''

    @property
    def excludes_zero(self) -> bool:
        """Return True if there is an interval and 0 lies outside it."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


# Statistics: along the last axis, NaN where a column is constant


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
    """Return the rank correlation of x and y controlled for ``given``.

    If ``given`` orders the networks exactly as x or y, nothing is left to correlate, and the formula 0 / 0
    is taken as
    0. (With few networks many resamples are of this kind; excluding them would make four of five intervals
    exclude 0 where only ``given`` has an effect.)
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
    """Return a statistic of networks and its 95 % BCa bootstrap interval over networks.

    Resamples in which the statistic is not defined (one network drawn n times has no order) are excluded,
    and the note states their number.

    Args:
        statistic: Function, vectorized over the last axis.
        *columns: (n,) each; the i-th entries belong to one net.
        resamples: Number of resamples, always the same ones; None for `RESAMPLES`, or of many
            networks `RESAMPLES_OF_MANY`.
    """
    data = [np.asarray(column, np.float64) for column in columns]
    n = data[0].size
    if resamples is None:
        resamples = RESAMPLES if n <= MANY else RESAMPLES_OF_MANY
    value = float(statistic(*data)) if n else math.nan
    if math.isnan(value):
        return Estimate(None, None, None, n, _why_undefined(data))
    if n < MIN_NETS:
        return Estimate(value, None, None, n, f'{n} networks are too few for an interval')

    def interval(previous: Any = None) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # a degenerate distribution gives NaN, handled below
            return stats.bootstrap(
                data, statistic, paired=True, vectorized=True, axis=-1, confidence_level=CONFIDENCE,
                n_resamples=0 if previous else resamples, batch=max(1, CELLS // n**2), method='BCa',
                bootstrap_result=previous, rng=np.random.default_rng(0),
            )  # fmt: skip

    drawn = interval()
    values = drawn.bootstrap_distribution[np.isfinite(drawn.bootstrap_distribution)]
    left_out = resamples - values.size
    if left_out and values.size:
        drawn = interval(replace(drawn, bootstrap_distribution=values))
    note = f'{left_out} of {resamples} resamples have no order and are excluded' if left_out else ''
    low, high = map(float, drawn.confidence_interval)
    if not math.isnan(low + high):
        return Estimate(value, low, high, n, note)
    if not values.size or np.ptp(values) < 1e-12:
        return Estimate(value, None, None, n, 'no interval: every resample gives the same')
    left = [statistic(*(np.delete(column, i) for column in data)) for i in range(n)]
    if not np.isfinite(left).all():
        return Estimate(value, None, None, n, 'no interval: without one of the networks there is no order')
    low, high = _bias_corrected(value, values)
    return Estimate(
        value, low, high, n, 'leaving out any one network changes nothing: BCa without acceleration'
    )


def _bias_corrected(value: float, drawn: Array) -> tuple[float, float]:
    """Return the BCa interval with acceleration 0, for a jackknife with a single value."""
    below = np.mean(drawn < value) + np.mean(drawn == value) / 2
    tail = stats.norm.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.quantile(drawn, stats.norm.cdf(2 * stats.norm.ppf(below) + tail))
    return float(low), float(high)


def _why_undefined(data: Sequence[Array]) -> str:
    return (
        'one network has no order' if data[0].size < 2 else 'all networks are equal in one of the columns'
    )


def chance(x: ArrayLike, y: ArrayLike) -> float | None:
    """Return the probability that a random order of x gives a rho as far from 0 (two-sided p value).

    Exact up to 8 networks; beyond that from random orders, including the observed one.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.size < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    result = stats.permutation_test(
        (x,), lambda drawn, axis: np.abs(spearman(drawn, np.broadcast_to(y, drawn.shape))),
        permutation_type='pairings', alternative='greater', vectorized=True, axis=-1,
        n_resamples=EXACT_ORDERS, batch=max(1, CELLS // x.size), rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(result.pvalue)


# Pairs of networks: what orders have in common, over several settings


@dataclass(frozen=True)
class Pairs:
    """Pairs of networks measured in one setting, by whether two orders agree on them.

    Attributes:
        agree: Number of pairs that both orders order alike.
        total: Number of pairs without ties.
        share: ``agree / total`` with its interval over networks, each with all its pairs.
    """

    agree: int
    total: int
    share: Estimate


def count_pairs(
    settings: Sequence[Sequence[tuple[str, float, float, float | None]]], ratio: float
) -> Pairs:
    """Count pairs within settings; no pair spans two settings.

    Args:
        settings: Of each the networks: (name, x, y, cost). A name may occur in several settings.
        ratio: Only pairs whose costs differ by at most this factor count; infinity for all pairs.
    """
    names = sorted({net[0] for nets in settings for net in nets})
    agree, both = (np.zeros((len(names), len(names))) for _ in range(2))
    for nets in settings:
        for i, a in enumerate(nets):
            for b in nets[:i]:
                order = np.sign(a[1] - b[1]) * np.sign(a[2] - b[2])
                if order == 0 or not _near(a[3], b[3], ratio):
                    continue
                row, column = names.index(a[0]), names.index(b[0])
                agree[[row, column], [column, row]] += order > 0
                both[[row, column], [column, row]] += 1

    def share(drawn: Array, axis: int = -1) -> Array:
        index = drawn.astype(int)
        rows, columns = index[..., :, None], index[..., None, :]
        total = both[rows, columns].sum(axis=(-2, -1))
        with np.errstate(invalid='ignore'):
            return np.where(total > 0, agree[rows, columns].sum(axis=(-2, -1)) / total, np.nan)

    met = np.flatnonzero(both.sum(axis=0))  # a network without a pair has no information
    return Pairs(int(agree.sum()) // 2, int(both.sum()) // 2, estimate(share, met))


def _near(a: float | None, b: float | None, ratio: float) -> bool:
    if math.isinf(ratio):
        return True
    return a is not None and b is not None and max(a, b) <= ratio * min(a, b)


# Residuals


@dataclass(frozen=True)
class Fit:
    """A least-squares line or plane with its residuals.

    Attributes:
        coefficients: Constant first, then one for each predictor.
        residuals: (n,) observed minus fitted.
        studentised: (n,) each residual in units of its standard error in the fit without the network; None
            if the network alone determines its fitted value.
        p: (n,) two-sided p values of these under Student's t, times n (Bonferroni: n networks are looked
            at), at most 1.
    """

    coefficients: tuple[float, ...]
    residuals: tuple[float, ...]
    studentised: tuple[float | None, ...]
    p: tuple[float | None, ...]


def fit_residuals(y: ArrayLike, *predictors: ArrayLike) -> Fit | None:
    """Fit y by least squares; None with too few networks or linearly dependent predictors.

    Args:
        y: (n,).
        *predictors: (n,) each.
    """
    observed = np.asarray(y, np.float64)
    n = observed.size
    columns = [np.asarray(predictor, np.float64) for predictor in predictors]
    parameters = 1 + len(columns)
    freedom = n - parameters - 1  # of the fit without one network
    if n < MIN_NETS or freedom < 2:
        return None
    centerd = [column - column.mean() for column in columns]
    if any(np.ptp(column) == 0 for column in columns):
        return None
    scaled = np.column_stack([np.ones(n), *(column / column.std() for column in centerd)])
    if np.linalg.matrix_rank(scaled) < parameters:
        return None
    orthonormal, _ = np.linalg.qr(scaled)
    residuals = observed - orthonormal @ (orthonormal.T @ observed)
    free = 1 - (orthonormal**2).sum(axis=1)  # 1 - leverage
    squares = float(residuals @ residuals)
    slopes = np.linalg.lstsq(np.column_stack([np.ones(n), *columns]), observed, rcond=None)[0]
    rounding = 1e-12 * max(1.0, float(observed @ observed))  # if the others fit exactly
    studentised: list[float | None] = []
    for residual, share in zip(residuals, free, strict=True):
        if share < 1e-9:
            studentised.append(None)
            continue
        variance = max((squares - residual**2 / share) / freedom, rounding)  # without this network
        studentised.append(float(residual / math.sqrt(variance * share)))
    p = tuple(
        None if t is None else min(1.0, n * float(2 * stats.t.sf(abs(t), freedom))) for t in studentised
    )
    return Fit(tuple(map(float, slopes)), tuple(map(float, residuals)), tuple(studentised), p)
