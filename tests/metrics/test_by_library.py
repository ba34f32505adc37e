"""Metrics against the library that defines each: scikit-learn, scipy, seqeval, sacrebleu, nltk, lm-eval."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.metrics import bits_per_byte, weighted_perplexity
from scipy.special import softmax
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.scheme import IOB2
from sklearn.metrics import auc, f1_score, precision_recall_curve, precision_score, recall_score

from bitnet_bench.metrics import load_metric
from bitnet_bench.runs.records import Example
from bitnet_bench.statistics import bootstrap_counts

Make = Callable[..., Example]
LABELS = 4
PAIRS = st.lists(st.tuples(st.integers(0, LABELS - 1), st.integers(0, LABELS - 1)), min_size=1, max_size=30)
GRADES = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=25)
TAGS = st.lists(st.sampled_from(["O", "B-PS", "I-PS", "B-LC", "I-LC"]), min_size=1, max_size=10)


def choosing(chosen: Make, pairs: list[tuple[int, int]]) -> tuple[list[Example], list[int], list[int]]:
    targets, outputs = (list(side) for side in zip(*pairs, strict=True))
    return [chosen(target, output, LABELS) for target, output in pairs], targets, outputs


@settings(deadline=None, max_examples=40)
@given(pairs=PAIRS)
def test_averages_over_labels_are_scikit_learns(pairs: list[tuple[int, int]], chosen: Make) -> None:
    """Micro-F1, weighted F1, macro precision and macro recall, over the labels that occur on either side."""
    examples, targets, outputs = choosing(chosen, pairs)
    expected = {
        "micro_f1": f1_score(targets, outputs, average="micro"),
        "weighted_f1": f1_score(targets, outputs, average="weighted", zero_division=0.0),
        "macro_precision": precision_score(targets, outputs, average="macro", zero_division=0.0),
        "macro_recall": recall_score(targets, outputs, average="macro", zero_division=0.0),
    }
    for key, wanted in expected.items():
        assert load_metric(key).value(examples) == pytest.approx(100 * wanted), key


@settings(deadline=None, max_examples=30)
@given(pairs=PAIRS)
def test_f1_of_each_label_is_scikit_learns(pairs: list[tuple[int, int]], chosen: Make) -> None:
    """As parts of macro-F1, and as the metric `f1:LABEL`; `f1` alone is that of label 1."""
    examples, targets, outputs = choosing(chosen, pairs)
    expected = (100 * f1_score(targets, outputs, labels=range(LABELS), average=None, zero_division=0.0)).tolist()
    assert load_metric("macro_f1").parts(examples) == pytest.approx(
        dict(zip(examples[0].choices, expected, strict=True))
    )
    assert [load_metric(f"f1:{label}").value(examples) for label in range(LABELS)] == pytest.approx(expected)
    assert load_metric("f1").value(examples) == pytest.approx(expected[1])


@settings(deadline=None, max_examples=30)
@given(pairs=PAIRS)
def test_relation_f1_is_scikit_learns_without_label_0(pairs: list[tuple[int, int]], chosen: Make) -> None:
    """KLUE-RE leaves no_relation out of the micro average; it still makes a relation wrong."""
    examples, targets, outputs = choosing(chosen, pairs)
    expected = f1_score(targets, outputs, labels=range(1, LABELS), average="micro", zero_division=0.0)
    assert load_metric("re_micro_f1").value(examples) == pytest.approx(100 * expected)


def scored(chosen: Make, seed: int, n: int, ties: bool) -> list[Example]:
    """Return *n* examples with random log-likelihoods of the choices, of which many are equal if *ties*."""
    rng = np.random.default_rng(seed)
    logs = rng.integers(-2, 1, (n, LABELS)).astype(float) if ties else rng.normal(-2, 2, (n, LABELS))
    return [
        chosen(int(rng.integers(LABELS)), int(row.argmax()), LABELS, loglikelihoods=tuple(row.tolist())) for row in logs
    ]


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize(("seed", "n"), [(0, 2), (1, 3), (2, 8), (3, 40), (4, 41)])
def test_areas_are_scikit_learns(seed: int, n: int, ties: bool, chosen: Make) -> None:
    """The mean, and the part of each label, of the areas under precision_recall_curve of the softmax of the scores."""
    examples = scored(chosen, seed, n, ties)
    logits = np.array([example.loglikelihoods for example in examples])
    shares = softmax(logits, axis=1)
    areas = []
    for label in range(LABELS):
        positive = [example.target_choice == label for example in examples]
        if any(positive):
            precision, recall, _ = precision_recall_curve(positive, shares[:, label])
            areas.append(100 * auc(recall, precision))
        else:
            areas.append(50.0)  # scikit-learn warns, and draws a line from (0, 1) to (1, 0)
    metric = load_metric("re_auprc")
    assert metric.parts(examples) == pytest.approx(dict(zip(examples[0].choices, areas, strict=True)))
    assert metric.value(examples) == pytest.approx(np.mean(areas))


@settings(deadline=None, max_examples=40)
@given(grades=GRADES)
def test_correlations_are_scipys(grades: list[tuple[int, int]], chosen: Make) -> None:
    """Pearson's r and Spearman's rho of grades with many ties; 0 where scipy says that there is none."""
    examples = [chosen(0, 0, target_value=float(gold), output_value=given + 0.25) for gold, given in grades]
    gold, given_grades = (np.array(side, dtype=float) for side in zip(*grades, strict=True))
    constant = len(set(gold)) == 1 or len(set(given_grades)) == 1
    for key, theirs in (("pearson", pearsonr), ("spearman", spearmanr)):
        wanted = 0.0 if constant else 100 * float(theirs(gold, given_grades).statistic)
        assert load_metric(key).value(examples) == pytest.approx(wanted, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(grades=GRADES)
def test_similar_from_grade_3_on(grades: list[tuple[int, int]], chosen: Make) -> None:
    """F1 of both grades cut at 3, where 3 itself is similar, as scikit-learn counts it."""
    examples = [chosen(0, 0, target_value=float(gold), output_value=float(given)) for gold, given in grades]
    wanted = f1_score([gold >= 3 for gold, _ in grades], [given >= 3 for _, given in grades], zero_division=0.0)
    assert load_metric("f1_at_3").value(examples) == pytest.approx(100 * wanted)
    assert [load_metric("f1_at_3").score_example(example) for example in examples] == [
        float((gold >= 3) == (given >= 3)) for gold, given in grades
    ]


def tagged(gold: list[str], given_tags: list[str]) -> Example:
    return Example(
        task="t", doc_id=0, prompt="", target="", output="", correct=0.0,
        target_labels=tuple(gold), output_labels=tuple(given_tags),
    )  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(sides=st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=6))
def test_entity_f1_is_seqevals(sides: list[tuple[list[str], list[str]]]) -> None:
    """Macro-F1 over entity types of IOB2 tags, strict, over all sentences."""
    pairs = [(gold[: len(given)], given[: len(gold)]) for gold, given in sides]
    golds, givens = [gold for gold, _ in pairs], [given for _, given in pairs]
    kept = any(tag.startswith("B-") for side in (golds, givens) for tags in side for tag in tags)
    wanted = 0.0
    if kept:
        wanted = seqeval_f1(golds, givens, average="macro", mode="strict", scheme=IOB2, zero_division=0)
    assert load_metric("entity_f1").value([tagged(*pair) for pair in pairs]) == pytest.approx(100 * wanted)


@settings(deadline=None, max_examples=30)
@given(sides=st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=5))
def test_character_f1_is_scikit_learns_over_13_tags(sides: list[tuple[list[str], list[str]]]) -> None:
    """A tag that is on neither side counts as 1, as in KLUE-baseline (zero_division=True)."""
    pairs = [(gold[: len(given)], given[: len(gold)]) for gold, given in sides]
    gold, given_tags = ([tag for pair in pairs for tag in pair[side]] for side in (0, 1))
    kinds = ("PS", "LC", "OG", "DT", "TI", "QT")
    tags = [f"{place}-{kind}" for kind in kinds for place in "BI"] + ["O"]
    wanted = f1_score(gold, given_tags, labels=tags, average="macro", zero_division=1.0)
    assert load_metric("character_macro_f1").value([tagged(*pair) for pair in pairs]) == pytest.approx(100 * wanted)


WORDS = st.lists(st.tuples(st.integers(0, 4), st.sampled_from(["NP", "VP", "VP_SBJ", "X_AJT"])), min_size=2, max_size=8)


@settings(deadline=None, max_examples=40)
@given(gold=WORDS, given_words=WORDS)
def test_attachment_scores_are_scikit_learns(gold: list[tuple[int, str]], given_words: list[tuple[int, str]]) -> None:
    """UAS is macro-F1 over heads, LAS over relations with a class for wrong heads; accuracies are shares."""
    pairs = list(zip(gold, given_words, strict=False))
    example = tagged(*([f"{head} {relation}" for head, relation in side] for side in zip(*pairs, strict=True)))
    heads = [[str(word[0]) for word in side] for side in zip(*pairs, strict=True)]
    merged = [[word[1] if word[1] != "X_AJT" else "other" for word in side] for side in zip(*pairs, strict=True)]
    voided = [
        relation if a == b else "wrong head" for relation, a, b in zip(merged[1], heads[0], heads[1], strict=True)
    ]
    values = {key: load_metric(key).value([example]) for key in ("uas", "las", "uas_accuracy", "las_accuracy")}
    assert values == pytest.approx(
        {
            "uas": 100 * f1_score(*heads, average="macro", zero_division=0.0),
            "las": 100 * f1_score(merged[0], voided, average="macro", zero_division=0.0),
            "uas_accuracy": 100 * np.mean([a[0] == b[0] for a, b in pairs]),
            "las_accuracy": 100 * np.mean([a == b for a, b in pairs]),
        }
    )
    assert load_metric("uas").score_example(example) == pytest.approx(values["uas_accuracy"] / 100)


TEXTS = st.lists(
    st.sampled_from(["오늘은", "날씨가", "맑다.", "비가", "온다", "3.5%", "BOK", "공원에"]), min_size=1, max_size=12
).map(" ".join)


@settings(deadline=None, max_examples=25)
@given(rows=st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=5))
def test_corpus_scores_are_sacrebleus(rows: list[tuple[str, str, str]], generated: Make) -> None:
    """BLEU by mecab-ko, by 13a, and chrF++ of a corpus with two references a row."""
    examples = [generated(*row) for row in rows]
    outputs, first, second = (list(column) for column in zip(*rows, strict=True))
    wanted = {
        "bleu": sacrebleu.corpus_bleu(outputs, [first, second], tokenize="ko-mecab"),
        "bleu:13a": sacrebleu.corpus_bleu(outputs, [first, second], tokenize="13a"),
        "chrf": sacrebleu.corpus_chrf(outputs, [first, second], word_order=2),
    }
    for key, theirs in wanted.items():
        assert load_metric(key).value(examples) == pytest.approx(theirs.score), key
    parts = load_metric("bleu").parts(examples)
    assert [parts[f"{n}-gram"] for n in (1, 2, 3, 4)] == pytest.approx(wanted["bleu"].precisions)
    assert parts["brevity_penalty"] == pytest.approx(100 * wanted["bleu"].bp)
    for example, (output, *references) in zip(examples, rows, strict=True):
        sentence = sacrebleu.sentence_bleu(output, references, tokenize="ko-mecab", use_effective_order=True)
        assert load_metric("bleu").score_example(example) == pytest.approx(sentence.score / 100)


@pytest.mark.parametrize("tokens", ["space", "syllable", "mecab"])
@settings(deadline=None, max_examples=20)
@given(output=TEXTS, references=st.lists(TEXTS, min_size=1, max_size=3))
def test_meteor_is_nltks(tokens: str, output: str, references: list[str], generated: Make) -> None:
    """Over our tokens, with no stemmer and no synonyms: the best over the references."""
    from nltk.translate.meteor_score import single_meteor_score

    from bitnet_bench.metrics.tokenizers import load_metric_tokenizer

    class Nothing:
        def stem(self, word: str) -> str:
            return word

        def synsets(self, word: str) -> list[Any]:
            return []

    split = load_metric_tokenizer(tokens).tokenize
    theirs = [
        single_meteor_score(split(one), split(output), stemmer=Nothing(), wordnet=Nothing()) for one in references
    ]
    metric = load_metric(f"meteor:{tokens}")
    assert metric.score_example(generated(output, *references)) == pytest.approx(max(theirs))


@settings(deadline=None, max_examples=50)
@given(texts=st.lists(st.tuples(st.text("가나a🙂", min_size=1), st.floats(-200, -0.1)), min_size=1, max_size=8))
def test_bits_per_byte_is_lm_evals(texts: list[tuple[str, float]], generated: Make) -> None:
    """Nats over UTF-8 bytes, of all texts together; byte perplexity is 2 to that."""
    examples = [generated("", text).model_copy(update={"loglikelihoods": (nats,)}) for text, nats in texts]
    pairs = [(nats, len(text.encode())) for text, nats in texts]
    assert load_metric("bits_per_byte").value(examples) == pytest.approx(bits_per_byte(pairs))
    assert load_metric("byte_perplexity").value(examples) == pytest.approx(weighted_perplexity(pairs))
    assert load_metric("byte_perplexity").value(examples) == pytest.approx(2 ** bits_per_byte(pairs))


def test_a_byte_by_hand(generated: Make) -> None:
    """가 is three bytes: -6 nats are 2 nats or 2 / ln 2 bits a byte, and a byte has the probability e^-2."""
    example = generated("", "가").model_copy(update={"loglikelihoods": (-6.0,)})
    assert load_metric("bits_per_byte").value([example]) == pytest.approx(2 / math.log(2))
    assert load_metric("byte_perplexity").value([example]) == pytest.approx(math.e**2)
    assert load_metric("bits_per_byte").score_example(example) == pytest.approx(math.e**-2)
    empty = generated("", "").model_copy(update={"loglikelihoods": (-3.0,)})
    assert load_metric("byte_perplexity").value([empty]) == pytest.approx(math.e**3)
    sure = generated("", "가").model_copy(update={"loglikelihoods": (1e-7,)})  # rounding above certainty
    assert load_metric("bits_per_byte").score_example(sure) == 1.0


def resampled(key: str, examples: list[Example], resamples: int = 1000) -> float:
    """Return the deviation of the value over the draws that the signature names, each scored from its examples."""
    n = len(examples)
    metric = load_metric(key)
    values = [
        metric.value([examples[i] for i in np.repeat(range(n), counts.astype(int))])
        for counts in np.concatenate(list(bootstrap_counts(n, resamples)))
    ]
    return float(np.std(values, ddof=1))


@pytest.mark.parametrize("key", ["entity_f1", "character_macro_f1", "uas", "las", "uas_accuracy", "las_accuracy"])
def test_standard_errors_over_labels_are_exactly_those_of_the_draws(key: str) -> None:
    """1,000 draws of default_rng(1234), each scored from its examples, and their deviation over 999."""
    kinds = ["B-PS", "I-PS", "O", "B-LC"] if "f1" in key else ["1 NP", "2 VP", "0 VP", "1 X"]
    rng = np.random.default_rng(3)
    examples = [tagged(rng.choice(kinds, 5).tolist(), rng.choice(kinds, 5).tolist()) for _ in range(6)]
    assert load_metric(key).stderr(examples) == pytest.approx(resampled(key, examples), rel=1e-9)
    assert load_metric(key).stderr(examples[:1]) is None
    assert load_metric(key).stderr(examples[:2]) is not None


@pytest.mark.parametrize(("key", "resamples"), [("pearson", 1000), ("spearman", 1000), ("re_auprc", 100)])
def test_standard_errors_of_orders_are_exactly_those_of_the_draws(key: str, resamples: int, chosen: Make) -> None:
    """The same for correlations, and for areas, which take 100 draws."""
    rng = np.random.default_rng(5)
    examples = [
        example.model_copy(update={"target_value": float(rng.integers(6)), "output_value": float(rng.integers(6))})
        for example in scored(chosen, 5, 9, ties=True)
    ]
    assert load_metric(key).stderr(examples) == pytest.approx(resampled(key, examples, resamples), rel=1e-9)
    assert load_metric(key).stderr(examples[:1]) is None
    assert load_metric(key).stderr(examples[:2]) is not None


@pytest.mark.parametrize("key", ["bleu", "chrf", "bits_per_byte", "byte_perplexity"])
def test_standard_errors_over_a_corpus_are_exactly_those_of_the_draws(key: str, generated: Make) -> None:
    """The same for sums over texts."""
    texts = ["오늘은 날씨가 맑다.", "비가 온다", "공원에 갔다", "한국은행이 금리를 올렸다", "날씨가 맑다"]
    examples = [
        generated(texts[i], texts[(i * 3) % 5]).model_copy(update={"loglikelihoods": (-3.0 - i,)}) for i in range(5)
    ]
    assert load_metric(key).stderr(examples) == pytest.approx(resampled(key, examples), rel=1e-9)
    assert load_metric(key).stderr(examples[:1]) is None


def test_the_standard_error_of_a_table_is_exactly_that_of_its_draws(chosen: Make) -> None:
    """1,000 multinomial draws of default_rng(1234), and the mean F1 of the labels that each has."""
    pairs = [(0, 0), (0, 1), (1, 1), (2, 2), (2, 0), (1, 1), (3, 2), (0, 0)]
    examples, _, _ = choosing(chosen, pairs)
    table = np.zeros((LABELS, LABELS))
    np.add.at(table, tuple(np.array(pairs).T), 1)
    rng = np.random.default_rng(1234)
    values = []
    for _ in range(1000):
        drawn = rng.multinomial(8, table.ravel() / 8).reshape(LABELS, LABELS)
        involved = [drawn[k].sum() + drawn[:, k].sum() for k in range(LABELS)]
        values.append(100 * np.mean([2 * drawn[k, k] / involved[k] for k in range(LABELS) if involved[k]]))
    assert load_metric("macro_f1").stderr(examples) == pytest.approx(float(np.std(values, ddof=1)), rel=1e-9)
