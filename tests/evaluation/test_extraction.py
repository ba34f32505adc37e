"""Which choice a generated text answers with: a table of cases, and what holds for every text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from bitnet_bench.evaluation.extraction import find_choice

TABLE = yaml.safe_load((Path(__file__).parent / "extraction_cases.yaml").read_text(encoding="utf-8"))
CASES = [
    pytest.param(text, found, group.get("choices", list("ABCD")), group.get("options", []), id=f"{group['about']}-{i}")
    for group in TABLE
    for i, (text, found) in enumerate(group["cases"])
]


def test_the_table_is_large() -> None:
    """The issue asks for a table of tested cases, which nobody should shorten by accident."""
    assert len(CASES) >= 120
    assert sum(case.values[1] is None for case in CASES) >= 25


@pytest.mark.parametrize(("text", "found", "choices", "options"), CASES)
def test_the_choice_of_a_text(text: str, found: int | None, choices: list[str], options: list[str]) -> None:
    """Every row of the table is read as it says."""
    assert find_choice(text, choices, options) == found


@given(st.text(max_size=80), st.integers(1, 10), st.booleans())
def test_any_text_gives_a_choice_of_the_question_or_none(text: str, count: int, known: bool) -> None:
    """Nothing that a model writes stops an evaluation."""
    letters = list("ABCDEFGHIJ"[:count])
    options = [f"보기 {i}" for i in range(count)] if known else []
    found: Any = find_choice(text, letters, options)
    assert found is None or 0 <= found < count


@given(
    st.sampled_from("ABCDE"), st.sampled_from(["정답: {}", "정답은 ({})입니다.", "\\boxed{{{}}}", "{}", "Answer: {}"])
)
def test_a_published_form_is_read_for_every_letter(letter: str, form: str) -> None:
    """The forms that the published prompts ask for."""
    assert find_choice(form.format(letter), list("ABCDE")) == "ABCDE".index(letter)


@pytest.mark.parametrize("text", ["정답" + "\n" * 20_000 + "?", "ㅋ" * 40_000, "정답:" + " " * 20_000 + "?"])
def test_a_text_that_repeats_itself_is_read_at_once(text: str) -> None:
    """A small model may write the same character up to its limit; each is looked at a few times, and not each pair."""
    assert find_choice(text, list("ABCD")) is None


def test_a_choice_behind_a_wide_gap_is_found() -> None:
    """Blank lines are collapsed, and still end the first line."""
    assert find_choice("정답:\n\n\n\n\nB", list("ABCD")) == 1
    assert find_choice("C\n\n\n\n설명: A는 틀렸습니다.", list("ABCD")) == 2
