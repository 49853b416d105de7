"""Intervals, ranks and the Pareto frontier against scipy, by hand and by their definitions."""

import itertools
import time
from statistics import mean

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from compactdet.leaderboard import ranking


def told_apart(first, second):
    return bool(ranking.told_apart([first, second])[0, 1])


shares = st.floats(0, 1).map(lambda x: round(x, 4))


def test_interval_of_the_mean_by_hand():
    low, high = ranking.t_interval([0.5, 0.6, 0.7])
    assert (low, high) == pytest.approx(
        (0.6 - 4.30265 * 0.1 / 3**0.5, 0.6 + 4.30265 * 0.1 / 3**0.5), abs=1e-6
    )
    assert ranking.t_interval([0.5]) is None
    assert ranking.t_interval([0.21, 0.28])[0] == 0  # no AP is below it


@given(st.lists(shares, min_size=2, max_size=5), st.lists(shares, min_size=2, max_size=5))
def test_two_networks_are_compared_by_welchs_test(first, second):
    assume(max(first) > min(first) + 1e-3 and max(second) > min(second) + 1e-3)
    welch = stats.ttest_ind(first, second, equal_var=False)
    freedom = min(welch.df, 2 * min(len(first), len(second)) - 2)
    p_value = 2 * stats.t.sf(abs(welch.statistic), freedom)
    assume(abs(p_value - 0.05) > 1e-9)
    assert told_apart(first, second) == (p_value < 0.05)


def test_told_apart_without_spread_or_with_one_seed():
    assert told_apart([0.5, 0.5], [0.6, 0.6])
    assert not told_apart([0.1, 0.1], [0.1, 0.1, 0.1])
    assert not told_apart([0.1], [0.9])
    assert not told_apart([0.1], [0.90, 0.901, 0.902])


def test_holms_correction_by_hand():
    a, b, c = [0.80, 0.81, 0.82], [0.77, 0.775, 0.78], [0.74, 0.755, 0.77]
    p_values = [stats.ttest_ind(*pair, equal_var=False).pvalue for pair in ((a, b), (a, c), (b, c))]
    assert p_values == pytest.approx([0.0130, 0.0090, 0.1366], abs=5e-5)
    # 0.0090 < 0.05 / 3, 0.0130 < 0.05 / 2, 0.1366 > 0.05
    assert ranking.told_apart([a, b, c]).tolist() == [[0, 1, 1], [1, 0, 0], [1, 0, 0]]
    # with a fourth network, six pairs: 0.0090 > 0.05 / 6
    assert not ranking.told_apart([a, b, c, c]).any()


def test_holms_correction_stops_at_the_first_pair_that_does_not_differ():
    p_values = np.array([0.04, 0.03, 0.001, 0.02])
    assert ranking._holm(p_values).tolist() == [False, False, True, False]  # 0.02 > 0.05 / 3
    assert ranking._holm(np.array([0.04, 0.02, 0.001, 0.015])).all()
    assert ranking._holm(np.zeros(0)).tolist() == []


def test_degrees_of_freedom_are_those_of_the_smaller_number_of_seeds():
    few, many = [0.499, 0.501], [0.51, 0.52, 0.53, 0.54, 0.55] * 2
    welch = stats.ttest_ind(few, many, equal_var=False)
    assert welch.df > 8
    assert ranking._welch([few, many], *np.triu_indices(2, 1)) == pytest.approx(
        2 * stats.t.sf(abs(welch.statistic), 2)
    )


def simulate(num_networks, seeds, boards, *, spread=(1.0,), gap=0.0):
    """Return the share of boards that tell equal networks apart, or better from worse the wrong way, and
    the share of boards with a true rank outside its interval.
    """
    rng = np.random.default_rng(num_networks)
    expected = np.arange(num_networks) // 2 * gap  # pairs of equal networks, or all equal
    numbers, deviation = np.resize(seeds, num_networks), np.resize(spread, num_networks)
    sign = np.sign(expected[:, None] - expected)
    first, last = 1 + (sign < 0).sum(axis=1), num_networks - (sign > 0).sum(axis=1)
    wrong = outside = 0
    for _ in range(boards):
        rows = zip(expected, deviation, numbers, strict=True)
        results = [0.5 + 0.01 * (at + width * rng.standard_normal(n)) for at, width, n in rows]
        means = np.array([values.mean() for values in results])
        apart = ranking.told_apart(results)
        wrong += bool((apart & (np.sign(means[:, None] - means) != sign)).any())
        low, high = np.array(ranking.ranks(results)).T
        outside += bool((low > first).any() or (high < last).any())
    return wrong / boards, outside / boards


CASES = [(k, n) for k in (4, 8, 20, 40) for n in (2, 3, 5)]


@pytest.mark.parametrize(
    ('num_networks', 'seeds', 'boards'), [(8, 3, 600), (20, 3, 200), (20, (2, 3, 5), 200)]
)
def test_equal_networks_are_told_apart_in_few_boards(num_networks, seeds, boards):
    wrong, outside = simulate(num_networks, seeds, boards)  # pairs tested one by one: 43 % and 89 %
    assert wrong <= 0.05
    assert outside <= 0.05
    assert simulate(num_networks, seeds, boards // 4, gap=2.0)[1] <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize('spread', [(1.0,), (1.0, 2.0), (5.0, *[1.0] * 39)])
@pytest.mark.parametrize('gap', [0.0, 3.0])
@pytest.mark.parametrize(('num_networks', 'seeds'), [*CASES, (8, (2, 3, 5, 10)), (20, (2, 3, 5, 10))])
def test_errors_of_simulated_boards(num_networks, seeds, gap, spread):
    wrong, outside = simulate(num_networks, seeds, 2000, gap=gap, spread=spread)
    assert wrong <= 0.05
    assert outside <= 0.05


def test_a_chain_shares_ranks_pairwise():
    above, between, below = [0.80, 0.81, 0.82], [0.785, 0.80, 0.815], [0.755, 0.765, 0.775]
    assert ranking.told_apart([above, between, below]).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    assert ranking.ranks([below, above, [0.99], between]) == [[2, 3], [1, 2], [], [1, 3]]


def test_one_alone_has_no_rank():
    assert ranking.ranks([[0.3], [0.1, 0.2, 0.3], [0.4]]) == [[], [], []]
    assert ranking.ranks([]) == []


def test_what_is_not_told_apart_shares_a_rank_whatever_lies_between():
    two, steady, many = (
        [0.51155, 0.51355],
        [0.499999, 0.500001],
        [0.50505 - 0.002825, 0.50505 + 0.002825] * 10,
    )
    results = [two, many, steady]  # the first and the third are compared on one degree of freedom
    assert ranking.told_apart(results).tolist() == [[0, 1, 0], [1, 0, 1], [0, 1, 0]]
    assert_shared(results, ranking.ranks(results))


@given(st.lists(st.lists(shares, min_size=1, max_size=4), max_size=6))
def test_ranks_by_their_definition(results):
    found = ranking.ranks(results)
    ranked = [values for values in results if len(values) > 1]
    for values, row, rank in zip(results, ranking.told_apart(results), found, strict=True):
        assert bool(rank) == (len(values) > 1 and len(ranked) > 1)
        if rank:
            apart = [results[i] for i in np.flatnonzero(row)]
            better = sum(mean(other) > mean(values) for other in apart)
            assert 1 <= rank[0] <= 1 + better  # less only to be shared
            assert rank[1] == len(ranked) - (len(apart) - better)
            assert rank[0] <= rank[1]
    assert_shared(results, found)


def assert_shared(results, found):
    apart = ranking.told_apart(results)
    for (i, first), (j, second) in itertools.combinations(enumerate(found), 2):
        if first and second and not apart[i, j]:
            assert first[0] <= second[1]
            assert second[0] <= first[1]


def test_a_hundred_networks_on_two_seeds_take_no_time():
    drawn = np.random.default_rng(0)
    results = drawn.normal(size=(100, 1)) * 0.05 + drawn.normal(size=(100, 2)) * 0.01
    start = time.perf_counter()
    found = ranking.ranks(results.tolist())
    assert time.perf_counter() - start < 5  # all sets of networks that are alike: minutes, and 1,673 ranks
    assert max(map(max, found)) == 100


def test_frontier_by_hand():
    points = {'a': (1, 5), 'b': (2, 5), 'c': (2, 7), 'd': (3, 6), 'e': (9, 8), 'f': (2, 7)}
    assert ranking.frontier(points) == ['a', 'c', 'f', 'e']  # c and f are the same point
    assert ranking.frontier({}) == []
