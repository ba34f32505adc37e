"""Conditions of --fail-if: what they mean, and what is said to a wrong one."""

from __future__ import annotations

from typing import Any

import pytest

from bitnet_bench.comparison.conditions import evaluate_condition, parse_condition
from bitnet_bench.errors import BenchError, UsageError

GOOD, BAD = [1.0] * 90 + [0.0] * 10, [1.0] * 50 + [0.0] * 50


@pytest.fixture
def runs(make_results: Any) -> Any:
    """Give a run that is 40 points worse than another on one of two tasks."""
    return (
        make_results("a", {"kobest:boolq": BAD, "kobest:copa": GOOD}),
        make_results("b", {"kobest:boolq": GOOD, "kobest:copa": GOOD}),
    )


@pytest.mark.parametrize(
    ("text", "holds", "difference"),
    [
        ("kobest:boolq.accuracy < -1.0", True, -40.0),
        ("kobest:boolq.accuracy>=-40", True, -40.0),
        ("kobest.accuracy < -20.5", False, -20.0),
        ("all.accuracy <= -20", True, -20.0),
        ("kobest:copa.macro_f1 > 0", False, 0.0),
    ],
)
def test_a_condition_is_about_a_task_or_the_mean_of_a_suite(
    text: str, holds: bool, difference: float, runs: Any
) -> None:
    """A task's difference, or the mean over those of a suite, is held against the bound."""
    outcome = evaluate_condition(parse_condition(text, *runs), *runs)
    assert outcome.holds is holds
    assert outcome.difference == pytest.approx(difference)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("kobest.acuracy < 1", "Did you mean accuracy?"),
        ("kobset.accuracy < 1", "Did you mean kobest?"),
        ("kobest accuracy < 1", "kobest.macro_f1 < -1.0"),
        ("kobest.accuracy == 1", "kobest.macro_f1 < -1.0"),
        ("kobest.xyz < 1", "There are: accuracy, macro_f1."),
    ],
)
def test_a_wrong_condition_names_the_nearest_right_one(text: str, hint: str, runs: Any) -> None:
    """What cannot be read is wrong use of the command line, and says what was meant."""
    with pytest.raises(UsageError) as error:
        parse_condition(text, *runs)
    assert hint in error.value.hint


def test_a_condition_over_what_cannot_be_compared_fails_loudly(make_results: Any) -> None:
    """A gate does not pass because its numbers are missing."""
    a = make_results("a", {"kobest:boolq": BAD})
    b = make_results("b", {"kobest:boolq": BAD}, data={"kobest:boolq": "f" * 64})
    with pytest.raises(BenchError, match="kobest:boolq cannot be compared"):
        evaluate_condition(parse_condition("kobest.accuracy < -1", a, b), a, b)
