"""The verdict on two runs: p-values worked out by hand, and how often it is wrong where the truth is known."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bitnet_bench.comparison import compare
from bitnet_bench.comparison.comparing import make_mean_difference
from bitnet_bench.comparison.results import Difference, MeanDifference
from bitnet_bench.statistics.paired import make_pairs
from bitnet_bench.statistics.several import holm

SIMULATIONS = 2000


def differ(value: float, error: float, n: int = 100) -> Difference:
    """Return the difference of one task, with its standard error; nothing else of it counts."""
    return Difference(
        task="s:t",
        metric="accuracy",
        n=n,
        a=50.0 + value,
        b=50.0,
        difference=value,
        stderr=error,
        low=value,
        high=value,
        test="t",
        p=0.0,
        p_holm=0.0,
        equivalence_p=0.0,
        effect=None,
        lower_is_better=False,
        flipped_wrong=0,
        flipped_right=0,
        verdict="undecided",
    )


def mean_of(*differences: tuple[float, float], margin: float = 1.0) -> MeanDifference:
    """Return the mean over tasks of (difference, standard error)."""
    found = make_mean_difference([differ(*one) for one in differences], margin)
    assert found is not None
    return found


def test_the_mean_of_two_tasks_has_half_the_root_of_their_squared_errors() -> None:
    """2 and 4 points with errors 1.2 and 0.9: 3 with 1.5 / 2, from 1.53 to 4.47, over all examples of both."""
    found = mean_of((2.0, 1.2), (4.0, 0.9))
    assert (found.tasks, found.n, found.difference, found.stderr) == (2, 200, 3.0, pytest.approx(0.75))
    assert (found.low, found.high) == pytest.approx((3 - 1.959964 * 0.75, 3 + 1.959964 * 0.75), abs=1e-6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    ("z", "p"),
    # both tails of the normal distribution, from a printed table
    [(0.0, 1.0), (0.6745, 0.5), (1.0, 0.3173), (1.6449, 0.1), (1.96, 0.05), (2.5758, 0.01), (4.0, 0.0000633)],
)
def test_the_p_of_the_headline_is_two_sided(z: float, p: float, sign: float) -> None:
    """A mean of z standard errors in either direction has the probability of both tails."""
    assert mean_of((sign * z * 0.5, 0.5)).p == pytest.approx(p, rel=2e-3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize(
    ("difference", "error", "margin", "p"),
    # one tail of the normal distribution at (margin - |difference|) / error
    [
        (0.0, 0.5, 1.0, 0.02275),  # 2
        (0.5, 0.25, 1.0, 0.02275),  # 2, though the difference is half the margin
        (0.5, 0.5, 1.0, 0.15866),  # 1
        (1.0, 0.1, 1.0, 0.5),  # at the margin, however small the error
        (2.0, 0.5, 1.0, 0.97725),  # beyond it
        (0.5, 0.5, 1.5, 0.02275),  # a wider margin
    ],
)
def test_equality_is_claimed_by_what_is_left_of_the_margin(
    difference: float, error: float, margin: float, p: float, sign: float
) -> None:
    """The difference that was found takes its part of the margin, in either direction."""
    assert mean_of((sign * difference, error), margin=margin).equivalence_p == pytest.approx(p, rel=1e-3)


@pytest.mark.parametrize(
    ("difference", "error", "verdict"),
    [
        (3.0, 1.5, "better"),  # p 0.0455
        (-3.0, 1.5, "worse"),
        (3.0, 1.6, "undecided"),  # p 0.061; one-sided it would be 0.030
        (-3.0, 1.6, "undecided"),
        (0.4, 0.35, "equal"),  # 0.6 of the margin left: 1.714 errors, p 0.043
        (0.4, 0.38, "undecided"),  # 1.579 errors, p 0.057
        (-0.4, 0.35, "equal"),
        (0.5, 0.2, "slightly-better"),  # p 0.012 for a difference, 0.006 for one within the margin
        (-0.5, 0.2, "slightly-worse"),
    ],
)
def test_the_verdict_follows_from_both_ps(difference: float, error: float, verdict: str) -> None:
    """On either side of 0.05."""
    assert mean_of((difference, error)).verdict == verdict


def right_and_wrong(wins: int, losses: int, both: int, neither: int) -> tuple[list[float], list[float]]:
    """Return what two runs got on examples of four kinds."""
    a = [1.0] * wins + [0.0] * losses + [1.0] * both + [0.0] * neither
    b = [0.0] * wins + [1.0] * losses + [1.0] * both + [0.0] * neither
    return a, b


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [
        (1, 9, 2 * (1 + 10) / 2**10),  # ten coins, at most one head, or at most one tail
        (9, 1, 2 * (1 + 10) / 2**10),
        (0, 5, 2 / 2**5),
        (5, 5, 1.0),
        (20, 40, math.erfc(20 / math.sqrt(60) / math.sqrt(2))),  # chi-square from 25 on
        (40, 20, math.erfc(20 / math.sqrt(60) / math.sqrt(2))),
    ],
)
def test_the_p_of_a_task_is_two_sided(wins: int, losses: int, p: float, make_results: Any) -> None:
    """McNemar's test of a task that is right or wrong, with the signs of the difference and the flips."""
    ours, theirs = right_and_wrong(wins, losses, 50, 200 - 50 - wins - losses)
    (one,) = compare(make_results("a", {"s:t": ours}), make_results("b", {"s:t": theirs})).differences
    assert one.p == pytest.approx(p)
    assert one.difference == pytest.approx(100 * (wins - losses) / 200)
    assert (one.flipped_right, one.flipped_wrong) == (wins, losses)


def test_at_the_margin_equality_is_a_toss_up(make_results: Any) -> None:
    """Ten examples of a thousand are a point: with a margin of one point, p is a half in either direction."""
    for wins, losses in ((10, 0), (0, 10), (25, 15), (15, 25)):
        ours, theirs = right_and_wrong(wins, losses, 500, 500 - wins - losses)
        (one,) = compare(make_results("a", {"s:t": ours}), make_results("b", {"s:t": theirs})).differences
        assert one.equivalence_p == pytest.approx(0.5)


def test_equality_of_a_task_takes_more_examples_the_larger_the_difference_is(make_results: Any) -> None:
    """Without a discordant pair z is sqrt(n d / (1 - d)): 270 examples show equality within a point, 260 do not."""
    for n, verdict in ((270, "equal"), (260, "undecided")):
        run = make_results("a", {"s:t": [1.0] * n})
        (one,) = compare(run, run).differences
        assert one.equivalence_p == pytest.approx(0.5 * math.erfc(math.sqrt(n * 0.01 / 0.99 / 2)))
        assert one.verdict == verdict


def tail_of_t_with_four_degrees(t: float) -> float:
    """Return P(T > t) of Student's t with four degrees of freedom, in its closed form."""
    scaled = t / math.sqrt(1 + t * t / 4)
    return 0.5 - 3 / 8 * scaled * (1 - scaled * scaled / 12)


def graded(runs: Any, name: str, got: list[float]) -> Any:
    """Return a run whose examples got shares, by a metric of another package."""
    run = runs(name, {"s:t": got}, metrics=("accuracy",))
    scores = tuple(score.model_copy(update={"signature": "acc|lm-eval:0.4.13"}) for score in run.record.scores)
    return type(run)(run.record.model_copy(update={"scores": scores}), run.examples)


def test_graded_examples_are_compared_by_student_s_t(make_results: Any) -> None:
    """Differences of 0.1 to 0.5 have the mean 0.3 and the error 0.0707: t is 4.243, and 1.414 at 10 points less."""
    a, b = graded(make_results, "a", [0.2, 0.3, 0.4, 0.5, 0.6]), graded(make_results, "b", [0.1] * 5)
    (one,) = compare(a, b, margin=40.0).differences
    error = 100 * math.sqrt(0.025) / math.sqrt(5)
    assert (one.test, one.difference, one.stderr) == ("t", pytest.approx(30.0), pytest.approx(error))
    assert one.p == pytest.approx(2 * tail_of_t_with_four_degrees(30 / error)) == pytest.approx(0.013236, abs=1e-6)
    assert (
        one.equivalence_p == pytest.approx(tail_of_t_with_four_degrees(10 / error)) == pytest.approx(0.1151, abs=1e-4)
    )
    (turned,) = compare(b, a, margin=40.0).differences
    assert (turned.p, turned.equivalence_p) == (pytest.approx(one.p), pytest.approx(one.equivalence_p))


def share(claims: list[bool]) -> float:
    """Return how often something was claimed."""
    return sum(claims) / len(claims)


def within(rate: float) -> Any:
    """Return what a share of `SIMULATIONS` is within 3.3 standard errors of: a thousandth of them are not."""
    return pytest.approx(rate, abs=3.3 * math.sqrt(rate * (1 - rate) / SIMULATIONS))


def simulate_means(truth: float, errors: tuple[float, ...], seed: int) -> list[MeanDifference]:
    """Return the means of tasks whose true difference is *truth*, each with its error."""
    rng = np.random.default_rng(seed)
    drawn = rng.normal(truth, errors, (SIMULATIONS, len(errors)))
    return [mean_of(*zip(row.tolist(), errors, strict=True)) for row in drawn]


def test_a_headline_claims_a_difference_where_there_is_none_in_one_case_of_twenty() -> None:
    """Over four tasks with different errors; a one-sided p would claim one in ten."""
    found = simulate_means(0.0, (0.6, 0.8, 1.0, 1.4), seed=21)
    assert share([one.p < 0.05 for one in found]) == within(0.05)


def test_a_headline_finds_a_difference_as_often_as_it_should() -> None:
    """Three errors away, in either direction: with the probability of a normal variable above -1.04."""
    for truth in (3.0, -3.0):
        found = simulate_means(truth, (2.0, 2.0, 2.0, 2.0), seed=22)
        assert share([one.p < 0.05 for one in found]) == within(0.5 * math.erfc(-(3 - 1.959964) / math.sqrt(2)))
        assert share([one.verdict == ("better" if truth > 0 else "worse") for one in found]) > 0.8


def test_a_headline_claims_equality_at_the_margin_in_one_case_of_twenty() -> None:
    """A true difference of exactly one point is no equality, and is called one as rarely as p says."""
    for truth in (1.0, -1.0):
        found = simulate_means(truth, (0.2, 0.2, 0.2, 0.2), seed=23)
        assert share([one.equivalence_p < 0.05 for one in found]) == within(0.05)


def test_a_headline_finds_equality_as_often_as_it_should() -> None:
    """No difference, and an error of 0.4: equal where the mean is within 1 - 1.645 errors of 0."""
    found = simulate_means(0.0, (0.8, 0.8, 0.8, 0.8), seed=24)
    room = (1 - 1.644854 * 0.4) / 0.4
    assert share([one.equivalence_p < 0.05 for one in found]) == within(math.erf(room / math.sqrt(2)))


def draw_pairs(rng: np.random.Generator, wins: float, losses: float, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return what two runs got on *n* examples of which each share is won or lost by chance."""
    kind = rng.choice(4, n, p=[wins, losses, 0.5, 0.5 - wins - losses])
    return ((kind == 0) | (kind == 2)).astype(float), ((kind == 1) | (kind == 2)).astype(float)


Claim = Callable[[Any], bool]


@pytest.mark.parametrize(
    ("wins", "losses", "claims", "most"),
    [
        (0.1, 0.1, lambda test: test.p < 0.05, 0.05),
        (0.15, 0.1, lambda test: test.equivalence_p(5.0) < 0.05, 0.05),
        (0.1, 0.15, lambda test: test.equivalence_p(5.0) < 0.05, 0.05),
    ],
    ids=["no difference", "at the margin", "at the margin, turned"],
)
def test_a_task_claims_what_is_not_so_in_one_case_of_twenty(
    wins: float, losses: float, claims: Claim, most: float
) -> None:
    """Of 400 examples, a fifth or a quarter of which only one run has right."""
    rng = np.random.default_rng(25)
    found = [claims(make_pairs(*draw_pairs(rng, wins, losses, 400))) for _ in range(SIMULATIONS)]
    # counts are whole numbers, which moves the rate by some thousandths
    assert share(found) == pytest.approx(most, abs=0.02)


def test_a_task_finds_what_is_so() -> None:
    """A difference of ten points in 400 examples, and equality within five points in 4,000."""
    rng = np.random.default_rng(26)
    different = [make_pairs(*draw_pairs(rng, 0.15, 0.05, 400)).p < 0.05 for _ in range(300)]
    equal = [make_pairs(*draw_pairs(rng, 0.05, 0.05, 4000)).equivalence_p(5.0) < 0.05 for _ in range(100)]
    assert share(different) > 0.95
    assert share(equal) == 1.0


def test_several_tasks_together_claim_a_false_difference_in_one_case_of_twenty() -> None:
    """Five tasks without a difference: after Holm's correction all of them are silent in 19 of 20 comparisons."""
    rng = np.random.default_rng(27)
    p = rng.uniform(size=(SIMULATIONS, 5))
    assert share([min(holm(row.tolist())) < 0.05 for row in p]) == within(0.05)
    assert share([min(row) < 0.05 for row in p]) > 0.2, "without it, one in four"


def test_holm_multiplies_by_how_many_are_left() -> None:
    """0.01, 0.02, 0.03 and 0.2 of four: 0.04, 0.06, 0.06 and 0.2, whatever their order."""
    assert holm([0.03, 0.2, 0.01, 0.02]) == pytest.approx([0.06, 0.2, 0.04, 0.06])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8])
