"""Paired tests against scipy, statsmodels and published tables, and what they claim where there is no difference."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import ttost_paired

from bitnet_bench.statistics.paired import (
    BinaryPairs,
    MeanPairs,
    make_bootstrap_pairs,
    make_pairs,
    mcnemar,
    tango_interval,
    tango_z,
)
from bitnet_bench.statistics.several import combine_stderrs, holm

COUNTS = st.integers(0, 60)


@settings(deadline=None, max_examples=100)
@given(COUNTS, COUNTS)
def test_mcnemars_p_is_that_of_statsmodels(wins: int, losses: int) -> None:
    """Exact below 25 discordant pairs, chi-square without a correction from there on."""
    table = [[0, wins], [losses, 0]]
    expected = statsmodels_mcnemar(table, exact=wins + losses < 25, correction=False).pvalue if wins + losses else 1.0
    assert mcnemar(wins, losses) == pytest.approx(expected, abs=1e-12)


def test_mcnemar_of_a_known_table() -> None:
    """Agresti's approval ratings (Categorical Data Analysis, table 10.1): 150 and 86 discordant give z = -4.17."""
    assert tango_z(86, 150, 1600, 0.0) == pytest.approx(-4.17, abs=0.005)
    assert mcnemar(86, 150) == pytest.approx(3.1e-5, rel=0.02)


def test_tangos_interval_of_a_known_table() -> None:
    """Airway hyper-responsiveness, 1 and 7 discordant of 21: -0.517 to -0.026 (Fagerland et al. 2014, table IV)."""
    assert tango_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


@settings(deadline=None, max_examples=50)
@given(COUNTS, COUNTS, st.integers(1, 100))
def test_swapping_two_runs_turns_tangos_interval(wins: int, losses: int, agreeing: int) -> None:
    """The interval of B - A is that of A - B with its sign turned, and holds the difference."""
    n = wins + losses + agreeing
    low, high = tango_interval(wins, losses, n)
    assert tango_interval(losses, wins, n) == pytest.approx((-high, -low), abs=1e-9)
    assert low <= (wins - losses) / n <= high


def test_tangos_interval_ends_where_its_test_rejects() -> None:
    """At either limit |z| is 1.96."""
    for limit in tango_interval(30, 12, 200):
        assert abs(tango_z(30, 12, 200, limit)) == pytest.approx(1.959964, abs=1e-6)


def test_a_few_agreeing_pairs_do_not_show_equality() -> None:
    """Without one discordant pair 32 examples leave 10 points either way open, and 2,000 leave 0.2."""
    few, many = BinaryPairs(0, 0, 32), BinaryPairs(0, 0, 2000)
    assert few.interval() == pytest.approx((-10.7, 10.7), abs=0.05)
    assert few.equivalence_p(1.0) > 0.05 > many.equivalence_p(1.0)
    assert few.p == many.p == 1.0
    assert few.effect is None


def test_cohens_g() -> None:
    """15 of 20 discordant pairs are g = 0.25; its interval is Wilson's less a half."""
    effect = BinaryPairs(15, 5, 100).effect
    assert effect is not None
    assert (effect.kind, effect.value) == ("g", 0.25)
    expected = stats.binomtest(15, 20).proportion_ci(method="wilson")
    assert effect.interval == pytest.approx((expected.low - 0.5, expected.high - 0.5))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(5, 80))
def test_a_mean_of_pairs_is_scipys_t_test(seed: int, n: int) -> None:
    """Difference, p and interval of graded pairs are those of ttest_rel, in points."""
    a, b = np.random.default_rng(seed).uniform(size=(2, n))
    found, expected = make_pairs(a, b), stats.ttest_rel(a, b)
    assert isinstance(found, MeanPairs)
    assert found.p == pytest.approx(expected.pvalue, abs=1e-10)
    limits = expected.confidence_interval(0.95)
    assert found.interval() == pytest.approx((100 * limits.low, 100 * limits.high))
    effect = found.effect
    assert effect is not None
    assert effect.value == pytest.approx(float(np.mean(a - b) / np.std(a - b, ddof=1)))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.floats(0.5, 30))
def test_equivalence_is_that_of_statsmodels(seed: int, margin: float) -> None:
    """The p of two one-sided tests is that of ttost_paired."""
    a, b = np.random.default_rng(seed).uniform(size=(2, 40))
    expected = ttost_paired(100 * a, 100 * b, -margin, margin)[0]
    assert make_pairs(a, b).equivalence_p(margin) == pytest.approx(expected, abs=1e-10)


def test_right_and_wrong_are_counted() -> None:
    """Values that are 0 or 1 on both sides are discordant pairs, whatever their order."""
    found = make_pairs(np.array([1.0, 0.0, 1.0, 0.0]), np.array([1.0, 1.0, 0.0, 1.0]))
    assert found == BinaryPairs(wins=1, losses=2, n=4)
    assert found.difference == -25.0


def test_equal_graded_values_have_an_interval_of_what_is_possible() -> None:
    """Two runs that gave the same 24 grades may still differ by 14.5 points: 0 +- 0 would be a false certainty."""
    values = np.linspace(0.1, 0.9, 24)
    found = make_pairs(values, values)
    assert (found.difference, found.p) == (0.0, 1.0)
    assert found.interval() == pytest.approx((-14.5, 14.5), abs=0.1)
    assert found.equivalence_p(1.0) > 0.05


def test_one_small_difference_among_few_pairs_shows_no_equality() -> None:
    """If one of 32 grades differs by 0.01 the spread is tiny, and the other side of the coin was never seen."""
    values = np.linspace(0.1, 0.9, 32)
    other = values.copy()
    other[3] += 0.01
    found = make_pairs(values, other)
    assert isinstance(found, MeanPairs)
    assert found.differing == 1
    assert found.equivalence_p(1.0) > 0.05


@pytest.mark.parametrize(("a", "b"), [([1.0], [1.0, 0.0]), ([], [])])
def test_what_is_no_pair_is_refused(a: list[float], b: list[float]) -> None:
    """Other numbers of examples, or none, cannot be compared."""
    with pytest.raises(ValueError, match="no pairs"):
        make_pairs(np.array(a), np.array(b))


def _weighted_mean(numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    mean: np.ndarray = 100 * (weights @ numbers) / weights.sum(-1)
    return mean


def test_the_paired_bootstrap_of_a_mean_is_the_paired_standard_error() -> None:
    """Resampling pairs gives the standard error of paired differences, also where equal pairs are drawn together."""
    rng = np.random.default_rng(3)
    graded = rng.uniform(size=(2, 400))
    coarse = rng.integers(0, 3, size=(2, 400)) / 2
    for a, b in (graded, coarse):
        found = make_bootstrap_pairs((a, b), (_weighted_mean, _weighted_mean))
        expected = 100 * np.std(a - b, ddof=1) / math.sqrt(len(a))
        assert found.difference == pytest.approx(100 * float(np.mean(a - b)))
        assert found.error == pytest.approx(expected, rel=0.1)


def test_the_paired_bootstrap_equals_a_loop() -> None:
    """The resamples are those that a loop over draws of examples makes, for both runs the same."""
    from bitnet_bench.statistics import bootstrap_counts

    a, b = np.random.default_rng(4).uniform(size=(2, 50))
    loop = []
    for counts in np.concatenate(list(bootstrap_counts(50, 200))):
        drawn = np.repeat(np.arange(50), counts.astype(int))
        loop.append(100 * (a[drawn].mean() - b[drawn].mean()))
    found = make_bootstrap_pairs((a, b), (_weighted_mean, _weighted_mean), resamples=200)
    assert found.error == pytest.approx(float(np.std(loop, ddof=1)))


def test_a_run_is_not_told_from_itself_by_the_bootstrap() -> None:
    """The same numbers on both sides differ by 0 in every resample."""
    values = np.random.default_rng(5).uniform(size=30)
    found = make_bootstrap_pairs((values, values), (_weighted_mean, _weighted_mean))
    assert (found.difference, found.error, found.differing, found.p) == (0.0, 0.0, 0, 1.0)


def _false_positives(kind: str, n: int, comparisons: int = 1000) -> float:
    """Return how often a test at 5 % finds a difference between two runs that do not differ."""
    rng = np.random.default_rng(20260101)
    found = 0
    for _ in range(comparisons):
        if kind == "binary":
            hard = rng.uniform(size=n)
            a, b = ((rng.uniform(size=n) < hard).astype(float) for _ in range(2))
            found += make_pairs(a, b).p < 0.05
        else:
            item = rng.normal(size=n)
            a, b = (1 / (1 + np.exp(-item - rng.normal(size=n))) for _ in range(2))
            pairs = make_pairs(a, b)
            if kind == "bootstrap":
                pairs = make_bootstrap_pairs((a, b), (_weighted_mean, _weighted_mean), resamples=200)
            found += pairs.p < 0.05
    return found / comparisons


@pytest.mark.parametrize(("kind", "n"), [("binary", 400), ("graded", 60), ("bootstrap", 60)])
def test_false_positives_are_near_5_percent(kind: str, n: int) -> None:
    """Of 1,000 comparisons of runs that do not differ 5 % are called different: 3.5 to 6.5 % within chance."""
    assert 0.035 <= _false_positives(kind, n) <= 0.065


def test_the_exact_test_errs_on_the_safe_side() -> None:
    """With few discordant pairs fewer than 5 % are called different."""
    assert _false_positives("binary", 40) <= 0.05


def test_equality_is_claimed_wrongly_in_5_percent_at_most() -> None:
    """Of 1,000 pairs of runs that differ by the very margin, no more than 5 % (6.5 within chance) are called equal."""
    rng = np.random.default_rng(7)
    claimed = 0
    for _ in range(1000):
        wins, losses, _ = rng.multinomial(2000, [0.06, 0.05, 0.89])
        claimed += BinaryPairs(int(wins), int(losses), 2000).equivalence_p(1.0) < 0.05
    assert claimed / 1000 <= 0.065


def test_intervals_hold_the_difference_in_95_percent() -> None:
    """Tango's interval of 120 pairs holds the true difference in 95 of 100 cases, 93.5 to 97 within chance."""
    rng = np.random.default_rng(8)
    held = 0
    for _ in range(1000):
        wins, losses, _ = rng.multinomial(120, [0.15, 0.08, 0.77])
        low, high = BinaryPairs(int(wins), int(losses), 120).interval()
        held += low <= 7.0 <= high
    assert 0.935 <= held / 1000 <= 0.97


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_is_that_of_statsmodels(ps: list[float]) -> None:
    """Adjusted p-values are those of multipletests."""
    assert holm(ps) == pytest.approx(multipletests(ps, method="holm")[1].tolist())


def test_holm_of_none_is_none() -> None:
    """No test has no adjusted p."""
    assert holm([]) == []


def test_the_error_of_a_mean_of_estimates() -> None:
    """sqrt(3^2 + 4^2) / 2; None where one estimate has none, or there is none."""
    assert combine_stderrs([3.0, 4.0]) == 2.5
    assert combine_stderrs([3.0, None]) is None
    assert combine_stderrs([]) is None


def test_ten_thousand_pairs_take_less_than_a_second() -> None:
    """Right and wrong, graded, and the bootstrap of 10,000 distinct pairs."""
    rng = np.random.default_rng(9)
    a, b = rng.uniform(size=(2, 10_000))
    for compare in (
        lambda: make_pairs((a > 0.5).astype(float), (b > 0.5).astype(float)).interval(),
        lambda: make_pairs(a, b).interval(),
        lambda: make_bootstrap_pairs((a, b), (_weighted_mean, _weighted_mean)).interval(),
    ):
        began = time.process_time()
        compare()
        assert time.process_time() - began < 1.0
