"""Metrics by hand: what a signature says in full, refusals, edges of one row."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.metrics import load_metric
from bitnet_bench.metrics.sums import count_label_hits, f1_from_counts
from bitnet_bench.metrics.tokenizers import load_metric_tokenizer
from bitnet_bench.runs.records import Example

Make = Callable[..., Example]
DRAWN = "stderr:bootstrap-1000-seed1234|v1"
SIGNATURES = {
    "accuracy": "accuracy|choice:argmax-loglikelihood|stderr:mean|v1",
    "accuracy_norm": "accuracy_norm|choice:argmax-loglikelihood-per-character|stderr:mean|v1",
    "macro_f1": f"macro_f1|choice:argmax-loglikelihood|{DRAWN}",
    "micro_f1": f"micro_f1|choice:argmax-loglikelihood|{DRAWN}",
    "weighted_f1": f"weighted_f1|choice:argmax-loglikelihood|{DRAWN}",
    "macro_precision": f"macro_precision|choice:argmax-loglikelihood|{DRAWN}",
    "macro_recall": f"macro_recall|choice:argmax-loglikelihood|{DRAWN}",
    "f1": f"f1:1|choice:argmax-loglikelihood|{DRAWN}",
    "f1:0": f"f1:0|choice:argmax-loglikelihood|{DRAWN}",
    "pearson": f"pearson|grade:expected-value|constant:0|{DRAWN}",
    "spearman": f"spearman|grade:expected-value|constant:0|{DRAWN}",
    "f1_at_3": f"f1_at_3|choice:expected-value>=3|{DRAWN}",
    "entity_f1": f"entity_f1|scheme:iob2-strict|average:macro-over-types|{DRAWN}",
    "character_macro_f1": f"character_macro_f1|labels:13|absent:1|{DRAWN}",
    "re_micro_f1": f"re_micro_f1|choice:argmax-loglikelihood|{DRAWN}",
    "re_auprc": "re_auprc|score:softmax|average:macro-over-labels|stderr:bootstrap-100-seed1234|v1",
    "uas": f"uas|average:macro-over-heads|{DRAWN}",
    "las": f"las|average:macro-over-relations|other:from-15|wrong-head:class|{DRAWN}",
    "uas_accuracy": f"uas_accuracy|over:words|{DRAWN}",
    "las_accuracy": f"las_accuracy|over:words|{DRAWN}",
    "klue_exact_match": "klue_exact_match|norm:klue-mrc-official+nfc|refs:max|stderr:mean|v1",
    "klue_exact_match:corrected": "klue_exact_match|norm:klue-mrc-corrected+nfc|refs:max|stderr:mean|v1",
    "klue_rouge_w": "klue_rouge_w|norm:klue-mrc-official+nfc|refs:max|stderr:mean|v1",
    "joint_goal_accuracy": "joint_goal_accuracy|state:set|stderr:mean|v1",
    "slot_f1": "slot_f1|average:mean-over-turns|stderr:mean|v1",
    "exact_match": "exact_match|norm:korquad1+nfc|refs:max|stderr:mean|v1",
    "char_f1": "char_f1|norm:korquad1+nfc|refs:max|stderr:mean|v1",
    "rouge_1:space": "rouge1|tok:space|norm:nfc|refs:max|stderr:mean|v1",
    "rouge_2:syllable": "rouge2|tok:syllable|norm:nfc|refs:max|stderr:mean|v1",
    "rouge_l": f"rougeL|tok:mecab-ko-{version('mecab-ko')}|norm:nfc|refs:max|stderr:mean|v1",
    "rouge_lsum:kiwi": f"rougeLsum|tok:kiwi-{version('kiwipiepy')}|norm:nfc|refs:max|stderr:mean|v1",
    "meteor": f"meteor|nltk:{version('nltk')}|synonyms:no|tok:mecab-ko-{version('mecab-ko')}|norm:nfc|refs:max"
    "|stderr:mean|v1",
    "bits_per_byte": f"bits_per_byte|unit:utf8-byte|lower-is-better|{DRAWN}",
    "byte_perplexity": f"byte_perplexity|unit:utf8-byte|lower-is-better|{DRAWN}",
}
"""Signatures in full: a stored figure is compared with another only where they are equal, so none may change unseen."""


@pytest.mark.parametrize("key", SIGNATURES)
def test_a_signature_is_what_it_was(key: str) -> None:
    """Word by word: what changes a signature changes the version in it too."""
    assert load_metric(key).signature() == SIGNATURES[key]


@pytest.mark.parametrize("key", ["bleu", "bleu:13a", "chrf"])
def test_a_corpus_signature_is_the_same_before_and_after_scoring(key: str, generated: Make) -> None:
    """sacrebleu's own stands inside; it says how many references there were, and 1 until something was scored."""
    metric = load_metric(key)
    before = metric.signature()
    metric.value([generated("오늘", "오늘")])
    assert metric.signature() == before
    assert "nrefs:1" in before
    assert before.endswith("|norm:nfc|v1")
    assert f"version:{version('sacrebleu')}" in before
    metric.value([generated("오늘", "오늘", "내일")])
    assert "nrefs:2" in metric.signature()


@pytest.mark.parametrize(
    ("key", "problem", "hint"),
    [
        ("f2", "There is no metric 'f2'.", "There are: accuracy, accuracy_norm, bits_per_byte, bleu, "),
        ("accuracy:3", "The metric 'accuracy' takes no argument, and 'accuracy:3' gives it one.", "Write 'accuracy'."),
        ("f1:one", "'f1:one' names no class by its index.", "Write f1:0, f1:1 and so on."),
        ("klue_exact_match:fixed", "klue_exact_match has no variant 'fixed'.", "Write official or corrected."),
        ("bleu:words", "sacrebleu has no tokenizer 'words'.", "It has: none, zh, 13a, "),
        ("rouge_l:words", "There is no tokenizer 'words'.", "There are: mecab, kiwi, syllable, space, rouge_score."),
        ("bleu:none:more", "sacrebleu has no tokenizer 'none:more'.", "It has: "),
    ],
)
def test_a_refusal_says_what_there_is(key: str, problem: str, hint: str) -> None:
    """What is wrong, in the words that were given, then what can be written."""
    with pytest.raises(BenchError) as caught:
        load_metric(key)
    assert caught.value.problem == problem
    assert caught.value.hint.startswith(hint)


def test_a_metric_of_choices_refuses_a_generating_task(generated: Make) -> None:
    """It names the metric and the task; half an answer is no choice either."""
    with pytest.raises(BenchError, match="macro_f1 is for tasks that choose, and t generates") as caught:
        load_metric("macro_f1").value([generated("오늘", "오늘")])
    assert caught.value.hint == "Take another metric."
    for half in ({"target_choice": 0}, {"output_choice": 0}):
        with pytest.raises(BenchError, match="tasks that choose"):
            load_metric("micro_f1").score_example(generated("오늘", "오늘").model_copy(update=half))


def test_a_class_beyond_the_choices_is_refused(chosen: Make) -> None:
    """f1:2 of two choices asks for a third; f1:1 does not."""
    with pytest.raises(BenchError, match="f1:2 asks for class 2 of 2") as caught:
        load_metric("f1:2").value([chosen(0, 0)])
    assert caught.value.hint == "Count from 0."
    assert load_metric("f1:1").value([chosen(1, 1)]) == 100.0


@pytest.mark.parametrize("half", [{"target_value": 1.0}, {"output_value": 1.0}])
def test_a_row_without_a_grade_is_refused(half: dict[str, float], chosen: Make) -> None:
    """One grade is no pair: the task is named."""
    with pytest.raises(BenchError, match="The rows of t have no grade to correlate") as caught:
        load_metric("pearson").value([chosen(0, 0, **half)])
    assert caught.value.hint == "Take another metric."


def test_a_tokenizer_that_drops_hangul_is_named() -> None:
    """With what would happen, and what to take."""
    with pytest.raises(BenchError) as caught:
        load_metric_tokenizer("rouge_score")
    assert "'rouge_score' drops Hangul" in caught.value.problem
    assert "mecab" in caught.value.hint


@pytest.mark.parametrize(("gold", "given_grade", "score"), [(3.0, 3.0, 1.0), (3.0, 2.0, 0.5), (1.0, 4.0, 0.25)])
def test_one_grade_is_scored_by_its_distance(gold: float, given_grade: float, score: float, chosen: Make) -> None:
    """1 / (1 + distance): one pair has no correlation."""
    example = chosen(0, 0, target_value=gold, output_value=given_grade)
    assert load_metric("pearson").score_example(example) == score
    assert load_metric("spearman").score_example(example) == score


@pytest.mark.parametrize("key", ["macro_f1", "re_auprc", "accuracy", "weighted_f1"])
def test_one_choice_is_right_or_wrong(key: str, chosen: Make) -> None:
    """Without a meaning for one row, a metric of a table gives it 1 or 0."""
    assert [load_metric(key).score_example(chosen(target, 1, 3)) for target in range(3)] == [0.0, 1.0, 0.0]


def test_choices_that_differ_by_row_have_no_parts(chosen: Make) -> None:
    """A position is no label that one could name."""
    rows = [chosen(0, 0, choices=("가", "나")), chosen(1, 1, choices=("다", "라"))]
    assert load_metric("macro_f1").parts(rows) == {}
    assert load_metric("macro_f1").parts(rows[:1] * 2) == {"가": 100.0, "나": 0.0}
    assert load_metric("accuracy").parts(rows) == {}


def test_a_perfect_and_an_inverse_correlation(chosen: Make) -> None:
    """100 and -100, whatever the unit and the offset, and not a bit more."""
    for factor, value in ((2e6, 100.0), (-0.001, -100.0)):
        rows = [chosen(0, 0, target_value=i / 3, output_value=1e5 + factor * i / 3) for i in range(7)]
        for key in ("pearson", "spearman"):
            assert load_metric(key).value(rows) == pytest.approx(value, abs=1e-6)
            assert abs(load_metric(key).value(rows)) <= 100.0


def test_a_constant_side_is_constant_up_to_rounding(chosen: Make) -> None:
    """The mean of six times 0.1 need not be 0.1, which makes no correlation; a spread of a thousandth does."""
    same = [chosen(0, 0, target_value=float(i), output_value=0.1) for i in range(6)]
    assert load_metric("pearson").value(same) == 0.0
    small = [chosen(0, 0, target_value=float(i), output_value=5 + 0.001 * i) for i in range(6)]
    assert load_metric("pearson").value(small) == pytest.approx(100.0)


def test_labels_outside_the_list_are_not_counted() -> None:
    """A hit needs both sides: one right 가, one 나 given for 가, and a 다 that no list has."""
    counts = count_label_hits([["가", "가", "다"]], [["가", "나", "다"]], ["가", "나"])
    assert counts.tolist() == [[[1, 0], [2 + 1, 1]]]
    with pytest.raises(ValueError, match="zip"):
        count_label_hits([["가"]], [["가", "나"]], ["가"])


@pytest.mark.parametrize("key", ["character_macro_f1", "uas", "las"])
def test_labels_that_are_not_aligned_are_no_score(key: str) -> None:
    """A share of two of three positions would be a share of nothing."""
    row = Example(
        task="t", doc_id=0, prompt="", target="", output="", correct=0.0,
        target_labels=("O", "O", "O"), output_labels=("O", "O"),
    )  # fmt: skip
    for score in (load_metric(key).score_example, lambda one: load_metric(key).value([one])):
        with pytest.raises(ValueError, match="zip"):
            score(row)


def test_f1_of_a_label_that_is_nowhere_is_what_is_asked() -> None:
    """2 hits / involved; 0 by default where nothing is involved."""
    hits, involved = np.array([1, 0, 0]), np.array([4, 3, 0])
    assert f1_from_counts(hits, involved).tolist() == [0.5, 0.0, 0.0]
    assert f1_from_counts(hits, involved, absent=1.0).tolist() == [0.5, 0.0, 1.0]


def test_slots_by_hand() -> None:
    """Two of three right and one wrong: F1 is 2 x hits / (given + gold)."""
    example = Example(
        task="t", doc_id=0, prompt="", target="", output="", correct=0.0,
        target_labels=("a-b-1", "a-c-2", "a-d-3"), output_labels=("a-b-1", "a-c-2", "a-e-9"),
    )  # fmt: skip
    assert load_metric("slot_f1").score_example(example) == pytest.approx(2 * 2 / (3 + 3))
    assert load_metric("joint_goal_accuracy").score_example(example) == 0.0


@pytest.mark.parametrize(
    ("output", "reference", "official", "corrected"),
    [
        ("가나다라", "나다", 2 * 2 / 6, 2 * 2 / 6),
        ("가나", "다라", 0.0, 0.0),
        ("", "", 1.0, 1.0),
        ("", "가", 0.0, 0.0),
        ("가", "", 0.0, 0.0),
        ("서울 시청", "서울시청", 2 * 2 / 9, 2 * 2 / 9),
        ("BTS", "bts", 1.0, 1.0),
        ("‘가’", "가", 2 / 4, 1.0),
    ],
)
def test_the_longest_common_substring_by_hand(
    output: str, reference: str, official: float, corrected: float, generated: Make
) -> None:
    """2 x its length over the lengths of both, after the normalisation of the variant."""
    example = generated(output, reference)
    assert load_metric("klue_rouge_w").score_example(example) == pytest.approx(official)
    assert load_metric("klue_rouge_w:corrected").score_example(example) == pytest.approx(corrected)


@pytest.mark.parametrize(
    ("tokens", "text", "split"),
    [
        ("space", "오늘은  날씨가\n맑다.", ["오늘은", "날씨가", "맑다."]),
        ("syllable", "오늘 ab\n", ["오", "늘", "a", "b"]),
        ("mecab", "한국은행이 금리를", ["한국은행", "이", "금리", "를"]),
        ("kiwi", "밥을 먹었다", ["밥", "을", "먹", "었", "다"]),
    ],
)
def test_tokens_by_hand(tokens: str, text: str, split: list[str]) -> None:
    """Words, syllables without white space, morphemes."""
    assert load_metric_tokenizer(tokens).tokenize(text) == split
