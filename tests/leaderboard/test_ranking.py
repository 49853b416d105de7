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
def test_told_apart_is_welchs_test(first, second):
    assume(max(first) > min(first) + 1e-3 and max(second) > min(second) + 1e-3)
    p_value = stats.ttest_ind(first, second, equal_var=False).pvalue
    assume(abs(p_value - 0.05) > 1e-9)
    assert told_apart(first, second) == (p_value < 0.05)


def test_told_apart_without_spread_or_with_one_seed():
    assert told_apart([0.5, 0.5], [0.6, 0.6])
    assert not told_apart([0.1, 0.1], [0.1, 0.1, 0.1])
    assert not told_apart([0.1], [0.9])
    assert not told_apart([0.1], [0.90, 0.901, 0.902])


def test_a_chain_shares_ranks_pairwise():
    above, between, below = [0.80, 0.81, 0.82], [0.785, 0.80, 0.815], [0.775, 0.785, 0.795]
    assert told_apart(above, below)
    assert not told_apart(above, between)
    assert not told_apart(between, below)
    assert ranking.ranks([below, above, [0.99], between]) == [[2, 3], [1, 2], [], [1, 3]]


def test_one_alone_has_no_rank():
    assert ranking.ranks([[0.3], [0.1, 0.2, 0.3], [0.4]]) == [[], [], []]
    assert ranking.ranks([]) == []


def test_what_is_not_told_apart_shares_a_rank_whatever_lies_between():
    two, steady, many = [0.5095, 0.5115], [0.49999, 0.50001], [0.505 - 0.0087, 0.505 + 0.0087] * 10
    assert told_apart(two, many)
    assert told_apart(many, steady)
    assert not told_apart(two, steady)  # on one degree of freedom, nearly
    results = [two, many, steady, many]
    assert_shared(results, ranking.ranks(results))


@given(st.lists(st.lists(shares, min_size=1, max_size=4), max_size=6))
def test_ranks_by_their_definition(results):
    found = ranking.ranks(results)
    ranked = [values for values in results if len(values) > 1]
    for values, rank in zip(results, found, strict=True):
        assert bool(rank) == (len(values) > 1 and len(ranked) > 1)
        if rank:
            apart = [other for other in ranked if told_apart(values, other)]
            better = sum(mean(other) > mean(values) for other in apart)
            assert 1 <= rank[0] <= 1 + better  # less only to be shared
            assert rank[1] == len(ranked) - (len(apart) - better)
            assert rank[0] <= rank[1]
    assert_shared(results, found)


def assert_shared(results, found):
    for (a, first), (b, second) in itertools.combinations(zip(results, found, strict=True), 2):
        if first and second and not told_apart(a, b):
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
