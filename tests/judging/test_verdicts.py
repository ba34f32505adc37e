"""A verdict is read out of a judge's text, or it is unparsable with the reason: a table of cases."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitnet_bench.judging.verdicts import NONE_FOUND, OUT_OF_RANGE, SEVERAL_FOUND, parse_preference, parse_score

SCALE = (1.0, 10.0)
SCORES = {
    "점수: [[7]]": 7.0,
    "[[7]]": 7.0,
    "설명입니다.\n\n점수: [[ 8.5 ]]": 8.5,
    "[[9/10]]": 9.0,
    "[[점수: 4]]": 4.0,
    "[[7점]]": 7.0,
    "[[7]] 다시 말해 [[7.0]]": 7.0,
    "점수: 7": 7.0,
    "점수는 7점입니다.": 7.0,
    "평가: 길지만 정확하다.\n점수: 8.5": 8.5,
    "**점수**: **6**": 6.0,
    "점수(1~10): 3": 3.0,
    "Score: 5": 5.0,
    "rating = 10": 10.0,
    "점수: 7/10": 7.0,
    "7/10": 7.0,
    "8점 / 10": 8.0,
    "10점 만점에 6점": 6.0,
    "10점 만점에 6점을 준다": 6.0,
    "점수: [[７]]": 7.0,
    "［［８］］": 8.0,
    "점수： ９": 9.0,
    '{"score": 4}': 4.0,
    '```json\n{"평가": "좋다", "점수": "9"}\n```': 9.0,
    "<think>[[2]]인가? 아니다.</think>점수: [[9]]": 9.0,
    "생각 [[2]]</think>[[9]]": 9.0,
    "점수: 3\n최종 [[6]]": 6.0,
    "형식은 점수: [[숫자]] 입니다. 점수: [[5]]": 5.0,
}
UNREADABLE = {
    "": NONE_FOUND,
    "좋은 답변입니다.": NONE_FOUND,
    "[[숫자]]": NONE_FOUND,
    "점수: 칠점": NONE_FOUND,
    "점수: 1~10": NONE_FOUND,
    "점수: 1점에서 10점": NONE_FOUND,
    "점수: 8,5": NONE_FOUND,
    "4/5": NONE_FOUND,
    "점수: 80/100": NONE_FOUND,
    "2024년 7월에 쓴 답변": NONE_FOUND,
    '{"score": true}': NONE_FOUND,
    "<think>[[7]]이 좋겠다": NONE_FOUND,
    "[[7]] [[8]]": SEVERAL_FOUND,
    "점수: 7\n점수: 8": SEVERAL_FOUND,
    '{"score": 7} {"score": 8}': SEVERAL_FOUND,
    "7/10 또는 8/10": SEVERAL_FOUND,
    "[[0]]": OUT_OF_RANGE,
    "[[11]]": OUT_OF_RANGE,
    "[[-3]]": OUT_OF_RANGE,
    "점수: 100": OUT_OF_RANGE,
    "[[11]] 점수: 7": OUT_OF_RANGE,
}
PREFERENCES = {
    "[[A]]": "first",
    "[[B]]": "second",
    "[[C]]": "tie",
    "[[a]]": "first",
    "[[무승부]]": "tie",
    "[[Tie]]": "tie",
    "둘 다 좋지만 A가 낫다.\n[[A]]": "first",
    "판정: B": "second",
    "최종 판정: **A**": "first",
    "승자: 답변 B": "second",
    "Verdict: tie": "tie",
    "무승부": "tie",
    "무승부.": "tie",
    "［［Ａ］］": "first",
    '{"verdict": "B"}': "second",
    '{"판정": "무승부"}': "tie",
    "<think>[[B]]?</think>[[A]]": "first",
}
NO_PREFERENCE = {
    "": NONE_FOUND,
    "A가 낫다.": NONE_FOUND,
    "A와 B 모두 좋다.": NONE_FOUND,
    "판정: 보류": NONE_FOUND,
    "판정: Apple": NONE_FOUND,
    "[[D]]": NONE_FOUND,
    "[[7]]": NONE_FOUND,
    "[[A]] [[B]]": SEVERAL_FOUND,
    "A가 나으면 [[A]], B가 나으면 [[B]], 비슷하면 [[C]]": SEVERAL_FOUND,
    "판정: A\n판정: B": SEVERAL_FOUND,
}


@pytest.mark.parametrize(("reply", "score"), SCORES.items())
def test_a_score_is_read(reply: str, score: float) -> None:
    parsed = parse_score(reply, SCALE)
    assert (parsed.value, parsed.reason) == (score, "")


@pytest.mark.parametrize(("reply", "reason"), UNREADABLE.items())
def test_what_cannot_be_decided_has_no_score_and_a_reason(reply: str, reason: str) -> None:
    parsed = parse_score(reply, SCALE)
    assert (parsed.value, parsed.reason) == (None, reason)


@pytest.mark.parametrize(("reply", "preferred"), PREFERENCES.items())
def test_a_preference_is_read(reply: str, preferred: str) -> None:
    parsed = parse_preference(reply)
    assert (parsed.value, parsed.reason) == (preferred, "")


@pytest.mark.parametrize(("reply", "reason"), NO_PREFERENCE.items())
def test_what_cannot_be_decided_has_no_preference_and_a_reason(reply: str, reason: str) -> None:
    parsed = parse_preference(reply)
    assert (parsed.value, parsed.reason) == (None, reason)


def test_another_scale_accepts_its_own_fractions() -> None:
    """4/5 is a score on a scale to five, and none on a scale to ten; 0 is in a scale from 0."""
    assert parse_score("4/5", (1.0, 5.0)).value == 4.0
    assert parse_score("[[0]]", (0.0, 10.0)).value == 0.0


@given(st.text(max_size=200))
def test_any_text_is_a_value_in_the_scale_or_a_reason(text: str) -> None:
    """A judge may write anything, and reading it never fails."""
    score, preference = parse_score(text, SCALE), parse_preference(text)
    assert (score.value is None) == bool(score.reason)
    assert score.value is None or SCALE[0] <= score.value <= SCALE[1]
    assert (preference.value is None) == bool(preference.reason)


@pytest.mark.parametrize(
    "text", ["점수" + " " * 50_000, "점수(" * 20_000, "[[" * 50_000, "{" * 50_000, "판정 *" * 20_000]
)
def test_a_long_text_is_read_at_once(text: str) -> None:
    """A judge that repeats itself to its limit has no verdict, and costs no time."""
    assert parse_score(text, SCALE).reason == NONE_FOUND
    assert parse_preference(text).reason == NONE_FOUND


@pytest.mark.parametrize("inside", ["[" * 3000 + "]" * 3000, "1" + "0" * 400])
def test_json_that_cannot_be_held_is_unparsable(inside: str) -> None:
    """A reply nests lists and writes digits as it likes; neither ends the judging."""
    assert parse_score(f'{{"score": {inside}}}', (1.0, 10.0)).value is None
