"""Numbers are read as people and LaTeX write them, and compared as numbers."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bitnet_bench.evaluation.number_extraction import find_number
from bitnet_bench.metrics import load_metric
from bitnet_bench.metrics.numbers import format_number, is_same_number, parse_number
from bitnet_bench.runs.records import Example

CASES = yaml.safe_load((Path(__file__).parents[1] / "evaluation/number_cases.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("text", "found"), CASES)
def test_the_number_of_a_text(text: str, found: str | None) -> None:
    """Every row of the table is read as it says."""
    assert find_number(text) == found


@given(st.fractions(max_denominator=10**6))
def test_a_fraction_survives_its_text(number: Fraction) -> None:
    """What is written into a sample is read again as the same number, and in LaTeX too."""
    assert parse_number(format_number(number)) == number
    assert parse_number(f"\\frac{{{number.numerator}}}{{{number.denominator}}}") == number


@given(st.floats(min_value=-1e9, max_value=1e9, allow_nan=False))
def test_an_irrational_number_survives_its_text(number: float) -> None:
    """The text of a float has no exponent, which would be read as a unit."""
    again = parse_number(format_number(number))
    assert again is not None
    assert is_same_number(again, number)


@given(st.text(max_size=60))
def test_no_text_stops_an_evaluation(text: str) -> None:
    """Whatever a model writes is a number or none."""
    found = find_number(text)
    assert found is None or parse_number(found) is not None


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("18", "18.0", True),
        ("0.5", "1/2", True),
        ("1/3", "0.3333", True),
        ("1/3", "0.333", False),
        ("0.3334", "0.3333", False),
        ("1000001", "1000000", False),
        ("\\sqrt{2}", "1.41421356", True),
        ("\\sqrt{2}", "1.41", False),
        ("-3", "3", False),
        ("1.4142135623730951", "\\sqrt{2}", True),
        ("2^{0.5}\\cdot 2^{0.5}", "2", True),
    ],
)
def test_numbers_are_compared_as_numbers(answer: str, gold: str, same: bool) -> None:
    """Integers are exact; only a gold number of four decimal places is compared after rounding."""
    a, b = parse_number(answer), parse_number(gold)
    assert a is not None
    assert b is not None
    assert is_same_number(a, b, gold) == same


@pytest.mark.parametrize("text", ["9^{9^9}", "9" * 300, "1/0", "\\frac{1}{0}", "(" * 5000, "\\sqrt{-1}", "2^{9999}"])
def test_what_is_no_number_that_can_be_computed_is_none(text: str) -> None:
    """Neither an endless power nor a division by 0 takes long or raises."""
    assert parse_number(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "3 apples remaining in total and more (approximately)",
        "12 kilometers per hour squared, give or take a few!",
        "(((1/9)^{256})^{256})^{256}",
        "999999999999999999^{256}",
        "10^{250}\\cdot 10^{250}",
    ],
)
def test_a_text_that_could_be_read_in_endless_ways_is_given_up(text: str) -> None:
    """Units are tried in one way only, and no number grows beyond what can be printed and made a float."""
    assert parse_number(text) is None
    assert find_number(f"\\boxed{{{text}}}") is None


def test_a_power_with_many_decimal_places_is_a_float() -> None:
    """The root is not looked for among the rational numbers, each of which would be raised to a billion."""
    number = parse_number("2^{0.123456789}")
    assert isinstance(number, float)
    assert number == pytest.approx(2**0.123456789)


@pytest.mark.parametrize(("text", "number"), [("25 cm²", 25), ("3 ㎥", 3), ("12m^2", 12), ("5²", 25), ("7 km/h", None)])
def test_raised_digits_are_powers_or_parts_of_a_unit(text: str, number: int | None) -> None:
    """NFKC alone would make 52 of 5², and no number of 25 cm²."""
    assert parse_number(text) == number


@pytest.mark.parametrize(("label", "target", "score"), [("3", "3.0", 1.0), ("4", "3.0", 0.0), ("", "3", 0.0)])
def test_the_metric_scores_the_extracted_number(label: str, target: str, score: float) -> None:
    """A text without a number, whose label is empty, is wrong."""
    example = Example(task="t", doc_id=0, prompt="", target=target, output="", output_labels=(label,), correct=0.0)
    assert load_metric("number_match").score_example(example) == score
