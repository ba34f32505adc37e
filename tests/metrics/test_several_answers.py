"""Several answers to each row: pass@k, the vote, and the errors of any metric over all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations

import numpy as np
import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.metrics import load_metric
from bitnet_bench.metrics.several_answers import list_several_answer_metrics
from bitnet_bench.runs.records import Answer, Example
from bitnet_bench.statistics import bootstrap_counts


@pytest.fixture(scope="module")
def answered(generated: Callable[..., Example]) -> Callable[..., Example]:
    """Give a factory of rows: answered(reference, output, output, ...)."""

    def make(reference: str, *outputs: str, malformed: Sequence[int] = ()) -> Example:
        answers = tuple(Answer(output=one, correct=0.0, malformed=i in malformed) for i, one in enumerate(outputs))
        return generated(outputs[0], reference).model_copy(update={"answers": answers})

    return make


@pytest.mark.parametrize("right", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_pass_at_k_is_the_share_of_all_ways_to_take_k_answers(
    right: int, k: int, answered: Callable[..., Example]
) -> None:
    """That is what the estimator's formula counts."""
    row = answered("서울", *["서울"] * right, *["부산"] * (5 - right))
    ways = list(combinations([1] * right + [0] * (5 - right), k))
    assert load_metric(f"pass_at:{k}").score_example(row) == pytest.approx(sum(map(any, ways)) / len(ways))


def test_pass_at_k_needs_k_answers(answered: Callable[..., Example]) -> None:
    """The sentence says what to give."""
    with pytest.raises(BenchError, match="needs 3 answers to each row, and there are 2") as caught:
        load_metric("pass_at:3", 2).score_example(answered("a", "a", "b"))
    assert "`repeats=3`" in caught.value.hint


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("pass_at:0", "no number"),
        ("pass_at:x", "no number"),
        ("pass_at:2:char_f1", "no answer right"),
        ("majority_vote:bleu", "no answer right"),
        ("majority_vote:nothing", "no metric"),
    ],
)
def test_a_metric_of_several_answers_that_is_named_wrongly_is_refused(key: str, problem: str) -> None:
    """With what is wrong in it."""
    with pytest.raises(BenchError, match=problem):
        load_metric(key)


@pytest.mark.parametrize(
    ("outputs", "malformed", "value"),
    [
        (["서울", "부산", "서울"], [], 1.0),
        (["부산", "서울", "부산"], [], 0.0),
        (["부산", "서울"], [], 0.0),  # a tie: the first
        (["서울", "부산"], [], 1.0),
        (["부산", "대구", "ＳＥＯＵＬ", "seoul."], [], 0.0),  # one answer in two spellings, and not the right one
        (["부산", "서울", " 서울. "], [], 1.0),
        (["부산", "부산", "서울"], [0, 1], 1.0),  # malformed answers have no vote
        (["서울", "서울"], [0, 1], 0.0),
    ],
)
def test_the_answer_that_is_given_most_often_is_scored(
    outputs: list[str], malformed: list[int], value: float, answered: Callable[..., Example]
) -> None:
    """After full width, case, white space and a full stop."""
    row = answered("서울", *outputs, malformed=malformed)
    assert load_metric("majority_vote").score_example(row) == value


def test_votes_are_by_labels_or_choices_where_there_are_any(generated: Callable[..., Example]) -> None:
    """Whatever the text around them is."""
    answers = [
        Answer(output="답은 서울", output_labels=("서울",), correct=0.0),
        Answer(output="부산", output_labels=("부산",), correct=0.0),
        Answer(output="부산입니다", output_labels=("부산",), correct=0.0),
    ]
    row = generated("", "부산").model_copy(update={"answers": tuple(answers)})
    assert load_metric("majority_vote").score_example(row) == 1.0


def test_votes_for_a_number_are_votes_for_its_value() -> None:
    """As the extraction writes it: two of three answers are 8, in two texts."""
    numbers = ("5", "8", "8")
    answers = tuple(Answer(output=f"답: {one}개", output_labels=(one,), correct=0.0) for one in numbers)
    row = Example(task="t", doc_id=0, prompt="", target="8", output="", correct=0.0, answers=answers)
    assert load_metric("majority_vote:number_match").score_example(row) == 1.0
    assert load_metric("pass_at:2:number_match").score_example(row) == 1.0


def test_which_metrics_are_added_depends_on_the_task_and_the_number() -> None:
    """Powers of two and the number itself, by the first metric that is right or wrong."""
    assert list_several_answer_metrics(["char_f1", "exact_match"], 1) == ()
    assert list_several_answer_metrics(["chrf", "rouge_l"], 4) == ()
    assert list_several_answer_metrics(["char_f1", "exact_match"], 5) == (
        "pass_at:2:exact_match",
        "pass_at:4:exact_match",
        "pass_at:5:exact_match",
        "majority_vote:exact_match",
    )
    assert list_several_answer_metrics(["klue_exact_match", "exact_match"], 2)[0] == "pass_at:2:klue_exact_match"
    assert list_several_answer_metrics(["number_match"], 2) == ("pass_at:2:number_match", "majority_vote:number_match")


def test_answers_that_are_numbers_get_pass_at_k_and_a_vote(generated: Callable[..., Example]) -> None:
    """Numbers are right or wrong, and equal ones have one vote however they were written."""
    assert list_several_answer_metrics(["number_match"], 2) == ("pass_at:2:number_match", "majority_vote:number_match")
    given = [("2", ("1/2",)), ("x", ("3",)), ("0.5", ("1/2",))]
    answers = tuple(Answer(output=text, output_labels=labels, correct=0.0) for text, labels in given)
    row = generated("2", "0.5").model_copy(update={"answers": answers})
    assert load_metric("majority_vote:number_match", 3).score_example(row) == 1.0
    assert load_metric("pass_at:2:number_match", 3).score_example(row) == 1.0


def test_a_mean_over_several_answers_has_the_error_of_row_means(answered: Callable[..., Example]) -> None:
    """With one answer everywhere the same it is that of single answers; answers to a row are not rows."""
    rows = [answered("a", "a", "a", "a"), answered("a", "b", "b", "b"), answered("a", "a", "b", "b")]
    metric = load_metric("exact_match", 3)
    means = np.array([1, 0, 1 / 3])
    assert metric.value(rows) == pytest.approx(100 * means.mean())
    assert metric.stderr(rows) == pytest.approx(100 * means.std(ddof=1) / np.sqrt(3))
    single = [one for row in rows[:2] for one in row.each_answer()]
    assert metric.stderr(rows[:2]) > load_metric("exact_match").stderr(single), "six answers are two rows"


def test_a_corpus_metric_over_several_answers_draws_rows_with_all_their_answers(
    answered: Callable[..., Example],
) -> None:
    """Its value is that of all answers; its error, of equal answers, that of one answer to each row."""
    pairs = [
        ("서울은 수도이다", "서울이 수도이다"),
        ("부산에 바다가 있다", "대구에 산이 있다"),
        ("비가 온다", "비가 온다"),
    ]
    rows = [answered(reference, output, output) for reference, output in pairs]
    metric, plain = load_metric("chrf", 2), load_metric("chrf")
    once = [row.model_copy(update={"answers": ()}) for row in rows]
    flat = [one for row in rows for one in row.each_answer()]
    assert metric.value(rows) == pytest.approx(plain.value(flat))
    numbers = plain.example_statistics(once)
    drawn = np.concatenate([plain.score_resamples(numbers, counts) for counts in bootstrap_counts(3)])
    assert metric.stderr(rows) == pytest.approx(float(np.std(drawn, ddof=1)))
    assert metric.stderr(rows[:1]) is None
    assert metric.signature() == f"{plain.signature()}|answers:2, bootstrap over rows"
