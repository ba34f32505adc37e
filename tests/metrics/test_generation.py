"""ROUGE-L, BLEU and chrF++ on the sentence pair that was measured, and their standard errors.

The golden values are those of facts-evaluation.md, made with rouge_score 0.1.2 and sacrebleu 2.6.0 with mecab-ko.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bitnet_bench.metrics import load_metric
from bitnet_bench.runs.records import Example
from bitnet_bench.statistics import bootstrap_counts

Make = Callable[..., Example]
OUTPUT = "한국은행이 기준금리를 3.5%로 동결했다."
REFERENCE = "한국은행은 기준금리를 3.5%로 동결했다고 밝혔다."
GOLDEN = {"rouge_l": (86.7, 0.05), "bleu": (64.32, 0.005), "chrf": (57.25, 0.005)}
WORDS = ["오늘", "날씨가", "맑아서", "친구와", "함께", "공원에", "갔다", "내일은", "비가", "온다고", "한다"]


def corpus(generated: Make, n: int) -> list[Example]:
    """Return *n* examples whose outputs have some of their reference's words."""
    rng = np.random.default_rng(0)
    examples = []
    for _ in range(n):
        reference = [WORDS[i] for i in rng.integers(0, len(WORDS), 9)]
        output = [word if rng.random() < 0.6 else WORDS[rng.integers(0, len(WORDS))] for word in reference]
        examples.append(generated(" ".join(output), " ".join(reference)))
    return examples


@pytest.mark.parametrize("name", GOLDEN)
def test_the_golden_pair(name: str, generated: Make) -> None:
    """The pair of sentences has the value in the table."""
    expected, tolerance = GOLDEN[name]
    assert load_metric(name).value([generated(OUTPUT, REFERENCE)]) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize("name", GOLDEN)
def test_one_example_is_a_share(name: str, generated: Make) -> None:
    """of_one lies in 0..1 and is the value of a corpus of one where that is defined."""
    found = load_metric(name)
    share = found.score_example(generated(OUTPUT, REFERENCE))
    assert share == pytest.approx(found.value([generated(OUTPUT, REFERENCE)]) / 100)
    assert found.score_example(generated(REFERENCE, REFERENCE)) == pytest.approx(1.0)


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("output", ["", " ", "?"])
def test_an_empty_output_scores_nothing(name: str, output: str, generated: Make) -> None:
    """An output without words is 0, alone and in a corpus: no division by zero."""
    found = load_metric(name)
    assert found.score_example(generated(output, "한국의 수도는 서울이다")) == 0.0
    assert found.value([generated(output, "한국의 수도는 서울이다")]) == 0.0
    assert found.value([generated(output, REFERENCE), generated(REFERENCE, REFERENCE)]) > 0.0


@pytest.mark.parametrize("name", GOLDEN)
def test_the_best_of_several_references_counts(name: str, generated: Make) -> None:
    """A second reference that equals the output gives 100, wherever it stands; rows may have fewer references."""
    for references in ((REFERENCE, OUTPUT), (OUTPUT, REFERENCE)):
        assert load_metric(name).value([generated(OUTPUT, *references)]) == pytest.approx(100.0)
    mixed = [generated(OUTPUT, REFERENCE, OUTPUT), generated(REFERENCE, REFERENCE)]
    assert load_metric(name).value(mixed) == pytest.approx(100.0)


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_a_repeated_reference_changes_nothing(name: str, generated: Make) -> None:
    """A row with fewer references than others scores as if it stood alone."""
    once, twice = generated(OUTPUT, REFERENCE), generated(OUTPUT, REFERENCE, REFERENCE)
    assert load_metric(name).value([twice]) == pytest.approx(load_metric(name).value([once]))


def test_rouge_is_a_mean_over_examples(generated: Make) -> None:
    """The value is the mean over examples and the standard error that of a mean."""
    examples = corpus(generated, 20)
    shares = [load_metric("rouge_l").score_example(example) for example in examples]
    assert load_metric("rouge_l").value(examples) == pytest.approx(100 * np.mean(shares))
    assert load_metric("rouge_l").stderr(examples) == pytest.approx(100 * np.std(shares, ddof=1) / np.sqrt(20))


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_a_corpus_metric_is_resampled_over_examples(name: str, generated: Make) -> None:
    """The standard error is that of the corpus score over the same resampled examples, scored anew."""
    examples = corpus(generated, 12)
    found = load_metric(name)
    naive = [
        found.value([examples[i] for i in drawn])
        for drawn in (
            np.repeat(range(12), counts.astype(int)) for counts in np.concatenate(list(bootstrap_counts(12, 150)))
        )
    ]
    assert found.stderr(examples) == pytest.approx(np.std(naive, ddof=1), rel=0.2)


@pytest.mark.parametrize("name", ["bleu", "chrf", "rouge_l"])
def test_one_text_has_no_standard_error(name: str, generated: Make) -> None:
    """A single example gives no standard error, rather than 0."""
    assert load_metric(name).stderr([generated(OUTPUT, REFERENCE)]) is None


def test_signatures_say_the_tokenizer() -> None:
    """BLEU and ROUGE name mecab-ko and its version; chrF++ names its word order through sacrebleu."""
    assert "tok:mecab-ko" in load_metric("rouge_l").signature()
    assert "tok:ko-mecab" in load_metric("bleu").signature()
    assert "nw:2" in load_metric("chrf").signature()
    assert all("norm:nfc" in load_metric(name).signature() for name in GOLDEN)
