"""KLUE's metrics where their rules bite: one row by hand, malformed answers, the two faults of the official script."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.scheme import IOB2, Entities

from bitnet_bench.errors import BenchError
from bitnet_bench.metrics import load_metric
from bitnet_bench.metrics.klue_ner import find_entities
from bitnet_bench.runs.records import Example
from bitnet_bench.statistics import bootstrap_counts

Make = Callable[..., Example]
TAGS = st.lists(st.sampled_from(["O", "B-PS", "I-PS", "B-LC", "I-LC"]), max_size=12)


def labelled(target: str, output: str | None, sep: str = ",") -> Example:
    """Return an example of a structured task; None is a malformed output."""
    gold = tuple(target.split(sep)) if target else ()
    given_labels = ("",) * max(1, len(gold)) if output is None else tuple(output.split(sep)) if output else ()
    return Example(
        task="t",
        doc_id=0,
        prompt="",
        target="",
        output="",
        correct=0.0,
        target_labels=gold,
        output_labels=given_labels,
        malformed=output is None,
    )


@settings(deadline=None, max_examples=300)
@given(TAGS)
def test_entities_are_those_of_seqeval_strict(tags: list[str]) -> None:
    """On any IOB2 tags, valid or not: an I that continues nothing is no entity."""
    theirs = {(e.tag, e.start, e.end) for e in Entities([tags], IOB2, False).entities[0]}
    assert find_entities(tags) == theirs


@pytest.mark.parametrize(
    ("key", "target", "output", "one"),
    [
        ("entity_f1", "B-PS,I-PS,O", "B-PS,I-PS,O", 1.0),
        ("entity_f1", "B-PS,I-PS,O", "B-PS,O,O", 0.0),
        ("entity_f1", "O,O", "O,O", 1.0),
        ("entity_f1", "O,O", "B-PS,O", 0.0),
        ("entity_f1", "O,O", None, 0.0),
        ("character_macro_f1", "B-PS,I-PS,O,O", "B-PS,O,O,O", 0.75),
        ("character_macro_f1", "B-PS,O", None, 0.0),
        ("uas", "2 NP_SBJ,0 VP", "2 NP_OBJ,0 VP", 1.0),
        ("uas", "2 NP_SBJ,0 VP", None, 0.0),
        ("las", "2 NP_SBJ,0 VP", "2 NP_OBJ,0 VP", 0.5),
        ("las", "2 X_AJT,0 VP", "2 L,0 VP", 1.0),
        ("las", "2 X_AJT,0 VP", "0 X_AJT,0 VP", 0.5),
        ("las", "2 X_AJT,0 VP", None, 0.0),
        ("las_accuracy", "2 X_AJT,0 VP", "2 L,0 VP", 0.5),
        ("uas_accuracy", "2 X_AJT,0 VP", None, 0.0),
        ("joint_goal_accuracy", "관광-지역-서울,관광-종류-공원", "관광-종류-공원,관광-지역-서울", 1.0),
        ("joint_goal_accuracy", "", "", 1.0),
        ("joint_goal_accuracy", "", None, 0.0),
        ("slot_f1", "관광-지역-서울,관광-종류-공원", "관광-지역-서울", 2 / 3),
        ("slot_f1", "", "", 1.0),
        ("slot_f1", "", None, 0.0),
        ("slot_f1", "관광-지역-서울", "", 0.0),
    ],
)
def test_one_row(key: str, target: str, output: str | None, one: float) -> None:
    """The figure of one row, as an item of a paired comparison."""
    assert load_metric(key).score_example(labelled(target, output)) == pytest.approx(one)


def test_a_wrong_head_is_a_class_of_its_own_in_las() -> None:
    """Officially: NP_SBJ right, VP's head wrong: F1 1, 0 and 0 for the wrong head itself, a mean of 1/3."""
    assert load_metric("las").value([labelled("2 NP_SBJ,0 VP", "2 NP_SBJ,1 VP")]) == pytest.approx(100 / 3)


def test_a_tag_that_never_occurs_counts_as_one_in_character_f1() -> None:
    """Officially: one tag wrong of two that occur, eleven that do not."""
    got = load_metric("character_macro_f1").value([labelled("O,O,B-PS", "O,O,O")])
    assert got == pytest.approx(100 * (11 + 0.8 + 0.0) / 13)


def test_entity_types_are_parts() -> None:
    """F1 of each type that occurs."""
    parts = load_metric("entity_f1").parts([labelled("B-PS,O,B-LC", "B-PS,B-DT,O")])  # type: ignore[attr-defined]
    assert parts == {"PS": 100.0, "LC": 0.0, "DT": 0.0}


@pytest.mark.parametrize(("variant", "score"), [("", 0.0), (":official", 0.0), (":corrected", 1.0)])
def test_marks_outside_ascii_stay_officially(variant: str, score: float, generated: Make) -> None:
    """`《기생충》` is not `기생충` for the official script, whose pattern has a misplaced bracket."""
    assert load_metric(f"klue_exact_match{variant}").score_example(generated("《기생충》", "기생충")) == score


@pytest.mark.parametrize(("variant", "low", "high"), [("", 0.0, 0.05), (":corrected", 0.99, 1.0)])
def test_a_long_answer_loses_its_characters_officially(variant: str, low: float, high: float, generated: Make) -> None:
    """difflib leaves frequent characters out of a text of 200 or more."""
    answer = "가나다라마 " * 60
    assert low <= load_metric(f"klue_rouge_w{variant}").score_example(generated("끝" + answer, answer.strip())) <= high


def test_sts_has_no_correlation_where_an_answer_is_constant(chosen: Make) -> None:
    """0 rather than NaN, and it says so in the signature."""
    examples = [chosen(0, 0, target_value=float(i), output_value=2.0) for i in range(5)]
    assert load_metric("pearson").value(examples) == 0.0
    assert load_metric("spearman").value(examples) == 0.0
    assert "constant:0" in load_metric("pearson").signature()
    with pytest.raises(BenchError, match="no grade"):
        load_metric("pearson").value([chosen(0, 0)])


def structured(rng: np.random.Generator, pool: list[str]) -> Example:
    """Return a row of 20 labels, four fifths of them right."""
    gold = rng.choice(pool, size=20)
    output = np.where(rng.random(20) < 0.8, gold, rng.choice(pool, size=20))
    return labelled("|".join(gold), "|".join(output), "|")


def rows(key: str, rng: np.random.Generator, n: int, chosen: Make) -> list[Example]:
    """Return *n* random examples for the metric *key*."""
    if key in ("entity_f1", "character_macro_f1"):
        return [structured(rng, ["O", "B-PS", "I-PS", "B-LC", "I-LC"]) for _ in range(n)]
    if key.startswith(("uas", "las")):
        return [structured(rng, ["1 NP", "2 VP", "3 AP", "0 VP", "4 X"]) for _ in range(n)]
    made = []
    for _ in range(n):
        target = int(rng.integers(30))
        logits = rng.normal(size=30)
        logits[target] += 2.0
        value = float(rng.normal(3, 1))
        fields: dict[str, Any] = {"target_value": value, "output_value": value + float(rng.normal())}
        made.append(chosen(target, int(logits.argmax()), 30, loglikelihoods=tuple(logits.tolist()), **fields))
    return made


KEYS = [
    *("entity_f1", "character_macro_f1", "uas", "las", "uas_accuracy", "las_accuracy", "re_micro_f1", "re_auprc"),
    *("pearson", "spearman", "f1_at_3", "macro_f1", "weighted_f1", "macro_precision", "macro_recall", "f1"),
]


@pytest.mark.parametrize("key", KEYS)
def test_a_standard_error_is_that_of_resampled_examples(key: str, chosen: Make) -> None:
    """The vectorised bootstrap comes near the naive one, which scores every resample from its examples."""
    examples = rows(key, np.random.default_rng(0), 120, chosen)
    drawn = np.concatenate(list(bootstrap_counts(120, 150))).astype(int)
    naive = [load_metric(key).value([examples[i] for i in np.repeat(range(120), counts)]) for counts in drawn]
    assert load_metric(key).stderr(examples) == pytest.approx(np.std(naive, ddof=1), rel=0.25)
    assert load_metric(key).stderr(examples[:1]) is None
