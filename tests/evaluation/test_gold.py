"""Every task's own path, from prompt to score, on answers that are known."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from lm_eval.api.model import LM

from bitnet_bench.evaluation.select import load_suites, select_tasks
from bitnet_bench.evaluation.task_run import check_rows, evaluate_task
from bitnet_bench.evaluation.tasks import BuiltTask, TaskSettings, build_task, has_local_rows
from bitnet_bench.metrics import load_metric

DATA = Path(os.environ.get("BITNET_BENCH_DATA", Path(__file__).parents[3] / "shared" / "data"))
LOCAL = DATA if (DATA / "kobest").is_dir() else None
PAIRS = [
    (s.name, t.name)
    for s in load_suites().values()
    for t in s.list_runnable_tasks(LOCAL or Path())
    if t.kind == "scored"
    if s.embedded or (LOCAL and has_local_rows(s, t, TaskSettings(LOCAL)))
]
WITHOUT_ROWS = {"math", "instructions", "open"}
"""Suites whose rows may be had from the hub only, and not from the data folder, or which have no gold answers."""
SHORT = {"rouge_2": 99.5, "meteor": 99.5}
"""What a gold answer of one word, which has no bigram and is a chunk of its own, leaves at least of 100."""
Maker = Callable[[BuiltTask], LM]


@pytest.mark.skipif(LOCAL is None, reason="no local rows: ../shared/data or BITNET_BENCH_DATA")
def test_every_suite_has_local_rows() -> None:
    """Without this, an empty data folder would pass the tests below by having nothing to test."""
    assert {suite for suite, _ in PAIRS} | WITHOUT_ROWS == set(load_suites())


@pytest.mark.parametrize("limit", [300, pytest.param(None, marks=pytest.mark.slow, id="all")])
@pytest.mark.parametrize(("suite_name", "task_name"), PAIRS)
def test_gold_answers_get_the_maximum(suite_name: str, task_name: str, limit: int | None, gold: Maker) -> None:
    """On every row, the gold answer passes through prompt, stops and parser, and scores 100."""
    ((suite, task),) = select_tasks([suite_name], [task_name])
    built = build_task(suite, task, TaskSettings(LOCAL))
    check_rows(built, None)
    if task_name == "re":  # its areas under curves are 100 only if every relation has a row
        limit = None
    result = evaluate_task(gold(built), built, limit=limit)
    assert not any(example.malformed for example in result.examples)
    for score in result.scores:
        best = 0.0 if score.metric == "bits_per_byte" else 1.0 if score.metric == "byte_perplexity" else 100.0
        if score.metric in SHORT:
            assert SHORT[score.metric] <= score.value <= 100.0
        else:
            assert score.value == pytest.approx(best, abs=1e-9), score.metric


@pytest.mark.parametrize(("suite_name", "task_name"), PAIRS)
def test_odd_answers_are_scored_by_a_rule(suite_name: str, task_name: str, noise: Maker, empty: Maker) -> None:
    """Random choices, damaged text and nothing at all get a finite score below gold, and never an exception."""
    ((suite, task),) = select_tasks([suite_name], [task_name])
    for make in (noise, empty):
        built = build_task(suite, task, TaskSettings(LOCAL))
        result = evaluate_task(make(built), built, limit=200)
        for score in result.scores:
            if built.lm_task.OUTPUT_TYPE != "loglikelihood_rolling":
                assert 0.0 <= score.value < 100.0 or score.metric in ("pearson", "spearman"), score.metric
            assert 0.0 <= load_metric(score.metric).score_example(result.examples[0]) <= 1.0


WRITTEN = Path(__file__).parent / "rows"
PAGES = Path(__file__).parents[2] / "docs/suites"
WRITTEN_PAIRS = [
    (s.name, t.name)
    for s in load_suites().values()
    for t in s.list_runnable_tasks(WRITTEN)
    if t.kind == "scored" and not s.embedded
]


@pytest.mark.parametrize(("suite_name", "task_name"), WRITTEN_PAIRS)
def test_gold_answers_of_written_rows_get_the_maximum(suite_name: str, task_name: str, gold: Maker) -> None:
    """The same on rows written for these tests, in the layout of the data directory: it needs no data."""
    ((suite, task),) = select_tasks([suite_name], [task_name])
    built = build_task(suite, task, TaskSettings(WRITTEN))
    check_rows(built, None)
    result = evaluate_task(gold(built), built)
    assert not any(example.malformed for example in result.examples)
    assert all(example.correct == pytest.approx(1.0) for example in result.examples if example.output)


@pytest.mark.skipif(not PAGES.is_dir(), reason="no docs/suites: this run is against a wheel, which has no pages")
@pytest.mark.parametrize(("suite_name", "task_name"), WRITTEN_PAIRS)
def test_pages_show_the_exact_prompt(suite_name: str, task_name: str) -> None:
    """docs/suites/ shows what is asked: the prompt and the gold answer of a written row, to the character."""
    if task_name.endswith("_ko_en") or suite_name == "language_modeling":
        pytest.skip("the page shows one direction, and running text has no prompt")
    ((suite, task),) = select_tasks([suite_name], [task_name])
    built = build_task(suite, task, TaskSettings(WRITTEN)).lm_task
    page = (PAGES / f"{suite_name}.md").read_text(encoding="utf-8")
    assert f"```text\n{built.doc_to_text(next(iter(built.test_docs())))}\n```" in page
