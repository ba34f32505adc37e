"""ROUGE, METEOR and their tokenizers on Korean: figures worked out by hand or by another library, and refusals."""

from __future__ import annotations

import builtins
import time
import unicodedata
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from korouge_score import rouge_scorer

from bitnet_bench.errors import BenchError
from bitnet_bench.metrics import load_metric
from bitnet_bench.metrics.tokenizers import load_metric_tokenizer
from bitnet_bench.runs.records import Example

Make = Callable[..., Example]
OUTPUT = "한국은행이 기준금리를 3.5%로 동결했다."
REFERENCE = "한국은행은 기준금리를 3.5%로 동결했다고 밝혔다."
NAMES = ("rouge_1", "rouge_2", "rouge_l")
WORDS = st.lists(st.sampled_from(["오늘", "날씨가", "맑아서", "공원에", "갔다", "비가"]), min_size=1, max_size=12)


@pytest.mark.parametrize(
    ("tokens", "wanted"),
    [
        ("space", (0.444, 0.286, 0.444)),
        ("syllable", (0.864, 0.810, 0.864)),
        ("mecab", (0.867, 0.714, 0.867)),
        ("kiwi", (0.828, 0.741, 0.828)),
    ],
)
def test_rouge_by_tokenizer(tokens: str, wanted: tuple[float, ...], generated: Make) -> None:
    """One pair of sentences under four tokenizers."""
    scored = [load_metric(f"{name}:{tokens}").score_example(generated(OUTPUT, REFERENCE)) for name in NAMES]
    assert scored == pytest.approx(wanted, abs=0.0006)


@settings(deadline=None, max_examples=60)
@given(WORDS, WORDS)
def test_rouge_over_words_is_that_of_korouge_score(output: list[str], reference: list[str]) -> None:
    """On words parted by white space, where both split alike."""
    example = Example(
        task="t",
        doc_id=0,
        prompt="",
        target="",
        references=(" ".join(reference),),
        output=" ".join(output),
        correct=0.0,
    )
    theirs = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"]).score(example.references[0], example.output)
    scored = [load_metric(f"{name}:space").score_example(example) for name in NAMES]
    assert scored == pytest.approx([theirs[kind].fmeasure for kind in ("rouge1", "rouge2", "rougeL")])


def test_rouge_lsum_joins_the_lines_of_a_summary(generated: Make) -> None:
    """Lines in another order lose nothing in rouge_lsum, and do in rouge_l."""
    swapped = generated("비가 왔다\n날이 맑다", "날이 맑다\n비가 왔다")
    assert load_metric("rouge_lsum:space").score_example(swapped) == 1.0
    assert load_metric("rouge_l:space").score_example(swapped) == 0.5


def test_meteor_without_synonyms(generated: Make) -> None:
    """Three of four words match in one chunk: F = PR / (.9 P + .1 R), penalty .5 (1/3)^3."""
    scored = load_metric("meteor:space").score_example(generated("나는 밥을 먹었다 또", "나는 밥을 먹었다 어제"))
    assert scored == pytest.approx(0.75 * (1 - 0.5 * (1 / 3) ** 3))
    assert load_metric("meteor").score_example(generated("", REFERENCE)) == 0.0
    assert "synonyms:no" in load_metric("meteor").signature()


@pytest.mark.parametrize("name", [*NAMES, "rouge_lsum", "meteor", "bleu", "chrf"])
def test_composed_and_decomposed_hangul_are_one_text(name: str, generated: Make) -> None:
    """NFD against NFC of the same text is a full match (left as it is: ROUGE 0)."""
    assert load_metric(name).score_example(generated(unicodedata.normalize("NFD", REFERENCE), REFERENCE)) > 0.99


@pytest.mark.parametrize("name", [*NAMES, "rouge_lsum", "meteor", "bleu", "chrf", "char_f1", "klue_rouge_w:corrected"])
@pytest.mark.parametrize("output", ["", " \n\t", "!?.,", "가" * 100_000, "\u0000\ufeff", "🙂" * 50])
def test_odd_output_is_scored_in_time(name: str, output: str, generated: Make) -> None:
    """Nothing, white space, marks, 100,000 characters: a figure below a full match, within seconds."""
    begun = time.process_time()
    assert 0.0 <= load_metric(name).score_example(generated(output, REFERENCE)) < 0.2
    assert time.process_time() - begun < 30.0


@pytest.mark.parametrize("key", ["rouge_l:rouge_score", "meteor:rouge_score"])
def test_a_tokenizer_that_drops_hangul_is_refused(key: str) -> None:
    """rouge_score's own keeps [a-z0-9] only, which makes a Korean score 0 or a false 100."""
    with pytest.raises(BenchError, match="drops Hangul"):
        load_metric(key)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("rouge_l:words", "no tokenizer 'words'"),
        ("bleu:words", "no tokenizer 'words'"),
        ("bleurt", "no metric 'bleurt'"),
        ("accuracy:3", "takes no argument"),
        ("f1:positive", "names no class"),
        ("klue_rouge_w:fixed", "no variant 'fixed'"),
    ],
)
def test_an_unknown_name_is_refused(key: str, says: str) -> None:
    """The error says what there is."""
    with pytest.raises(BenchError, match=says):
        load_metric(key)


def test_a_missing_tokenizer_names_its_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without kiwipiepy the error gives the pip command."""
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "kiwipiepy":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    load_metric_tokenizer.cache_clear()
    with pytest.raises(BenchError, match="kiwipiepy") as error:
        load_metric_tokenizer("kiwi")
    assert "pip install 'bitnet-bench[kiwi]'" in str(error.value)


def test_bleu_has_its_precisions_as_parts(generated: Make) -> None:
    """One precision for each n-gram order, and the brevity penalty."""
    parts = load_metric("bleu").parts([generated(REFERENCE, REFERENCE)])  # type: ignore[attr-defined]
    assert parts == {"1-gram": 100.0, "2-gram": 100.0, "3-gram": 100.0, "4-gram": 100.0, "brevity_penalty": 100.0}
