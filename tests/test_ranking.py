"""Intervals, ranks and the Pareto frontier against scipy, by hand and by their definitions."""

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from bench import ranking

shares = st.floats(0, 1).map(lambda x: round(x, 4))


def test_interval_of_the_mean_by_hand():
    low, high = ranking.t_interval([0.5, 0.6, 0.7])
    assert (low, high) == pytest.approx(
        (0.6 - 4.30265 * 0.1 / 3**0.5, 0.6 + 4.30265 * 0.1 / 3**0.5), abs=1e-6
    )
    assert ranking.t_interval([0.5]) is None


@given(st.lists(shares, min_size=2, max_size=5), st.lists(shares, min_size=2, max_size=5))
def test_told_apart_is_welchs_test(first, second):
    assume(max(first) > min(first) + 1e-3 and max(second) > min(second) + 1e-3)
    p_value = stats.ttest_ind(first, second, equal_var=False).pvalue
    assume(abs(p_value - 0.05) > 1e-9)
    assert ranking.told_apart(first, second) == (p_value < 0.05)


def test_told_apart_without_spread_or_with_one_seed():
    assert ranking.told_apart([0.5, 0.5], [0.6, 0.6])
    assert not ranking.told_apart([0.5, 0.5], [0.5, 0.5, 0.5])
    assert not ranking.told_apart([0.1], [0.9])
    assert not ranking.told_apart([0.1], [0.90, 0.901, 0.902])


def test_a_chain_shares_ranks_pairwise():
    above, between, below = [0.80, 0.81, 0.82], [0.785, 0.80, 0.815], [0.775, 0.785, 0.795]
    assert ranking.told_apart(above, below)
    assert not ranking.told_apart(above, between)
    assert not ranking.told_apart(between, below)
    assert ranking.ranks([below, above, [0.99], between]) == [[2], [1], [], [1, 2]]


@given(st.lists(st.lists(shares, min_size=1, max_size=4), max_size=6))
def test_a_rank_is_shared_exactly_where_not_told_apart(results):
    found = ranking.ranks(results)
    for (a, first), (b, second) in itertools.combinations(zip(results, found, strict=True), 2):
        if min(len(a), len(b)) < 2:
            assert not (first and second)
        else:
            assert bool(set(first) & set(second)) != ranking.told_apart(a, b)
    used = sorted(set(itertools.chain(*found)))
    assert used == list(range(1, len(used) + 1))


def test_frontier_by_hand():
    points = {'a': (1, 5), 'b': (2, 5), 'c': (2, 7), 'd': (3, 6), 'e': (9, 8), 'f': (2, 7)}
    assert ranking.frontier(points) == ['a', 'c', 'f', 'e']  # c and f are the same point
    assert ranking.frontier({}) == []
