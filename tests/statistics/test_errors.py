"""Standard errors and intervals against scipy and against loops."""

from __future__ import annotations

import math
import statistics as standard

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from bitnet_bench.statistics import (
    NORMAL_95,
    bootstrap_counts,
    bootstrap_stderr,
    confusion_bootstrap_stderr,
    interval,
    mean_stderr,
    paired_difference,
    wilson,
)

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=30)


@settings(deadline=None, max_examples=50)
@given(VALUES)
def test_the_standard_error_of_a_mean(values: list[float]) -> None:
    """It is the standard library's stdev over sqrt(n)."""
    expected = standard.stdev(values) / math.sqrt(len(values))
    assert mean_stderr(values) == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("values", [[], [1.0]])
def test_fewer_than_two_values_have_no_standard_error(values: list[float]) -> None:
    """Where no spread can be seen there is no standard error, rather than 0."""
    assert mean_stderr(values) is None


def test_equal_values_have_no_spread() -> None:
    """A standard error of 0 is a fact about equal values."""
    assert mean_stderr([0.5, 0.5, 0.5]) == 0.0


@settings(deadline=None, max_examples=80)
@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_interval_is_scipys(counted: tuple[int, int]) -> None:
    """Any count of successes has the interval that scipy's binomtest gives."""
    successes, n = counted
    expected = binomtest(successes, n).proportion_ci(0.95, method="wilson")
    assert wilson(successes, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilsons_interval_of_a_known_count() -> None:
    """81 of 263 gives 0.2553 to 0.3662 (Newcombe 1998, table I, method 3)."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize("successes", [0, 10])
def test_wilsons_interval_stays_inside(successes: int) -> None:
    """None or all of ten still leaves an interval of some width, inside 0..1."""
    low, high = wilson(successes, 10)
    assert 0.0 <= low < high <= 1.0


def test_the_normal_quantile_is_that_of_95_percent() -> None:
    """The constant is the 97.5 % point of the normal distribution."""
    assert pytest.approx(norm.ppf(0.975), abs=1e-15) == NORMAL_95


def test_an_interval_is_cut_to_the_range_of_its_metric() -> None:
    """Value +- 1.96 standard errors, never below 0 or above 100; none without a standard error."""
    assert interval(50.0, 10.0) == pytest.approx((30.4, 69.6), abs=0.001)
    assert interval(1.0, 10.0) == pytest.approx((0.0, 20.6), abs=0.001)
    assert interval(99.0, 10.0) == pytest.approx((79.4, 100.0), abs=0.001)
    assert interval(-1.0, 1.0, low=-5.0, high=0.0) == pytest.approx((-2.96, 0.0), abs=0.001)
    assert interval(50.0, None) is None


@settings(deadline=None, max_examples=50)
@given(VALUES)
def test_a_run_compared_with_itself_shows_no_difference(values: list[float]) -> None:
    """The difference of a run and itself is 0 +- 0."""
    assert paired_difference(values, values) == (0.0, 0.0)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), min_size=2, max_size=30))
def test_swapping_two_runs_turns_the_sign(pairs: list[tuple[float, float]]) -> None:
    """mean(a - b) is minus mean(b - a), with one standard error: that of the differences."""
    a, b = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    difference, stderr = paired_difference(a, b)
    assert difference == pytest.approx(np.mean(a) - np.mean(b), abs=1e-9)
    assert paired_difference(b, a) == (-difference, stderr)
    assert stderr == mean_stderr([x - y for x, y in pairs])


def test_pairs_are_surer_than_two_means() -> None:
    """Where the same items are hard for both runs, the paired standard error is the smaller one."""
    a, b = [1.0, 1.0, 0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0, 1.0, 1.0]
    unpaired = math.hypot(mean_stderr(a) or 0.0, mean_stderr(b) or 0.0)
    _, paired = paired_difference(a, b)
    assert paired is not None
    assert paired < unpaired


def test_one_pair_has_a_difference_without_standard_error() -> None:
    """A single pair has a difference, and no standard error."""
    assert paired_difference([1.0], [0.0]) == (1.0, None)


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 2.0]), ([], []), ([1.0], [])])
def test_runs_of_other_lengths_are_no_pairs(a: list[float], b: list[float]) -> None:
    """Two runs that scored other numbers of examples cannot be compared pairwise."""
    with pytest.raises(ValueError, match="no pairs"):
        paired_difference(a, b)


def test_the_same_n_is_resampled_the_same_way() -> None:
    """Counts depend on n alone, so that two runs are resampled as pairs; each resample draws n examples."""
    first, second = (np.concatenate(list(bootstrap_counts(7, 120))) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.shape == (120, 7)
    assert (first.sum(1) == 7).all()
    assert first.mean(0) == pytest.approx(np.ones(7), abs=0.5)


def test_the_confusion_bootstrap_of_accuracy_is_the_binomial_one() -> None:
    """For accuracy, whose standard error is known, the bootstrap comes within 10 % of sqrt(p (1 - p) / n)."""
    confusion = np.array([[60, 20], [30, 90]])
    got = confusion_bootstrap_stderr(confusion, lambda m: np.trace(m, axis1=-2, axis2=-1) / 200)
    assert got == pytest.approx(math.sqrt(0.75 * 0.25 / 200), rel=0.1)


def test_the_confusion_bootstrap_needs_two_examples() -> None:
    """Below two examples there is no standard error."""
    for n in (0, 1):
        assert confusion_bootstrap_stderr(np.array([[n, 0], [0, 0]]), lambda m: m.sum((-2, -1))) is None


def test_the_bootstrap_of_a_mean_is_its_standard_error() -> None:
    """For a mean, a sum over n, the bootstrap comes within 10 % of s / sqrt(n); one example has none."""
    values = np.random.default_rng(0).normal(size=500)
    got = bootstrap_stderr(np.stack([values, np.ones(500)], axis=1), lambda sums: sums[..., 0] / sums[..., 1])
    assert got == pytest.approx(mean_stderr(values.tolist()), rel=0.1)
    assert bootstrap_stderr(np.ones((1, 2)), lambda sums: sums[..., 0]) is None


@pytest.mark.parametrize("right", [0, 2, 2000])
def test_examples_that_all_came_out_alike_have_wilsons_interval(right: int) -> None:
    """Two of two right are 34.2 to 100.0, not 100.0 with a standard error of 0; none of two mirrors it."""
    n = max(2, right)
    low, high = (100 * limit for limit in wilson(right, n))
    assert interval(100.0 * right / n, 0.0, n=n) == pytest.approx((low, high))
    assert interval(100.0 * right / n, 0.0, n=n) != (100.0, 100.0)


@settings(deadline=None, max_examples=60)
@given(st.floats(0, 100), st.integers(1, 5000))
def test_an_interval_of_equal_values_holds_them_and_stays_in_the_range(value: float, n: int) -> None:
    """Examples that all scored 40 leave room on both sides, the less the more there are."""
    found, more = interval(value, 0.0, n=n), interval(value, 0.0, n=n + 1)
    assert found is not None
    assert more is not None
    assert 0.0 <= found[0] <= value <= found[1] <= 100.0
    assert found[1] - found[0] > more[1] - more[0] > 0.0


def test_equal_values_of_an_unbounded_metric_have_no_interval() -> None:
    """Nothing says how far another example may lie."""
    assert interval(1.4, 0.0, 0.0, None, n=9) is None
    assert interval(1.4, None) is None
