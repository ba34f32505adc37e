"""Ranks of estimates say what is certain: who is tied, and who is not."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from bitnet_bench.statistics.ranks import rank_intervals
from bitnet_bench.statistics.several import holm


def rank_by_definition(values: list[float], stderrs: list[float]) -> list[tuple[int, int]]:
    """Return the same by scipy's normal distribution and statsmodels' Holm, a pair at a time."""
    from scipy.stats import norm
    from statsmodels.stats.multitest import multipletests

    pairs = list(itertools.combinations(range(len(values)), 2))
    ps = [
        2 * float(norm.sf(abs(values[i] - values[j]) / math.sqrt(stderrs[i] ** 2 + stderrs[j] ** 2))) for i, j in pairs
    ]
    rejected = multipletests(ps, 0.05, "holm")[0]
    found = []
    for one in range(len(values)):
        certain = [pair for pair, sure in zip(pairs, rejected, strict=True) if sure and one in pair]
        others = [values[i if j == one else j] for i, j in certain]
        better, worse = sum(v > values[one] for v in others), sum(v < values[one] for v in others)
        found.append((1 + better, len(values) - worse))
    return found


def test_estimates_far_apart_have_their_ranks() -> None:
    """The order of the input does not matter."""
    assert rank_intervals([50.0, 90.0, 10.0], [1.0, 1.0, 1.0]) == [(2, 2), (1, 1), (3, 3)]


def test_estimates_that_cannot_be_told_apart_share_their_ranks() -> None:
    """Two of them are level, and both are better than the third."""
    assert rank_intervals([61.0, 60.0, 10.0], [3.0, 3.0, 3.0]) == [(1, 2), (1, 2), (3, 3)]
    assert rank_intervals([50.0] * 4, [2.0] * 4) == [(1, 4)] * 4


def test_less_may_be_better() -> None:
    """Bits per byte rank from the least up."""
    assert rank_intervals([1.0, 2.0], [0.01, 0.01], lower_is_better=True) == [(1, 1), (2, 2)]


def test_estimates_without_spread_are_told_apart_if_they_differ() -> None:
    """No division by zero."""
    assert rank_intervals([1.0, 1.0, 2.0], [0.0, 0.0, 0.0]) == [(2, 3), (2, 3), (1, 1)]


@pytest.mark.parametrize("count", [0, 1])
def test_few_estimates_are_ranked(count: int) -> None:
    """None, and one alone, which is first."""
    assert rank_intervals([1.0] * count, [1.0] * count) == [(1, 1)] * count


@pytest.mark.parametrize("seed", range(20))
def test_ranks_are_those_of_the_definition(seed: int) -> None:
    """An independent version with scipy and statsmodels gives the same."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(2, 9))
    values, stderrs = list(rng.normal(50, 8, count)), list(rng.uniform(1, 4, count))
    assert rank_intervals(values, stderrs) == rank_by_definition(values, stderrs)


def test_true_ranks_lie_in_their_intervals_as_often_as_promised() -> None:
    """Of 300 leaderboards of eight runs, of which some are level, at most about 5 % have an interval that is wrong."""
    rng = np.random.default_rng(0)
    truth = np.array([70.0, 66.0, 66.0, 60.0, 60.0, 60.0, 52.0, 40.0])
    best = [1 + int((truth > value).sum()) for value in truth]
    worst = [len(truth) - int((truth < value).sum()) for value in truth]
    wrong = 0
    for _ in range(300):
        found = rank_intervals(list(rng.normal(truth, 2.0)), [2.0] * len(truth))
        # behind more runs than are better, or before more than are worse
        wrong += any(low > best[i] or high < worst[i] for i, (low, high) in enumerate(found))
    assert wrong <= 300 * 0.05 + 11


def test_more_runs_make_ties_of_more_differences() -> None:
    """A difference that is certain between two runs is not among twenty, where one in twenty differs by chance."""
    values, stderrs = [60.0, 54.0], [2.0, 2.0]
    assert rank_intervals(values, stderrs) == [(1, 1), (2, 2)]
    crowd = rank_intervals(values + [57.0] * 18, stderrs + [2.0] * 18)
    assert crowd[0] == (1, 20)
    assert holm([0.03] * 3) == pytest.approx([0.09] * 3)
