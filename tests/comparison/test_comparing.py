"""Comparisons of two runs: which test, which verdict, and what is refused."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from bitnet_bench.comparison import compare
from bitnet_bench.comparison.comparing import decide_verdict
from bitnet_bench.comparison.words import format_headline, format_signed
from bitnet_bench.runs.records import Example

GOOD, BAD = [1.0] * 90 + [0.0] * 10, [1.0] * 50 + [0.0] * 50


@pytest.mark.parametrize(
    ("difference", "p", "equivalence_p", "lower_is_better", "expected"),
    [
        (-5.0, 0.01, 0.9, False, "worse"),
        (5.0, 0.01, 0.9, False, "better"),
        (5.0, 0.01, 0.9, True, "worse"),
        (-0.5, 0.01, 0.01, False, "slightly-worse"),
        (0.5, 0.01, 0.01, False, "slightly-better"),
        (-0.5, 0.5, 0.01, False, "equal"),
        (-0.5, 0.5, 0.5, False, "undecided"),
        (-5.0, 0.5, None, False, "undecided"),
    ],
)
def test_no_difference_is_not_equality(
    difference: float, p: float, equivalence_p: float | None, lower_is_better: bool, expected: str
) -> None:
    """A difference, equality within the margin, and knowing too little are told apart."""
    assert decide_verdict(difference, p, equivalence_p, lower_is_better) == expected


def test_a_clear_difference_is_found(make_results: Any) -> None:
    """90 right against 50 right of the same 100 is 40 points worse, by McNemar's test, with its flips."""
    found = compare(make_results("a", {"s:t": BAD}), make_results("b", {"s:t": GOOD}))
    (one,) = found.differences
    assert (one.verdict, one.test, one.difference) == ("worse", "mcnemar", -40.0)
    assert (one.flipped_wrong, one.flipped_right) == (40, 0)
    assert one.low < -40.0 < one.high < 0.0
    assert found.mean is not None
    assert found.mean.verdict == "worse"
    assert "‘a’ is 40.0 points worse than ‘b’" in format_headline(found).en
    assert "‘a’의 점수가 ‘b’보다 40.0점 낮다" in format_headline(found).ko


def test_a_run_compared_with_itself_is_equal_where_there_are_examples_enough(make_results: Any) -> None:
    """The same answers on 2,000 examples are equal within a point, on 100 they are not known to be."""
    for n, expected in ((2000, "equal"), (100, "undecided")):
        run = make_results("a", {"s:t": [float(i % 3 > 0) for i in range(n)]})
        assert compare(run, run).differences[0].verdict == expected
        assert compare(run, run).differences[0].difference == 0.0


def test_a_wider_margin_makes_equality_easier(make_results: Any) -> None:
    """What 100 examples leave open within 1 point they close within 10."""
    run = make_results("a", {"s:t": [1.0, 0.0] * 50})
    assert compare(run, run, margin=10.0).differences[0].verdict == "equal"


def test_corpus_metrics_are_resampled_as_a_whole(make_results: Any) -> None:
    """The difference of macro-F1 is that of the two macro-F1, not a mean over examples."""
    a = make_results("a", {"s:t": BAD}, metrics=("macro_f1",))
    b = make_results("b", {"s:t": GOOD}, metrics=("macro_f1",))
    (one,) = compare(a, b).differences
    assert one.test == "bootstrap"
    assert one.difference == pytest.approx(one.a - one.b)
    assert one.verdict == "worse"


def test_one_task_among_many_needs_more(make_results: Any) -> None:
    """A p of 0.03 alone is a difference; among ten tasks Holm makes it none."""
    rng = np.random.default_rng(0)
    noise = {f"s:{i}": (rng.uniform(size=100) < 0.5).astype(float).tolist() for i in range(9)}
    slight = [1.0] * 60 + [0.0] * 40
    moved = [0.0] * 17 + [1.0] * 43 + [1.0] * 5 + [0.0] * 35
    alone = compare(make_results("a", {"s:t": moved}), make_results("b", {"s:t": slight}))
    among = compare(make_results("a", {"s:t": moved, **noise}), make_results("b", {"s:t": slight, **noise}))
    assert alone.differences[0].p == among.differences[0].p < 0.05
    assert alone.differences[0].verdict == "worse"
    assert among.differences[0].p_holm > 0.05
    assert among.differences[0].verdict == "undecided"


def test_examples_go_by_number_not_by_place(make_results: Any) -> None:
    """Examples in another order are still compared with their own twins."""
    run = make_results("a", {"s:t": GOOD})
    turned = make_results("b", {"s:t": list(reversed(run.examples["s:t"]))})
    assert compare(run, turned).differences[0].flipped_wrong == 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"data": {"s:t": "f" * 64}}, "the data differ"),
        ({"data": {}}, "no digest"),
        ({"settings": {"prompts": "lm-eval"}}, "prompts is default and lm-eval"),
        ({"settings": {"prompts": "default", "shots": 5, "seed": 1}}, "shots is 0 and 5"),
        ({"settings": {"prompts": "default", "shots": 0, "chat_template": True}}, "chat_template is False and True"),
        ({"suites": {"s": "2"}}, "version 1 and 2"),
        ({"scores": ()}, "has no accuracy"),
    ],
)
def test_other_data_prompts_and_versions_are_refused(fields: dict[str, Any], said: str, make_results: Any) -> None:
    """What differs is named, and no number stands in its place."""
    found = compare(make_results("a", {"s:t": GOOD}), make_results("b", {"s:t": GOOD}, **fields))
    assert found.differences == ()
    assert found.mean is None
    assert any(said in words.en for words in found.refused[0].differs)
    assert "cannot be compared" in format_headline(found).en


def test_another_version_of_this_package_is_refused(make_results: Any) -> None:
    """Runs of two versions may have been asked in two ways."""
    a, b = make_results("a", {"s:t": GOOD}), make_results("b", {"s:t": GOOD})
    packages = b.record.environment.model_copy(update={"packages": {"bitnet-bench": "0.2.0"}})
    other = type(b)(b.record.model_copy(update={"environment": packages}), b.examples)
    assert "0.1.0 and 0.2.0" in compare(a, other).refused[0].differs[0].en


@pytest.mark.parametrize("field", ["signature", "tokenizer", "version"])
def test_scores_of_another_signature_are_refused(field: str, make_results: Any) -> None:
    """The same name does not make two metrics one: whatever of its signature differs."""
    signed = {"signature": "f1|tok:mecab|v1", "tokenizer": "accuracy|tok:space|v1", "version": "accuracy|tok:mecab|v2"}
    runs = []
    for name, signature in (("a", "accuracy|tok:mecab|v1"), ("b", signed[field])):
        run = make_results(name, {"s:t": GOOD})
        scores = tuple(score.model_copy(update={"signature": signature}) for score in run.record.scores)
        runs.append(type(run)(run.record.model_copy(update={"scores": scores}), run.examples))
    found = compare(*runs)
    assert found.differences == ()
    assert signed[field] in found.refused[0].differs[0].en


def test_choices_that_are_read_out_of_texts_are_not_likelihoods(make_results: Any) -> None:
    """By what the examples hold, whatever `answer` says of the run: its default differs from task to task."""
    a = make_results("a", {"s:t": GOOD})
    texts = [example.model_copy(update={"loglikelihoods": ()}) for example in a.examples["s:t"]]
    settings = a.record.settings | {"answer": "generate"}
    found = compare(a, make_results("b", {"s:t": texts}, settings=settings))
    assert found.refused[0].differs[0].en == "the prompts differ: answer is likelihood and generate"
    assert not compare(a, make_results("b", {"s:t": GOOD}, settings=settings)).refused


def test_another_prompt_is_refused_at_its_row(make_results: Any) -> None:
    """A prompt that was changed is found by its text, whatever the settings say."""
    a = make_results("a", {"s:t": GOOD})
    rows: list[Example] = list(a.examples["s:t"])
    rows[7] = rows[7].model_copy(update={"prompt": "다른 질문"})
    found = compare(a, make_results("b", {"s:t": rows}))
    assert found.refused[0].differs[0].en == "the prompts differ (first at row 7)"


@pytest.mark.parametrize(
    "other",
    [
        {"target": "예", "target_choice": 1},
        {"choices": ("예", "아니오")},
        {"references": ("예",)},
        {"target_labels": ("B-PS",)},
        {"target_value": 3.5},
    ],
    ids=["target", "choices", "references", "labels", "value"],
)
def test_other_right_answers_are_refused_at_their_row(other: dict[str, Any], make_results: Any) -> None:
    """A task whose labels were turned between two runs has the same rows, prompts and version."""
    a = make_results("a", {"s:t": GOOD})
    rows: list[Example] = list(a.examples["s:t"])
    rows[8] = rows[8].model_copy(update=other)
    found = compare(a, make_results("b", {"s:t": rows}))
    assert found.differences == ()
    assert found.refused[0].differs[0].en == "the right answers differ (first at row 8)"


def test_missing_examples_are_refused_and_the_other_tasks_go_on(make_results: Any) -> None:
    """A task of which one run lost rows stands apart; the rest is compared."""
    a = make_results("a", {"s:t": GOOD, "s:u": GOOD})
    b = make_results("b", {"s:t": GOOD, "s:u": GOOD})
    b.examples["s:u"].pop()
    found = compare(a, b)
    assert [one.task for one in found.differences] == ["s:t"]
    assert "b has 99 of its 100 examples" in found.refused[0].differs[0].en


def test_a_metric_of_lm_evals_is_compared_by_its_examples(make_results: Any) -> None:
    """A score whose signature is not ours is compared by what each example got."""
    runs = []
    for name, got in (("a", BAD), ("b", GOOD)):
        run = make_results(name, {"s:t": got})
        scores = tuple(s.model_copy(update={"signature": "acc|lm-eval:0.4.13"}) for s in run.record.scores)
        runs.append(type(run)(run.record.model_copy(update={"scores": scores}), run.examples))
    assert compare(*runs).differences[0].difference == -40.0


def test_ten_thousand_examples_are_compared_in_a_second(make_results: Any) -> None:
    """Accuracy and macro-F1 over 10,000 pairs, from the examples on, take under a second each."""
    rng = np.random.default_rng(1)
    for metrics in (("accuracy",), ("macro_f1",)):
        a, b = (
            make_results(name, {"s:t": (rng.uniform(size=10_000) < 0.6).astype(float).tolist()}, metrics=metrics)
            for name in "ab"
        )
        began = time.process_time()
        compare(a, b)
        assert time.process_time() - began < 1.0


def test_signs() -> None:
    """A difference has a true minus sign, and what rounds to zero has none."""
    assert [format_signed(value) for value in (-1.25, 2.0, -0.01)] == ["−1.2", "+2.0", "0.0"]
