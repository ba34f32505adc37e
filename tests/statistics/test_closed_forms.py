"""Statistics where the answer is known: closed forms, the likelihood maximised by scipy, cases worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import minimize_scalar

from bitnet_bench.statistics import bootstrap_counts, bootstrap_stderr, confusion_bootstrap_stderr, interval, wilson
from bitnet_bench.statistics.paired import (
    BinaryPairs,
    MeanPairs,
    PairedTest,
    make_bootstrap_pairs,
    make_pairs,
    mcnemar,
    tango_interval,
    tango_z,
)
from bitnet_bench.statistics.several import combine_stderrs, holm


def naive_tango_z(wins: int, losses: int, n: int, delta: float) -> float:
    """Return (estimate - delta) over its standard error, with the share of losses that is likeliest at *delta*."""

    def surprise(losing: float) -> float:
        shares = (losing + delta, losing, 1 - 2 * losing - delta)
        counts = (wins, losses, n - wins - losses)
        return -sum(count * math.log(max(share, 1e-300)) for count, share in zip(counts, shares, strict=True) if count)

    found = minimize_scalar(
        surprise, bounds=(max(0.0, -delta), (1 - delta) / 2), method="bounded", options={"xatol": 1e-12}
    )
    losing = float(found.x)
    return ((wins - losses) / n - delta) / math.sqrt((2 * losing + delta - delta**2) / n)


TABLES = st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 100))


@settings(deadline=None, max_examples=100)
@given(TABLES, st.floats(-0.6, 0.6))
def test_tangos_z_is_that_of_the_likelihood_maximised_numerically(table: tuple[int, int, int], delta: float) -> None:
    """The closed form of the restricted maximum likelihood is what a search for the maximum finds."""
    wins, losses, agreeing = table
    n = wins + losses + agreeing
    assert tango_z(wins, losses, n, delta) == pytest.approx(naive_tango_z(wins, losses, n, delta), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    ("wins", "losses", "n", "delta", "z"),
    [
        (3, 1, 10, 0.0, 1.0),  # (3 - 1) / sqrt(3 + 1)
        (1, 3, 10, 0.0, -1.0),
        (0, 0, 10, 0.0, 0.0),
        (10, 0, 10, 1.0, 0.0),  # no spread is left at a difference of 1, and no distance to it
        (9, 0, 10, 1.0, -math.inf),
        (0, 9, 10, -1.0, math.inf),
        (0, 0, 100, 0.1, -10 / math.sqrt(9)),  # nobody loses: variance n delta (1 - delta)
        (0, 0, 100, -0.1, 10 / math.sqrt(9)),
    ],
)
def test_tangos_z_by_hand(wins: int, losses: int, n: int, delta: float, z: float) -> None:
    """At 0 it is McNemar's; without a discordant pair it is a one-sample score test; at the ends it is infinite."""
    assert tango_z(wins, losses, n, delta) == pytest.approx(z)


@pytest.mark.parametrize("level", [0.8, 0.9, 0.95, 0.99])
def test_tangos_interval_without_discordant_pairs_is_wilsons(level: float) -> None:
    """None of n discordant: z^2 / (n + z^2) either way, the closed form of the score interval of a share of 0."""
    z2 = stats.norm.ppf(0.5 + level / 2) ** 2
    assert tango_interval(0, 0, 40, level) == pytest.approx((-z2 / (40 + z2), z2 / (40 + z2)), abs=1e-12)
    low, high = BinaryPairs(0, 0, 40, scale=10.0).interval(level)
    assert (low, high) == pytest.approx((-10 * z2 / (40 + z2), 10 * z2 / (40 + z2)), abs=1e-11)


def test_the_standard_error_of_right_and_wrong_is_that_of_its_interval() -> None:
    """Half the width of Tango's interval over 1.96, in the unit of the figure."""
    low, high = tango_interval(12, 5, 90)
    assert BinaryPairs(12, 5, 90).stderr == pytest.approx(100 * (high - low) / 2 / 1.959963984540054)
    assert BinaryPairs(12, 5, 90, scale=1.0).stderr == pytest.approx((high - low) / 2 / 1.959963984540054)
    assert BinaryPairs(12, 5, 90, scale=1.0).difference == pytest.approx(7 / 90)


@settings(deadline=None, max_examples=60)
@given(TABLES, st.floats(0.5, 40))
def test_equivalence_of_right_and_wrong_is_two_one_sided_score_tests(
    table: tuple[int, int, int], margin: float
) -> None:
    """The larger p of: not below -margin, not above +margin."""
    wins, losses, agreeing = table
    n = wins + losses + agreeing
    above = stats.norm.sf(naive_tango_z(wins, losses, n, -margin / 100))
    below = stats.norm.cdf(naive_tango_z(wins, losses, n, margin / 100))
    assert BinaryPairs(wins, losses, n).equivalence_p(margin) == pytest.approx(max(above, below), abs=1e-3)


def test_equivalence_depends_on_the_difference() -> None:
    """With one margin, runs that tie are equal, runs 2 points apart less surely, and 6 points not."""
    tied, apart, behind, far = (
        BinaryPairs(wins, losses, 1000).equivalence_p(3.0) for wins, losses in ((50, 50), (60, 40), (40, 60), (80, 20))
    )
    assert tied < 0.01 < apart < 0.5 < far
    assert behind == pytest.approx(apart)
    graded = [MeanPairs(difference, 1.0, 1000, "t", 500).equivalence_p(3.0) for difference in (0.0, 2.0, -2.0, 6.0)]
    assert graded[0] < 0.01 < graded[1] < 0.5 < graded[3]
    assert graded[1] == graded[2]


@pytest.mark.parametrize("margin", [100.0, 150.0])
def test_no_difference_exceeds_a_margin_of_everything(margin: float) -> None:
    """Shares cannot differ by more than 100 points: equality within that is certain."""
    assert BinaryPairs(30, 0, 30).equivalence_p(margin) == 0.0
    assert BinaryPairs(30, 0, 30, scale=1.0).equivalence_p(margin / 100) == 0.0
    assert BinaryPairs(30, 0, 30).equivalence_p(margin / 2) > 0.05


@pytest.mark.parametrize(("discordant", "name"), [(0, "mcnemar-exact"), (24, "mcnemar-exact"), (25, "mcnemar")])
def test_few_discordant_pairs_are_tested_exactly(discordant: int, name: str) -> None:
    """Below 25 the test is the binomial one, from 25 on chi-square; the name says which, and p is that test's."""
    pairs = BinaryPairs(discordant, 0, 100)
    assert pairs.test == name
    exact = 2 * 0.5**discordant
    chi_square = float(stats.chi2.sf(discordant, 1))
    assert pairs.p == pytest.approx(min(1.0, exact) if name == "mcnemar-exact" else chi_square, rel=1e-9)


@pytest.mark.parametrize(("wins", "losses"), [(3, 0), (0, 3), (5, 4), (4, 5), (40, 20), (20, 40)])
def test_mcnemars_p_is_two_sided(wins: int, losses: int) -> None:
    """Which side is ahead does not matter: 3 to 0 is 2 / 8, not 1 / 8."""
    assert mcnemar(wins, losses) == mcnemar(losses, wins)
    if wins + losses == 3:
        assert mcnemar(wins, losses) == pytest.approx(0.25)
    elif wins + losses == 9:
        assert mcnemar(wins, losses) == pytest.approx(1.0)


@pytest.mark.parametrize(("difference", "p"), [(1.0, 0.0), (-1.0, 0.0), (0.0, 1.0)])
def test_a_difference_without_spread_is_certain(difference: float, p: float) -> None:
    """If every pair differs by the same there is no doubt; if none differs there is no difference."""
    found = MeanPairs(difference, 0.0, 50, "t", 50)
    assert found.p == p
    assert found.effect is None
    assert found.interval() == (difference, difference)


@pytest.mark.parametrize(("margin", "p"), [(0.5, 1.0), (1.0, 1.0), (1.5, 0.0)])
def test_equivalence_without_spread_compares_with_the_margin(margin: float, p: float) -> None:
    """A difference of exactly 1 in every pair is inside a margin of 1.5 and not inside 1, on either side."""
    for difference in (1.0, -1.0):
        assert MeanPairs(difference, 0.0, 50, "t", 50).equivalence_p(margin) == p


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_the_interval_of_a_mean_is_students(level: float) -> None:
    """Difference +- t(n - 1) x stderr at any level; a single pair counts as one degree of freedom."""
    found = MeanPairs(2.0, 0.5, 8, "t", 8)
    assert found.interval(level) == pytest.approx(stats.t.interval(level, 7, 2.0, 0.5))
    assert found.p == pytest.approx(2 * stats.t.sf(4.0, 7))
    assert MeanPairs(2.0, 0.5, 1, "t", 8).interval(level) == pytest.approx(stats.t.interval(level, 1, 2.0, 0.5))
    assert MeanPairs(2.0, 0.5, 1, "t", 8).p == pytest.approx(2 * stats.t.sf(4.0, 1))


def test_dz_and_its_interval_by_hand() -> None:
    """Difference 3 and error 0.5 over 16 pairs: dz = 3 / (0.5 x 4) = 1.5, +- 1.96 sqrt(1 / 16 + 2.25 / 32)."""
    effect = MeanPairs(3.0, 0.5, 16, "t", 16).effect
    assert effect is not None
    half = 1.959963984540054 * math.sqrt(1 / 16 + 1.5**2 / 32)
    assert (effect.kind, effect.value) == ("dz", 1.5)
    assert effect.interval == pytest.approx((1.5 - half, 1.5 + half))


@pytest.mark.parametrize(("differing", "trusted"), [(4, False), (5, True)])
def test_a_small_spread_of_few_differing_pairs_is_not_trusted(differing: int, trusted: bool) -> None:
    """Below five differing pairs the error is at least that of n pairs of which none differs, in the figure's unit."""
    floor = 100 * tango_interval(0, 0, 40)[1] / 1.959963984540054
    assert MeanPairs(0.1, 0.01, 40, "t", differing).stderr == pytest.approx(0.01 if trusted else floor)
    assert MeanPairs(0.1, 0.01, 40, "t", differing, largest=5.0).stderr == pytest.approx(
        0.01 if trusted else floor / 20
    )
    assert MeanPairs(0.1, 99.0, 40, "t", differing).stderr == 99.0


def test_graded_pairs_by_hand() -> None:
    """0.5 - 0.25, 0.5 - 0 and 1 - 1 have the mean 0.25 and the spread 0.25: 25 +- 25 / sqrt(3) points."""
    found = make_pairs(np.array([0.5, 0.5, 1.0]), np.array([0.25, 0.0, 1.0]))
    expected = MeanPairs(25.0, found.error, 3, "t", 2, 100.0)  # type: ignore[union-attr]
    assert found == expected
    assert expected.error == pytest.approx(25 / math.sqrt(3))
    assert make_pairs(np.array([0.5, 0.5, 1.0]), np.array([0.25, 0.0, 1.0]), scale=1.0) == MeanPairs(
        0.25, pytest.approx(0.25 / math.sqrt(3)), 3, "t", 2, 1.0
    )


def test_one_graded_pair_has_a_difference_and_no_spread() -> None:
    """A single pair is no error of ours: its interval is that of one pair that shows nothing."""
    found = make_pairs(np.array([0.5]), np.array([0.25]))
    assert (found.difference, found.error, found.n) == (25.0, 0.0, 1)  # type: ignore[union-attr]
    assert found.stderr > 25.0


@pytest.mark.parametrize(("a", "b"), [([0.0, 1.0], [0.5, 1.0]), ([0.5, 1.0], [0.0, 1.0])])
def test_one_grade_makes_all_pairs_graded(a: list[float], b: list[float]) -> None:
    """Right and wrong on one side only is no table of wins and losses."""
    assert isinstance(make_pairs(np.array(a), np.array(b)), MeanPairs)


def test_right_and_wrong_keep_their_scale() -> None:
    """A figure of 0..1 has differences of 0..1."""
    found = make_pairs(np.array([1.0, 1.0, 0.0, 1.0]), np.array([0.0, 0.0, 0.0, 1.0]), scale=1.0)
    assert found == BinaryPairs(2, 0, 4, 1.0)
    assert found.difference == 0.5


def mean_of(numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    mean: np.ndarray = (weights @ numbers) / weights.sum(-1)
    return mean


def test_pairs_that_are_drawn_together_are_drawn_as_often_as_apart() -> None:
    """For 400 pairs of 4 kinds the spread of 20,000 resamples is that of the difference, within 3 %."""
    a, b = np.repeat([0.0, 0.2, 1.0, 0.7], 100), np.tile([0.1, 0.1, 0.3, 0.3], 100)
    found = make_bootstrap_pairs((a, b), (mean_of, mean_of), resamples=20_000)
    assert found.difference == pytest.approx(float(np.mean(a - b)))
    assert found.error == pytest.approx(float(np.std(a - b)) / 20, rel=0.03)
    assert (found.n, found.test, found.differing, found.largest) == (400, "bootstrap", int((a != b).sum()), 100.0)


def test_small_errors_of_the_bootstrap_are_kept() -> None:
    """An error of a hundredth of the figure's unit is no rounding error, whatever the size of the difference."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(1000.0, 0.1, 100), rng.normal(0.0, 0.1, 100)
    found = make_bootstrap_pairs((a, b), (mean_of, mean_of))
    assert found.error == pytest.approx(math.sqrt(0.02 / 100), rel=0.2)


def test_rounding_is_no_error_of_the_bootstrap() -> None:
    """If each pair differs by the same the resamples differ by rounding only, which is 0."""
    b = np.random.default_rng(2).uniform(size=60)
    found = make_bootstrap_pairs((b + 0.1, b), (mean_of, mean_of))
    assert found.error == 0.0
    assert found.differing == 60
    assert found.p == 0.0
    far = make_bootstrap_pairs((1e6 * b + 1e6, 1e6 * b), (mean_of, mean_of))
    assert (far.error, far.difference) == (0.0, pytest.approx(1e6)), "rounding grows with the difference"


@pytest.mark.parametrize("largest", [100.0, 2.0])
def test_few_differing_pairs_of_the_bootstrap_leave_what_is_possible(largest: float) -> None:
    """Equal runs may still differ by as much as n pairs leave open, in the unit of the figure."""
    values = np.random.default_rng(3).uniform(size=30)
    found = make_bootstrap_pairs((values, values), (mean_of, mean_of), largest=largest)
    assert found.stderr == pytest.approx(largest * tango_interval(0, 0, 30)[1] / 1.959963984540054)
    assert make_bootstrap_pairs((values, values), (mean_of, mean_of)).largest == 100.0


def test_one_pair_has_no_error_of_the_bootstrap() -> None:
    """A single pair has nothing to resample."""
    found = make_bootstrap_pairs((np.array([1.0]), np.array([0.5])), (mean_of, mean_of))
    assert (found.difference, found.error, found.n, found.differing) == (0.5, 0.0, 1, 1)


def test_pairs_with_several_numbers_differ_if_one_does() -> None:
    """Rows of two numbers: one of three rows differs, in its second number; other widths differ everywhere."""
    a, b = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([[1.0, 2.0], [3.0, 9.0], [5.0, 6.0]])

    def first(numbers: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return mean_of(numbers[:, 0], weights)

    assert make_bootstrap_pairs((a, b), (first, first)).differing == 1
    assert make_bootstrap_pairs((a, b[:, :1]), (first, first)).differing == 3


def test_resamples_are_those_of_numpys_generator() -> None:
    """A signature names the seed, so the draws are fixed: those of default_rng(1234), a block of 50 at a time."""
    rng = np.random.default_rng(1234)
    expected = []
    for rows in (50, 50, 20):
        drawn = rng.integers(9, size=(rows, 9), dtype=np.int32)
        expected += [np.bincount(row, minlength=9) for row in drawn]
    blocks = list(bootstrap_counts(9, 120))
    assert [len(block) for block in blocks] == [50, 50, 20]
    assert np.array_equal(np.concatenate(blocks), np.array(expected))
    assert sum(map(len, bootstrap_counts(3))) == 1000


def test_the_bootstrap_is_the_spread_of_the_figure_of_each_resample() -> None:
    """Over numbers of any shape, exactly: the deviation, over one less than the resamples, of the figure of each."""
    numbers = np.random.default_rng(6).integers(0, 5, size=(7, 2, 3))
    drawn = [
        numbers[np.repeat(range(7), counts.astype(int))].sum(0)
        for counts in np.concatenate(list(bootstrap_counts(7, 90)))
    ]

    def ratio(sums: np.ndarray) -> np.ndarray:
        share: np.ndarray = sums[..., 0, 1] / (1 + sums[..., 1, 2])
        return share

    naive = np.std([ratio(one) for one in drawn], ddof=1)
    assert bootstrap_stderr(numbers, ratio, resamples=90) == pytest.approx(float(naive), rel=1e-12)
    assert bootstrap_stderr(numbers[:2], ratio) is not None


def test_the_bootstrap_of_a_table_is_that_of_its_draws() -> None:
    """Exactly: multinomial draws of default_rng(1234), the figure of each, and their deviation over one less."""
    table = np.array([[5, 2], [1, 4]])
    rng = np.random.default_rng(1234)
    naive = [np.trace(rng.multinomial(12, table.ravel() / 12).reshape(2, 2)) / 12 for _ in range(1000)]
    got = confusion_bootstrap_stderr(table, lambda m: np.trace(m, axis1=-2, axis2=-1) / 12)
    assert got == pytest.approx(float(np.std(naive, ddof=1)), rel=1e-12)
    two = confusion_bootstrap_stderr(np.array([[1, 0], [1, 0]]), lambda m: m[:, 0, 0] / 2, resamples=400)
    assert two == pytest.approx(math.sqrt(0.25 / 2), rel=0.1)


def test_an_interval_ends_where_the_metric_does() -> None:
    """By default 0 and 100; without an upper end it is open there."""
    assert interval(50.0, 10.0) == pytest.approx((50 - 19.59963984540054, 50 + 19.59963984540054))
    assert interval(99.0, 10.0) == pytest.approx((99 - 19.59963984540054, 100.0))
    assert interval(1.0, 10.0) == pytest.approx((0.0, 1 + 19.59963984540054))
    assert interval(99.0, 10.0, high=None) == pytest.approx((99 - 19.59963984540054, 99 + 19.59963984540054))


@pytest.mark.parametrize(("successes", "n", "expected"), [(0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0))])
def test_wilsons_interval_of_none_and_of_all(successes: int, n: int, expected: tuple[float, float]) -> None:
    """z^2 / (n + z^2) from the end."""
    assert wilson(successes, n) == pytest.approx(expected, abs=5e-5)


def test_holm_by_hand() -> None:
    """0.01, 0.04, 0.03 of three tests: 3 x 0.01, then 2 x 0.03, and the last no smaller than that; never over 1."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([0.4]) == [0.4]


def test_the_error_of_three_estimates() -> None:
    """sqrt(1 + 4 + 4) / 3 = 1; one estimate keeps its error, and an error of 0 is one."""
    assert combine_stderrs([1.0, 2.0, 2.0]) == pytest.approx(1.0)
    assert combine_stderrs([2.0]) == 2.0
    assert combine_stderrs([0.0, 0.0]) == 0.0


@pytest.mark.parametrize("pairs", [BinaryPairs(40, 10, 400), MeanPairs(3.0, 1.0, 50, "t", 50)])
def test_a_known_difference_is_found_and_its_side_named(pairs: PairedTest) -> None:
    """A first run that is clearly better has a positive difference, effect and interval, and a small p."""
    assert pairs.p < 0.01
    assert pairs.difference > 0
    assert pairs.interval()[0] > 0
    assert pairs.effect is not None
    assert pairs.effect.interval[0] > 0
