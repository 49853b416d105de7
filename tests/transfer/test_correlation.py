"""Estimators of the transfer study, on data with known results."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from compactdet.transfer import correlation
from compactdet.transfer.correlation import (
    Measurement,
    count_pairs,
    estimate,
    fit_residuals,
    kendall,
    mean_difference,
    partial_spearman,
    permutation_p_value,
    spearman,
)

X = np.array([1.0, 2, 3, 4, 5])
Y = np.array([2.0, 1, 4, 3, 5])  # two pairs of neighbors are swapped
ORDERS = st.lists(
    st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=12
)


def random_columns(n, columns=2, seed=0):
    return np.random.default_rng(seed).normal(size=(columns, n))


# Statistics


def test_values_computed_by_hand():
    assert spearman(X, Y) == pytest.approx(1 - 6 * 4 / (5 * 24))  # sum of squared rank differences: 4
    assert kendall(X, Y) == pytest.approx((8 - 2) / 10)


def test_ties_computed_by_hand():
    tied = np.array([1.0, 2, 2, 3])
    assert kendall(tied, X[:4]) == pytest.approx(5 / math.sqrt(5 * 6))  # 5 pairs agree, 1 ties in x
    assert spearman(tied, X[:4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))  # ranks 1 2.5 2.5 4


@settings(deadline=None)
@given(ORDERS)
def test_statistics_equal_those_of_scipy(rows):
    x, y, _ = np.array(rows, float).T
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert np.isnan(spearman(x, y))
        assert np.isnan(kendall(x, y))
    else:
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
        assert kendall(x, y) == pytest.approx(stats.kendalltau(x, y).statistic)


@settings(deadline=None)
@given(ORDERS)
def test_partial_correlation_equals_that_of_the_inverse_correlation_matrix(rows):
    ranks = stats.rankdata(np.array(rows, float).T, axis=1)
    if any(np.ptp(row) == 0 for row in ranks):
        return
    correlations = np.corrcoef(ranks)
    if np.linalg.cond(correlations) > 1e8:
        return
    inverse = np.linalg.inv(correlations)
    expected = -inverse[0, 1] / math.sqrt(inverse[0, 0] * inverse[1, 1])
    assert partial_spearman(*ranks) == pytest.approx(expected, abs=1e-6)


def test_vectorized_values_equal_single_values():
    columns = random_columns(7 * 6, 3).reshape(3, 6, 7)
    for statistic, count in ((spearman, 2), (kendall, 2), (partial_spearman, 3), (mean_difference, 2)):
        rows = [statistic(*(column[i] for column in columns[:count])) for i in range(6)]
        assert statistic(*columns[:count]) == pytest.approx(np.array(rows))


def test_partial_correlation_is_zero_if_cost_explains_everything():
    cost, a, b = random_columns(5000, 3)
    accuracy, ap = cost + 0.5 * a, cost + 0.5 * b
    assert spearman(accuracy, ap) > 0.7
    assert abs(partial_spearman(accuracy, ap, cost)) < 0.04
    assert partial_spearman(accuracy, cost**3, cost) == 0


def test_partial_correlation_is_one_if_cost_explains_nothing():
    cost = np.array([1.0, 5, 2, 4, 3])
    assert partial_spearman(X, X**2, cost) == pytest.approx(1)
    assert partial_spearman(X, -X, cost) == pytest.approx(-1)


# Intervals


def test_interval_equals_that_of_scipy():
    x, y = random_columns(9)
    made = estimate(spearman, x, y, resamples=999)
    ours = stats.bootstrap(
        (x, y),
        lambda x, y: stats.spearmanr(x, y).statistic,
        paired=True,
        vectorized=False,
        n_resamples=999,
        method='BCa',
        rng=np.random.default_rng(0),
    )
    assert (made.low, made.high) == pytest.approx(ours.confidence_interval)
    assert made.value == pytest.approx(stats.spearmanr(x, y).statistic)
    assert made.n == 9
    assert made.note == ''


def test_interval_of_a_mean_is_close_to_that_of_the_t_test():
    a, b = random_columns(60)
    made = estimate(mean_difference, a, b)
    student = stats.ttest_rel(a, b).confidence_interval()
    assert (made.low, made.high) == pytest.approx(student, abs=0.05)


def test_estimates_are_repeatable():
    assert estimate(kendall, X, Y) == estimate(kendall, X, Y)


def test_more_networks_use_fewer_resamples():
    drawn = []

    def first(x, axis=-1):
        drawn.append(x.shape)
        return x[..., 0]

    for n, resamples in ((6, correlation.RESAMPLES), (33, correlation.RESAMPLES_OF_MANY)):
        drawn.clear()
        estimate(first, np.arange(n))
        assert sum(shape[0] for shape in drawn if len(shape) == 2 and shape[1] == n) == resamples


def test_undefined_resamples_are_excluded_and_counted():
    x = np.array([1.0, 1, 1, 1, 2, 3])  # (4/6)**6 of the resamples contain only the four tied networks
    made = estimate(spearman, x, np.array([1.0, 3, 2, 4, 6, 5]))
    assert made.low is not None
    count = int(made.note.split()[0])
    assert count / correlation.RESAMPLES == pytest.approx((4 / 6) ** 6, abs=0.02)


@pytest.mark.parametrize(
    ('x', 'y', 'value', 'note'),
    [
        (X[:4], Y[:4], 0.6, '4 networks are too few'),
        (X[:1], Y[:1], None, 'one network is not enough'),
        (np.ones(6), np.arange(6.0), None, 'all networks have the same value'),
        (X, X, 1.0, 'all resamples give the same value'),
        (np.array([1.0, 1, 1, 1, 1, 2]), np.arange(6.0), 0.6547, 'not defined without one of the networks'),
    ],
)
def test_note_states_why_there_is_no_interval(x, y, value, note):
    made = estimate(spearman, x, y)
    assert made.value == (None if value is None else pytest.approx(value, abs=1e-4))
    assert (made.low, made.high, made.excludes_zero) == (None, None, False)
    assert note in made.note


def test_equal_jackknife_values_give_an_interval_without_acceleration():
    x = np.arange(12.0)
    y = x % 3 - 0.9 * x  # rho is the same without any one network: the acceleration is 0 / 0
    made = estimate(spearman, x, y)
    assert -1 <= made.low < made.value < made.high < 0
    assert 'without acceleration' in made.note


def test_excludes_zero():
    x = np.arange(12.0)
    noise = np.random.default_rng(1).normal(size=12)
    assert estimate(spearman, x, x + noise).excludes_zero
    assert estimate(spearman, x, -x + noise).excludes_zero
    assert not estimate(spearman, x, noise).excludes_zero


@pytest.mark.parametrize(('n', 'expected'), [(2, 1), (3, 2 / 6), (4, 2 / 24), (6, 2 / 720)])
def test_p_value_of_a_perfect_order(n, expected):
    assert permutation_p_value(np.arange(n), np.arange(n)) == pytest.approx(expected)
    assert permutation_p_value(np.arange(n), -np.arange(n)) == pytest.approx(expected)


def test_p_value_counts_all_orders():
    orders = [abs(spearman(np.array(order), Y)) for order in itertools.permutations(X)]
    assert permutation_p_value(X, Y) == pytest.approx(np.mean([value >= 0.8 - 1e-9 for value in orders]))
    assert permutation_p_value(np.ones(5), Y) is None


def test_p_value_of_many_networks_is_close_to_that_of_scipy():
    x, noise = random_columns(30)
    y = 0.3 * x + noise
    assert permutation_p_value(x, y) == pytest.approx(stats.spearmanr(x, y).pvalue, abs=0.01)


# Pairs


def networks(*rows):
    return [Measurement(*row) for row in rows]


def test_pairs_within_settings_counted_by_hand():
    one = networks(('a', 1, 10, 100), ('b', 2, 20, 110), ('c', 3, 15, 400))  # ab and ac agree, bc does not
    two = networks(('a', 1, 99, 100), ('d', 2, 98, 101), ('e', 2, 97, 500))  # none agrees; d and e are tied
    pairs = count_pairs([one, two], math.inf)
    assert (pairs.agree, pairs.total, pairs.share.value, pairs.share.n) == (2, 5, 0.4, 5)
    similar = count_pairs([one, two], 1.25)
    assert (similar.agree, similar.total) == (1, 2)  # ab and ad
    assert similar.share.n == 3
    assert 'too few' in similar.share.note


def test_a_pair_in_two_settings_counts_twice_and_is_resampled_once():
    rows = [(name, i, i, 1.0) for i, name in enumerate('abcdef')]
    opposite = [(name, x, -y, cost) for name, x, y, cost in rows]
    pairs = count_pairs([networks(*rows), networks(*opposite)], math.inf)
    assert (pairs.agree, pairs.total, pairs.share.n) == (15, 30, 6)
    assert 'all resamples give the same' in pairs.share.note  # one half for any networks


def test_unknown_costs_are_not_similar():
    measured = networks(('a', 1, 1, None), ('b', 2, 2, 100))
    assert count_pairs([measured], 1.25).total == 0
    assert count_pairs([measured], math.inf).total == 1


# Residuals


def test_residuals_equal_those_of_leave_one_out_fits():
    x, z, noise = random_columns(9, 3)
    y = 2 + 3 * x - z + noise
    fit = fit_residuals(y, x, z)
    for i in range(9):
        kept = np.arange(9) != i
        design = np.column_stack([np.ones(9), x, z])
        coefficients, squares, *_ = np.linalg.lstsq(design[kept], y[kept], rcond=None)
        freedom = 8 - 3
        spread = design[i] @ np.linalg.inv(design[kept].T @ design[kept]) @ design[i]
        t = (y[i] - design[i] @ coefficients) / math.sqrt(squares[0] / freedom * (1 + spread))
        assert fit.studentised[i] == pytest.approx(t)
        assert fit.p[i] == pytest.approx(min(1, 9 * 2 * stats.t.sf(abs(t), freedom)))
    straight = stats.linregress(x, y)
    assert fit_residuals(y, x).coefficients == pytest.approx((straight.intercept, straight.slope))


def test_a_network_off_the_line_is_an_outlier():
    x = np.arange(60.0, 68)
    y = 0.5 * x
    y[3] += 2
    fit = fit_residuals(y, x)
    assert [p < 0.05 for p in fit.p] == [i == 3 for i in range(8)]
    assert fit.residuals[3] > 1


def test_an_exact_line_has_no_outliers():
    x = np.arange(60.0, 68)
    fit = fit_residuals(0.5 * x, x)
    assert fit.coefficients == pytest.approx((0, 0.5), abs=1e-9)
    assert min(fit.p) == 1


def test_a_network_that_determines_its_fitted_value_has_no_t():
    fit = fit_residuals([1, 2, 3, 2, 9], [1, 1, 1, 1, 5])
    assert [t is None for t in fit.studentised] == [False] * 4 + [True]
    assert fit.p[4] is None


@pytest.mark.parametrize(
    'predictors', [[X[:4]], [np.ones(5)], [X, 2 * X], [X, Y, X * Y]], ids=['few', 'flat', 'twice', 'many']
)
def test_no_fit_is_returned(predictors):
    assert fit_residuals(np.arange(len(predictors[0])), *predictors) is None


# Coverage and false positives, by simulation


@pytest.mark.slow
@pytest.mark.parametrize('n', [8, 12, 20])
@pytest.mark.parametrize('pearson', [0.0, 0.8])
def test_coverage_of_the_intervals(n, pearson):
    """For normal data, rho is 6 / pi arcsin(r / 2) and tau is 2 / pi arcsin(r)."""
    generator = np.random.default_rng(n)
    truth = {spearman: 6 / math.pi * math.asin(pearson / 2), kendall: 2 / math.pi * math.asin(pearson)}
    for statistic, value in truth.items():
        found = []
        for _ in range(300):
            x, y = generator.multivariate_normal([0, 0], [[1, pearson], [pearson, 1]], n).T
            made = estimate(statistic, x, y, resamples=999)
            if made.low is not None:
                found.append(made.low <= value <= made.high)
        assert len(found) > 280
        assert 0.9 <= np.mean(found) <= 0.995


@pytest.mark.slow
@pytest.mark.parametrize('n', [6, 8, 12])
@pytest.mark.parametrize('noise', [0.15, 0.3, 1.0])
def test_false_positive_rate_of_the_partial_correlation(n, noise):
    """If only cost affects accuracy and AP, few intervals of the partial correlation exclude 0."""
    generator = np.random.default_rng(n)
    excluded = 0
    for _ in range(300):
        cost = generator.normal(size=n)
        accuracy, ap = (cost + noise * generator.normal(size=n) for _ in range(2))
        excluded += estimate(partial_spearman, accuracy, ap, cost, resamples=999).excludes_zero
    assert excluded / 300 < 0.1
