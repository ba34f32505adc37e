"""Read the verdict out of a judge's text; what cannot be decided is unparsable, with the reason, and never guessed.

The form that the prompt asks for counts first, `[[7]]` or `[[A]]`. Then come JSON, then a labelled value such as
"점수: 7", then a fraction such as "7/10". The first of these forms that occurs decides: with two different values in
it, or one outside the scale, the verdict is unparsable.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

PARSER_VERSION = 1
"""Version of these rules, which is in the signature of judged scores."""
Preference = Literal["first", "second", "tie"]
NONE_FOUND, SEVERAL_FOUND, OUT_OF_RANGE = "no verdict", "different verdicts", "a score outside the scale"
"""Reasons why a verdict is unparsable."""
_NUMBER = r"[-+]?\d+(?:\.\d+)?"
_ALONE = rf"(?<![\d.,])({_NUMBER})(?![\d,]|\.\d)"
"""A number that is not a part of a longer one, such as of 8,5 or of 1.2.3."""
_SCORE_LABEL = r"(?:점수|평점|총점|score|rating)"
_WINNER_LABEL = r"(?:판정|승자|결과|결론|verdict|winner|preference|better)"
_MARKS = r"[\s*_\"']{0,6}"
"""Spaces and Markdown between a label and its value; bounded, so that no text takes long."""
_BRACKETS = re.compile(r"\[\[\s*([^\[\]]{1,20}?)\s*\]\]")
_JSON_OBJECT = re.compile(r"\{[^{}]*\}")
_LABELLED_SCORE = re.compile(
    rf"{_SCORE_LABEL}{_MARKS}(?:\([^)]{{0,20}}\))?{_MARKS}(?:[:=]|은|는)?[\[]{{0,2}}{_MARKS}{_ALONE}", re.IGNORECASE
)
_FRACTION = re.compile(rf"{_ALONE}\s*점?\s*/\s*(\d+)(?![\d.])")
_OUT_OF = re.compile(rf"(\d+)\s*점\s*만점\s*(?:에|에서|중)?\s*{_ALONE}\s*점")
_SCORE_KEYS = ("score", "점수", "rating", "평점", "총점")
_WINNER_KEYS = ("verdict", "winner", "판정", "승자", "better", "preference")
_PREFERENCES: dict[str, Preference] = {
    "a": "first",
    "b": "second",
    "c": "tie",
    "tie": "tie",
    "draw": "tie",
    "무승부": "tie",
    "동점": "tie",
    "비김": "tie",
    "비슷함": "tie",
}
_CHOICES = "|".join(sorted(_PREFERENCES, key=len, reverse=True))
_LABELLED_CHOICE = re.compile(
    rf"{_WINNER_LABEL}{_MARKS}(?:[:=]|은|는)?[\[(]{{0,2}}{_MARKS}(?:답변|assistant|모델)?{_MARKS}({_CHOICES})(?![a-z0-9])",
    re.IGNORECASE,
)
_PLAIN_TIE = re.compile(r"무승부")
_THOUGHT = re.compile(r"<think>.*?</think>|^.*?</think>", re.DOTALL)


@dataclass(frozen=True)
class ParsedScore:
    """A score, or why there is none."""

    value: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class ParsedPreference:
    """A preference for the answer shown first or second, or why there is none."""

    value: Preference | None = None
    reason: str = ""


def parse_score(reply: str, scale: tuple[float, float]) -> ParsedScore:
    """Return the score in a judge's *reply*, on *scale* (least, greatest)."""
    text = _clean(reply)
    readers: list[Callable[[str], Iterator[float]]] = [
        lambda text: _read_bracketed_scores(text, scale[1]),
        _read_json_scores,
        lambda text: _read_labelled_scores(text, scale[1]),
        lambda text: _read_fractions(text, scale[1]),
    ]
    for read in readers:
        found = set(read(text))
        if len(found) > 1:
            return ParsedScore(reason=SEVERAL_FOUND)
        for value in found:
            return ParsedScore(value) if scale[0] <= value <= scale[1] else ParsedScore(reason=OUT_OF_RANGE)
    return ParsedScore(reason=NONE_FOUND)


def parse_preference(reply: str) -> ParsedPreference:
    """Return which of two answers a judge's *reply* prefers."""
    text = _clean(reply)
    for read in (_read_bracketed_choices, _read_json_choices, _read_labelled_choices, _read_plain_ties):
        found = set(read(text))
        if len(found) > 1:
            return ParsedPreference(reason=SEVERAL_FOUND)
        for value in found:
            return ParsedPreference(value)
    return ParsedPreference(reason=NONE_FOUND)


def _clean(reply: str) -> str:
    """Return *reply* without a thought, with full-width digits, letters and brackets as plain ones."""
    text = _THOUGHT.sub("", reply)
    if "<think>" in text:  # a thought that does not end has no verdict after it
        text = text.partition("<think>")[0]
    return unicodedata.normalize("NFKC", text).replace("【", "[").replace("】", "]")


def _read_bracketed_scores(text: str, greatest: float) -> Iterator[float]:
    for inside in _BRACKETS.findall(text):
        of = re.fullmatch(rf"(?:{_SCORE_LABEL}\s*:?\s*)?({_NUMBER})\s*점?(?:\s*/\s*(\d+))?", inside, re.IGNORECASE)
        if of and (of[2] is None or float(of[2]) == greatest):
            yield float(of[1])


def _read_json_scores(text: str) -> Iterator[float]:
    for value in _read_json_values(text, _SCORE_KEYS):
        if not isinstance(value, bool) and re.fullmatch(_NUMBER, str(value).strip()):
            yield float(str(value))  # a whole number of a thousand digits is infinite then, and outside the scale


def _read_labelled_scores(text: str, greatest: float) -> Iterator[float]:
    for found in _LABELLED_SCORE.finditer(text):
        rest = re.match(r"\s*점?\s*/\s*(\d+)", text[found.end() :])
        spread = re.match(r"\s*점?\s*(?:~|-|에서)\s*\d", text[found.end() :])  # the scale itself: 점수(1~10)
        if spread is None and (rest is None or float(rest[1]) == greatest):
            yield float(found[1])


def _read_fractions(text: str, greatest: float) -> Iterator[float]:
    for value, of in _FRACTION.findall(text):
        if float(of) == greatest:
            yield float(value)
    for of, value in _OUT_OF.findall(text):
        if float(of) == greatest:
            yield float(value)


def _read_bracketed_choices(text: str) -> Iterator[Preference]:
    for inside in _BRACKETS.findall(text):
        if inside.lower() in _PREFERENCES:
            yield _PREFERENCES[inside.lower()]


def _read_json_choices(text: str) -> Iterator[Preference]:
    for value in _read_json_values(text, _WINNER_KEYS):
        if isinstance(value, str) and value.strip().lower() in _PREFERENCES:
            yield _PREFERENCES[value.strip().lower()]


def _read_labelled_choices(text: str) -> Iterator[Preference]:
    for found in _LABELLED_CHOICE.finditer(text):
        yield _PREFERENCES[found[1].lower()]


def _read_plain_ties(text: str) -> Iterator[Preference]:
    if _PLAIN_TIE.fullmatch(text.strip().strip(".*[]")):
        yield "tie"


def _read_json_values(text: str, keys: tuple[str, ...]) -> Iterator[Any]:
    for candidate in _JSON_OBJECT.findall(text):
        try:
            fields = json.loads(candidate)
        except (ValueError, RecursionError):  # a list can be nested as deeply as a reply is long
            continue
        yield from (value for key, value in fields.items() if key.lower() in keys)
