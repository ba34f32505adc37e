"""Exact match and character F1 against a plain transcription of KorQuAD 1.0's definition."""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_bench.metrics import load_metric
from bitnet_bench.runs.records import Example

Make = Callable[..., Example]
TEXT = st.text(st.sampled_from("가나다각a A1'\"《》<>〈〉()‘’.,%- \t\n"), max_size=12)


def naive_normalise(text: str) -> str:
    """Do what evaluate-v1.0.py does, one step at a time: signs to spaces, lower, punctuation out, spaces joined."""
    for sign in "'\"《》<>〈〉()‘’":
        text = text.replace(sign, " ")
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(text.split())


def naive_f1(output: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall over the bags of characters, spaces not counted."""
    ours = [character for word in naive_normalise(output).split() for character in word]
    theirs = [character for word in naive_normalise(reference).split() for character in word]
    same = sum((Counter(ours) & Counter(theirs)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


@settings(deadline=None, max_examples=150)
@given(output=TEXT, references=st.lists(TEXT.filter(bool), min_size=1, max_size=3))
def test_the_metrics_are_the_official_ones(output: str, references: list[str], generated: Make) -> None:
    """On any texts both metrics are the best over the references of the official definition."""
    example = generated(output, *references)
    exact = max(float(naive_normalise(output) == naive_normalise(r)) for r in references)
    assert load_metric("exact_match").score_example(example) == exact
    assert load_metric("char_f1").score_example(example) == pytest.approx(max(naive_f1(output, r) for r in references))


@pytest.mark.parametrize(
    ("output", "reference", "exact", "f1"),
    [
        ("《기생충》", "기생충", 1.0, 1.0),
        ("‘기생충’ (영화)", "기생충 영화", 1.0, 1.0),
        ("BTS", "bts", 1.0, 1.0),
        ("3.5%", "35", 1.0, 1.0),
        ("서울이", "서울", 0.0, 0.8),
        ("서울 시", "서울시", 0.0, 1.0),
        ("", "서울", 0.0, 0.0),
        ("부산", "서울", 0.0, 0.0),
    ],
)
def test_known_answers(output: str, reference: str, exact: float, f1: float, generated: Make) -> None:
    """Signs, case, particles and spaces weigh as the official script weighs them."""
    example = generated(output, reference)
    assert load_metric("exact_match").score_example(example) == exact
    assert load_metric("char_f1").score_example(example) == pytest.approx(f1)


def test_the_value_is_the_mean_with_its_standard_error(generated: Make) -> None:
    """Over two examples, one right and one wrong, both metrics are 50 +- 50."""
    examples = [generated("서울", "서울"), generated("부산", "서울")]
    for name in ("exact_match", "char_f1"):
        assert load_metric(name).value(examples) == 50.0
        assert load_metric(name).stderr(examples) == pytest.approx(50.0)


@pytest.mark.parametrize("name", ["exact_match", "char_f1", "rouge_l", "bleu", "chrf"])
def test_decomposed_and_composed_text_are_the_same(name: str, generated: Make) -> None:
    """NFD on either side scores as NFC on both."""
    output, reference = "한국은행이 기준금리를 3.5%로 동결했다.", "한국은행은 기준금리를 3.5%로 동결했다고 밝혔다."
    expected = load_metric(name).value([generated(output, reference)])
    for ours, theirs in (("NFD", "NFC"), ("NFC", "NFD"), ("NFD", "NFD")):
        example = generated(unicodedata.normalize(ours, output), unicodedata.normalize(theirs, reference))  # type: ignore[arg-type]
        assert load_metric(name).value([example]) == expected
        assert load_metric(name).score_example(example) == load_metric(name).score_example(generated(output, reference))


@pytest.mark.parametrize("name", ["exact_match", "char_f1", "rouge_l", "bleu", "chrf"])
def test_hangul_is_never_dropped(name: str, generated: Make) -> None:
    """Texts that agree in their digits and not in their Hangul score far from 100; in both, 100."""
    same = "대한민국의 수도 서울은 2026년 인구가 3명 늘었다."
    other = "작은 고양이가 지난해에 물고기를 2026마리나 3번 먹었어요?"
    assert load_metric(name).value([generated(same, same)]) == pytest.approx(100.0)
    assert load_metric(name).value([generated(other, same)]) < 45
    assert load_metric(name).value([generated("가나다 라마바", "사아자 차카타")]) < 15


def test_a_question_without_an_answer_wants_an_empty_output(generated: Make) -> None:
    """Its reference is "": character F1 is 1 for nothing at all and for marks that are not compared, else 0."""
    scored = [load_metric("char_f1").score_example(generated(output, "")) for output in ("", " ...", "서울")]
    assert scored == [1.0, 1.0, 0.0]
