"""The whole of `knowledge`, `math` and `instructions` without a network, on files in the hub's shapes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.select import load_suites, select_tasks
from bitnet_bench.evaluation.task_run import check_rows, evaluate_task
from bitnet_bench.evaluation.tasks import BuiltTask, TaskSettings, build_task
from bitnet_bench.reports.named_runs import name_runs
from bitnet_bench.reports.scores import score_section
from bitnet_bench.reports.sections import Group, Table
from bitnet_bench.runs.choices import Answer
from bitnet_bench.runs.jobs import EvaluateJob
from bitnet_bench.runs.reading import read_run
from bitnet_bench.runs.records import RunRecord
from bitnet_bench.wording import get_text

ROWS = Path(__file__).parent / "rows"
SUITES = ("knowledge", "math", "instructions")
TASKS = [(name, task.name) for name in SUITES for task in load_suites()[name].tasks]
CHOICES = {"click": 4, "kmmlu": 4, "kmmlu_redux": 4, "kmmlu_pro": 5, "kobalt": 10, "haerae": 5, "kormedmcqa": 5}
"""Choices of the first row of each set."""
Maker = Callable[[BuiltTask], Any]


def build(name: str, answer: Answer | None = None, data: Path = ROWS) -> BuiltTask:
    """Return a task, SUITE:TASK."""
    suite_name, _, task_name = name.partition(":")
    ((suite, task),) = select_tasks([suite_name], [task_name])
    return build_task(suite, task, TaskSettings(data, answer=answer))


@pytest.mark.parametrize("answer", ["likelihood", "generate"])
@pytest.mark.parametrize("task", list(CHOICES))
def test_each_set_is_answered_in_both_ways(task: str, answer: Answer, gold: Maker, empty: Maker) -> None:
    """Gold answers get 100, an empty text is malformed and wrong, and equal likelihoods are the first choice."""
    built = build(f"knowledge:{task}", answer)
    check_rows(built, None)
    assert len(built.lm_task.doc_to_choice(next(iter(built.lm_task.test_docs())))) == CHOICES[task]
    right = evaluate_task(gold(built), built)
    assert [score.value for score in right.scores if score.metric != "accuracy_norm"] == [100.0]
    assert right.scores[0].metric == ("accuracy" if answer == "likelihood" else "extracted_accuracy")
    nothing = evaluate_task(empty(built), built)
    assert all(example.malformed == (answer == "generate") for example in nothing.examples)
    if answer == "generate":
        assert nothing.scores[0].value == 0.0


@pytest.mark.parametrize(
    ("task", "chance"),
    [
        ("click", (3 * 25.0 + 20.0) / 4),
        ("kmmlu", 25.0),
        ("kmmlu_redux", 25.0),
        ("kmmlu_pro", (25.0 + 20.0) / 2),
        ("kobalt", 10.0),
        ("haerae", 20.0),
        ("kormedmcqa", 20.0),
    ],
)
@pytest.mark.parametrize("answer", ["likelihood", "generate"])
def test_chance_is_that_of_the_rows(task: str, chance: float, answer: Answer, gold: Maker) -> None:
    """With 4, 5 and 10 choices, and the mean where rows have different numbers of them."""
    built = build(f"knowledge:{task}", answer)
    primary = evaluate_task(gold(built), built).scores[0]
    assert primary.chance == pytest.approx(chance)
    assert primary.majority is not None
    assert 0.0 < primary.majority <= 100.0


@pytest.mark.parametrize("repeats", [1, 2])
def test_the_majority_is_the_same_however_often_a_row_is_answered(repeats: int, gold: Maker) -> None:
    """Always the most frequent target: one of the two rows of KoBALT is right, whatever the model answers."""
    built = build("knowledge:kobalt", "generate")
    scores = evaluate_task(gold(built), built, repeats=repeats).scores
    assert {score.value for score in scores} == {100.0}
    assert {score.majority for score in scores} == {50.0}
    assert len(scores) == (1 if repeats == 1 else 3)


@pytest.mark.parametrize("answer", ["likelihood", "generate"])
def test_parts_are_the_scores_of_their_rows(answer: Answer, gold: Maker, noise: Maker) -> None:
    """Every part is the metric over the rows of one group, counted by hand from the samples."""
    built = build("knowledge:kmmlu", answer)
    result = evaluate_task(noise(built), built)
    score = result.scores[0]
    assert sum(count for part, count in score.part_counts.items() if part.startswith("subject=")) == 45
    assert score.part_counts["field=STEM"] == 11
    stem = [example.correct for example in result.examples if example.groups["field"] == "STEM"]
    assert score.parts["field=STEM"] == pytest.approx(100 * sum(stem) / len(stem))
    assert "subject=Math" in score.parts
    assert "subject=Math" not in score.part_errors, "one row has no standard error"
    assert score.part_errors["field=STEM"] > 0
    whole = sum(score.parts[f"field={name}"] * score.part_counts[f"field={name}"] for name in
                ("STEM", "applied science", "humanities and social science", "other"))  # fmt: skip
    assert whole / 45 == pytest.approx(score.value)


@pytest.mark.parametrize(
    ("task", "groups"),
    [
        ("click", {"branch": "culture", "category": "geography"}),
        ("kmmlu", {"field": "humanities and social science", "subject": "Accounting"}),
        ("kmmlu_redux", {"category": "목공"}),
        ("kmmlu_pro", {"license_name": "법무사", "subject": "민법"}),
        ("kobalt", {"domain": "Syntax", "phenomenon": "Agreement", "level": "1"}),
        ("haerae", {"category": "general_knowledge"}),
        ("kormedmcqa", {"subject": "doctor"}),
    ],
)
def test_a_row_says_what_it_belongs_to(task: str, groups: dict[str, str]) -> None:
    """In the fields of the hub's rows, and by the configuration that it is from."""
    built = build(f"knowledge:{task}")
    assert dict(built.hooks.groups(next(iter(built.lm_task.test_docs())))) == groups


def test_the_texts_of_choices_are_known_where_they_stand_in_the_question() -> None:
    """KoBALT and HAE-RAE write them into the question, and a text that restates one is read."""
    for task, text in (("kobalt", "철수"), ("haerae", "서울")):
        built = build(f"knowledge:{task}")
        options = built.hooks.options(next(iter(built.lm_task.test_docs())))
        assert len(options) == CHOICES[task]
        assert text in options


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunRecord]:
    """Give the run of all three suites by the embedded checkpoint, and one with the other ways to answer."""
    folder = tmp_path_factory.mktemp("runs")
    job = EvaluateJob(data_dir=str(ROWS), limit=1, max_new_tokens=32)
    found = {"default": evaluate("demo", select_tasks(SUITES, data_dir=ROWS), folder / "default", job)}
    other = job.model_copy(update={"answer": "likelihood"})
    found["likelihood"] = evaluate("demo", select_tasks(["knowledge"], data_dir=ROWS), folder / "likelihood", other)
    return found


def test_all_three_suites_run_offline(runs: dict[str, RunRecord]) -> None:
    """A real checkpoint answers a row of every task, by what the authors of the sets report."""
    record = runs["default"]
    assert record.errors == {}
    assert {score.task for score in record.scores} == {f"{suite}:{task}" for suite, task in TASKS}
    primary = {score.task: score.metric for score in record.scores if score.primary}
    assert primary["knowledge:click"] == "accuracy"
    assert primary["knowledge:kobalt"] == "extracted_accuracy"
    assert "answer" not in record.settings
    again = RunRecord.model_validate_json(record.model_dump_json())
    assert again == record
    assert all(score.part_counts for score in again.scores if score.task.startswith("knowledge:"))


def test_the_way_to_answer_is_a_setting_of_the_run(runs: dict[str, RunRecord]) -> None:
    """It is in the record, so that a run is not continued in another way."""
    record = runs["likelihood"]
    assert record.settings["answer"] == "likelihood"
    assert {score.metric for score in record.scores if score.primary} == {"accuracy"}


def test_a_run_is_not_continued_in_another_way(tmp_path: Path) -> None:
    """Scores of likelihood and of generation do not mix in one folder."""
    chosen = select_tasks(["knowledge"], ["haerae"], ROWS)
    job = EvaluateJob(data_dir=str(ROWS), limit=1)
    evaluate("demo", chosen, tmp_path / "run", job)
    with pytest.raises(BenchError, match="another `answer`"):
        evaluate("demo", chosen, tmp_path / "run", job.model_copy(update={"answer": "generate"}))


def test_malformed_texts_are_counted(tmp_path: Path) -> None:
    """A tiny model names no choice: the record counts each such text, and the score is 0."""
    chosen = select_tasks(["knowledge"], ["kormedmcqa"], ROWS)
    record = evaluate("demo", chosen, tmp_path / "run", EvaluateJob(data_dir=str(ROWS), max_new_tokens=32))
    samples = (tmp_path / "run/samples").glob("*.jsonl")
    rows = [json.loads(line) for file in samples for line in file.read_text(encoding="utf-8").splitlines()]
    assert record.counts["malformed"] == sum(row.get("malformed", False) for row in rows) > 0
    assert all(row["correct"] == 0.0 for row in rows if row["malformed"])


def test_an_instruction_that_is_unknown_is_found_before_a_model_is_loaded(tmp_path: Path) -> None:
    """File, line and what is wrong."""
    file = tmp_path / "mine.jsonl"
    file.write_text(
        json.dumps({"key": 1, "prompt": "써 주세요.", "instruction_id_list": ["length:none"], "kwargs": [{"n": 1}]}),
        encoding="utf-8",
    )
    ((suite, task),) = select_tasks(["instructions"], ["ifeval_ko"])
    built = build_task(suite, task, TaskSettings(None, {"instructions:ifeval_ko": file}))
    with pytest.raises(
        BenchError, match=r"Line 1 of .*mine\.jsonl does not fit [a-z_:]+: there is no instruction 'length:none'\."
    ):
        check_rows(built, None)


def test_a_solution_outside_the_options_is_found_before_a_model_is_loaded(tmp_path: Path) -> None:
    """A row of KMMLU-Pro that names the sixth of five choices."""
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"question": "?", "options": ["가", "나"], "solution": "6"}), encoding="utf-8")
    ((suite, task),) = select_tasks(["knowledge"], ["kmmlu_pro"])
    with pytest.raises(BenchError, match="the solution '6' is none of its 2 options"):
        check_rows(build_task(suite, task, TaskSettings(None, {"knowledge:kmmlu_pro": file})), None)


def test_the_report_shows_categories(runs: dict[str, RunRecord], tmp_path: Path) -> None:
    """A table for each kind of group of each task, with the number of rows; tasks without groups have none."""
    from bitnet_bench.runs.folder import save_record

    save_record(tmp_path / "one", runs["default"])
    section = score_section(name_runs([read_run(tmp_path / "one")]))
    groups = [block for block in section.blocks if isinstance(block, Group)]
    (parts,) = [group.blocks for group in groups if str(group.title) == str(get_text("parts.title"))]
    tables = [block for block in parts if isinstance(block, Table)]
    cells = [str(row.cells[0].text) for table in tables for row in table.rows]
    assert any("geography" in cell for cell in cells)
    assert any("Agreement" in cell for cell in cells)
    assert not any("gsm8k" in cell.lower() for cell in cells)


def test_sets_without_derivatives_have_no_rows_in_the_repository() -> None:
    """KMMLU-Redux, KMMLU-Pro and KMMLU: the rows here are two, two and 45, and were written for these tests."""
    suite = load_suites()["knowledge"]
    limited = [task for task in suite.tasks if "ND" in suite.find_licence(task)]
    assert {"kmmlu", "kmmlu_redux", "kmmlu_pro", "haerae"} == {task.name for task in limited}
    assert all(suite.find_hub_id(task) for task in limited)
    assert suite.embedded is None
    for file in (ROWS / "kmmlu/data").glob("*.csv"):
        (row,) = csv.DictReader(io.StringIO(file.read_text(encoding="utf-8")))
        assert row["question"].startswith("상자 ")


def test_a_run_of_the_whole_suite_takes_the_sets_that_are_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The sets come from seven places: what is missing is said, and not an error; a folder with none of them is one."""
    (tmp_path / "click").symlink_to(ROWS / "click")
    (tmp_path / "haerae").symlink_to(ROWS / "haerae")
    assert [task.name for _, task in select_tasks(["knowledge"], data_dir=tmp_path)] == ["click", "haerae"]
    assert "there are no rows of kmmlu, kmmlu_redux, kmmlu_pro, kobalt, kormedmcqa below" in caplog.text
    empty = tmp_path / "empty"
    empty.mkdir()
    assert len(select_tasks(["knowledge"], data_dir=empty)) == len(CHOICES)
