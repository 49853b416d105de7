"""How well one order predicts another, and how sure that is: the estimators of the transfer study.

Sources: Kendall, "Rank Correlation Methods", 1948 (rho, tau-b, partial rank correlation); Efron, "Better
Bootstrap Confidence Intervals", JASA 1987 (BCa); Cook & Weisberg, "Residuals and Influence in
Regression", 1982 (externally studentised residuals, the outlier test).

Samples are small here (a paper measures four to ten nets), so what cannot be said is said: an estimate
without interval carries the reason, and no interval is made of fewer than `MIN_NETS` nets.
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

MIN_NETS = 5  # with four, even a perfect order comes by chance in 1 case of 12 (two-sided)
CONFIDENCE = 0.95
RESAMPLES = 49_999  # their own error on an end is then below 0.01
RESAMPLES_OF_MANY = 9999  # of more nets than MANY, whose intervals are smooth and whose samples are large
MANY = 32
EXACT_ORDERS = 40320  # 8!: up to 8 nets every order is tried, beyond that so many random ones
CELLS = 4_000_000  # numbers that a batch of resamples may hold at once

Array = NDArray[np.float64]
Statistic = Callable[..., Array]  # (..., n) columns, axis=-1 -> (...); NaN where it is not defined


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval.

    Attributes:
        value: None where it is not defined.
        low: Lower end of the interval; None where there is none.
        high: Upper end.
        n: Number of nets.
        note: Why there is no value or no interval, or what was left out in making it.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    note: str = ''

    @property
    def excludes_zero(self) -> bool:
        """Whether there is an interval and 0 lies outside it."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


# Statistics: along the last axis, NaN where a column is constant


def _correlate(x: Array, y: Array) -> Array:
    """Pearson's correlation."""
    x = x - x.mean(axis=-1, keepdims=True)
    y = y - y.mean(axis=-1, keepdims=True)
    scale = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    with np.errstate(invalid='ignore', divide='ignore'):
        return np.clip(np.where(scale > 0, (x * y).sum(axis=-1) / scale, np.nan), -1, 1)


def spearman(x: Array, y: Array, axis: int = -1) -> Array:
    """Spearman's rho: Pearson's correlation of the ranks; nets that tie share the mean rank."""
    return _correlate(stats.rankdata(x, axis=-1), stats.rankdata(y, axis=-1))


def kendall(x: Array, y: Array, axis: int = -1) -> Array:
    """Kendall's tau-b: concordant minus discordant pairs, corrected for ties."""
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
    """Rank correlation of x and y with what ``given`` explains of both taken out.

    Where ``given`` orders the nets exactly as x or y does nothing is left to correlate, and the formula is
    0 / 0: that counts as 0. (With few nets many resamples are such; to leave them out makes four of five
    intervals exclude 0 where nothing but ``given`` is at work.)
    """
    xy, xz, yz = spearman(x, y), spearman(x, given), spearman(y, given)
    left = (1 - xz * xz) * (1 - yz * yz)
    with np.errstate(invalid='ignore', divide='ignore'):
        partial = np.where(left < 1e-12, 0 * left, (xy - xz * yz) / np.sqrt(left))
    return np.clip(partial, -1, 1)


def mean_difference(a: Array, b: Array, axis: int = -1) -> Array:
    """Mean of a - b over pairs."""
    return (a - b).mean(axis=-1)


# Uncertainty


def estimate(statistic: Statistic, *columns: ArrayLike, resamples: int | None = None) -> Estimate:
    """A statistic of nets and its 95 % BCa bootstrap interval; nets are what is drawn.

    Resamples in which the statistic is not defined (one net drawn n times has no order) are left out,
    and the note says how many there were.

    Args:
        statistic: Vectorised over the last axis.
        *columns: (n,) each; the i-th entries belong to one net.
        resamples: How many samples are drawn, the same ones every time; None takes `RESAMPLES`, or of many
            nets `RESAMPLES_OF_MANY`.
    """
    data = [np.asarray(column, np.float64) for column in columns]
    n = data[0].size
    if resamples is None:
        resamples = RESAMPLES if n <= MANY else RESAMPLES_OF_MANY
    value = float(statistic(*data)) if n else math.nan
    if math.isnan(value):
        return Estimate(None, None, None, n, _why_undefined(data))
    if n < MIN_NETS:
        return Estimate(value, None, None, n, f'{n} nets are too few for an interval')

    def interval(previous: Any = None) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # a degenerate distribution is told by NaN, below
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
    note = f'{left_out} of {resamples} resamples have no order and are left out' if left_out else ''
    low, high = map(float, drawn.confidence_interval)
    if not math.isnan(low + high):
        return Estimate(value, low, high, n, note)
    if not values.size or np.ptp(values) < 1e-12:
        return Estimate(value, None, None, n, 'no interval: every resample gives the same')
    left = [statistic(*(np.delete(column, i) for column in data)) for i in range(n)]
    if not np.isfinite(left).all():
        return Estimate(value, None, None, n, 'no interval: without one of the nets there is no order')
    low, high = _bias_corrected(value, values)
    return Estimate(
        value, low, high, n, 'leaving out any one net changes nothing: BCa without acceleration'
    )


def _bias_corrected(value: float, drawn: Array) -> tuple[float, float]:
    """BCa's interval with its acceleration, 0 / 0 where the jackknife gives one value, taken as 0."""
    below = np.mean(drawn < value) + np.mean(drawn == value) / 2
    tail = stats.norm.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    low, high = np.quantile(drawn, stats.norm.cdf(2 * stats.norm.ppf(below) + tail))
    return float(low), float(high)


def _why_undefined(data: Sequence[Array]) -> str:
    return 'one net has no order' if data[0].size < 2 else 'all nets are equal in one of the columns'


def chance(x: ArrayLike, y: ArrayLike) -> float | None:
    """How often a random order of x gives a Spearman's rho as far from 0 (two-sided p value).

    Exact up to 8 nets; beyond that from random orders, the observed one counted among them.
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


# Pairs of nets: what orders have in common, over several settings


@dataclass(frozen=True)
class Pairs:
    """Pairs of nets that were measured in one setting, by whether two orders agree on them.

    Attributes:
        agree: How many pairs both order alike.
        total: How many pairs both order (ties are in neither).
        share: ``agree / total`` with its interval, for which nets are drawn, each with all its pairs.
    """

    agree: int
    total: int
    share: Estimate


def count_pairs(
    settings: Sequence[Sequence[tuple[str, float, float, float | None]]], ratio: float
) -> Pairs:
    """Counts pairs within settings; no pair spans two settings.

    Args:
        settings: Of each the nets: (name, x, y, cost). A name may stand in several settings.
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

    met = np.flatnonzero(both.sum(axis=0))  # a net without a pair says nothing
    return Pairs(int(agree.sum()) // 2, int(both.sum()) // 2, estimate(share, met))


def _near(a: float | None, b: float | None, ratio: float) -> bool:
    if math.isinf(ratio):
        return True
    return a is not None and b is not None and max(a, b) <= ratio * min(a, b)


# Residuals


@dataclass(frozen=True)
class Fit:
    """A least-squares line or plane, and how far each net lies from it.

    Attributes:
        coefficients: Constant first, then one for each predictor.
        residuals: (n,) observed minus fitted.
        studentised: (n,) each residual in units of its standard error, which the fit without that net
            gives; None where the net alone decides its own fitted value.
        p: (n,) two-sided p values of these under Student's t, times n (Bonferroni: n nets are looked
            at), at most 1.
    """

    coefficients: tuple[float, ...]
    residuals: tuple[float, ...]
    studentised: tuple[float | None, ...]
    p: tuple[float | None, ...]


def fit_residuals(y: ArrayLike, *predictors: ArrayLike) -> Fit | None:
    """Fits y by least squares; None with too few nets or predictors that do not vary freely.

    Args:
        y: (n,).
        *predictors: (n,) each.
    """
    observed = np.asarray(y, np.float64)
    n = observed.size
    columns = [np.asarray(predictor, np.float64) for predictor in predictors]
    parameters = 1 + len(columns)
    freedom = n - parameters - 1  # of the fit without one net
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
    rounding = 1e-12 * max(1.0, float(observed @ observed))  # where the others fit exactly
    studentised: list[float | None] = []
    for residual, share in zip(residuals, free, strict=True):
        if share < 1e-9:
            studentised.append(None)
            continue
        variance = max((squares - residual**2 / share) / freedom, rounding)  # without this net
        studentised.append(float(residual / math.sqrt(variance * share)))
    p = tuple(
        None if t is None else min(1.0, n * float(2 * stats.t.sf(abs(t), freedom))) for t in studentised
    )
    return Fit(tuple(map(float, slopes)), tuple(map(float, residuals)), tuple(studentised), p)
