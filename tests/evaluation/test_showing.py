"""A task is shown before it is run, and rows of your own are told all that they lack."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bitnet_bench.cli.evaluating import describe_task
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.evaluation.evaluate import evaluate
from bitnet_bench.evaluation.local_rows import count_rows, read_rows_file
from bitnet_bench.evaluation.needed_fields import find_needed_fields
from bitnet_bench.evaluation.select import load_suites, select_tasks
from bitnet_bench.evaluation.showing import list_shown_tasks
from bitnet_bench.evaluation.task_hooks import TaskHooks
from bitnet_bench.evaluation.task_run import check_rows
from bitnet_bench.evaluation.tasks import BuiltTask, TaskSettings, build_task
from bitnet_bench.runs.jobs import EvaluateJob

BOOLQ = [
    {"paragraph": "새는 난다.", "question": "새는 나는가?", "label": 1},
    {"paragraph": "물고기는 헤엄친다.", "question": "물고기는 걷는가?", "label": 0},
]


def build(name: str, file: Path) -> BuiltTask:
    ((suite, task),) = select_tasks([name.rpartition(":")[0]], [name.rpartition(":")[2]])
    return build_task(suite, task, TaskSettings(rows={name: file}))


def write_lines(folder: Path, *rows: dict[str, Any]) -> Path:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder / "rows.jsonl"


def test_a_task_is_shown_with_a_row_as_it_is_asked() -> None:
    """What rows of your own need stands first; the answer is a text that the model may choose."""
    (shown,) = list_shown_tasks("sample:boolq")
    assert shown.example is not None
    assert shown.prompt == f"{shown.example['paragraph']} 질문: {shown.example['question']} 답변:"
    assert (shown.needed, shown.choices, shown.delimiter) == (("paragraph", "question", "label"), ("아니오", "예"), " ")
    assert shown.answer == shown.choices[shown.example["label"]]
    assert (list(shown.fields), shown.fields["label"]) == (["paragraph", "question", "label", "id"], "number")
    assert (shown.metrics, shown.chance, shown.licence) == (("macro_f1", "accuracy"), 50.0, "Apache-2.0")
    assert (shown.rows, shown.training_rows, shown.unavailable) == (120, 240, "")


def test_the_text_of_a_task_has_all_of_it() -> None:
    """And the command that scores rows of your own."""
    (shown,) = list_shown_tasks("sample:boolq")
    text = describe_task(shown)
    assert shown.prompt is not None
    parts = ["macro_f1 (primary), accuracy; chance 50.0", "Apache-2.0", "test.jsonl", "120 test, 240 training",
             "paragraph (text), question (text), label (number); not read: id",
             shown.prompt, f"Answer: ' {shown.answer}'",
             "--suite sample --task boolq --rows sample:boolq=FILE"]  # fmt: skip
    assert [part for part in parts if part not in text] == []


@pytest.mark.parametrize("name", ["translation:own_en_ko", "language_modeling:own", "klue:ynat", "kobest:copa"])
def test_a_task_without_rows_here_shows_the_fields_that_it_needs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And says why there is no row, and how to give some."""
    monkeypatch.delenv("BITNET_BENCH_DATA", raising=False)  # of whoever runs the tests
    (shown,) = list_shown_tasks(name)
    assert shown.example is None
    assert shown.needed == {
        "translation:own_en_ko": ("en", "ko"),
        "language_modeling:own": ("text",),
        "klue:ynat": ("title", "label"),
    }.get(name, shown.needed)
    assert shown.needed
    assert "No row to show" in describe_task(shown)
    assert "--data-dir" in describe_task(shown) or "--rows" in describe_task(shown)


def test_every_task_of_the_suites_is_shown() -> None:
    """As far as it can be without rows: all of a suite by its name."""
    for suite in load_suites().values():
        assert [one.task for one in list_shown_tasks(suite.name)] == [f"{suite.name}:{t.name}" for t in suite.tasks]


@pytest.mark.parametrize("name", ["sample:bolq", "smple", "smple:boolq"])
def test_a_task_that_is_not_there_is_suggested(name: str) -> None:
    """Whichever part is wrong."""
    with pytest.raises(UsageError, match=r"Did you mean (boolq|sample)"):
        list_shown_tasks(name)


def test_all_fields_that_are_missing_are_named_at_once(tmp_path: Path) -> None:
    """With those that are there, and the command that shows a row."""
    with pytest.raises(BenchError) as caught:
        build("sample:boolq", write_lines(tmp_path, {"question": "새는?", "passage": "글"}))
    assert '"paragraph" and "label", which sample:boolq reads; its rows have "question" and "passage"' in str(
        caught.value
    )
    assert "suites show sample:boolq" in caught.value.hint


def test_fields_are_found_in_templates_functions_and_hooks() -> None:
    """What a template can do without is not needed, and a function is tried on what there is."""
    config = {
        "doc_to_text": "{{passage}} {% if hint is defined %}{{hint}}{% endif %} {{title | default('')}} {{items[0].a}}",
        "doc_to_target": lambda row: row["gold"] + row["unit"],
        "doc_to_choice": ["a", "b"],
    }
    hooks = TaskHooks(references=lambda row: [row["answers"]["text"]])
    assert find_needed_fields(config, hooks, {"gold": "1"}) == ["passage", "items", "gold", "unit", "answers"]
    assert find_needed_fields({"doc_to_text": "text", "doc_to_target": "", "doc_to_choice": "two words"}) == ["text"]
    assert find_needed_fields({**config, "process_docs": list}) == []


@pytest.mark.parametrize("suffix", [".json", ".csv", ".tsv", ".parquet"])
def test_own_rows_are_read_in_every_form(suffix: str, tmp_path: Path) -> None:
    """The whole numbers of a table are numbers, as labels are."""
    file = tmp_path / f"rows{suffix}"
    if suffix == ".json":
        file.write_text(json.dumps(BOOLQ), encoding="utf-8")
    elif suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(BOOLQ), file)
    else:
        between = "," if suffix == ".csv" else "\t"
        lines = [between.join(map(str, row)) for row in (BOOLQ[0], *(row.values() for row in BOOLQ))]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert read_rows_file(file, "")[0] == BOOLQ
    assert count_rows(file) == 2
    check_rows(build("sample:boolq", file), None)


@pytest.mark.parametrize("cells", [("01", "2"), ("1.5", "2"), ("1", ""), ("1", "하나"), ("+1", "2")])
def test_a_column_that_is_not_all_whole_numbers_stays_text(cells: tuple[str, str], tmp_path: Path) -> None:
    """A telephone number begins with 0."""
    (tmp_path / "rows.csv").write_text("a,b\n" + "".join(f"글,{cell}\n" for cell in cells), encoding="utf-8")
    assert [row["b"] for row in read_rows_file(tmp_path / "rows.csv", "")[0]] == [cell or None for cell in cells]


def test_rows_of_a_task_that_is_not_scored_are_an_error(tmp_path: Path) -> None:
    """They were ignored before, and the task's own rows scored."""
    file = write_lines(tmp_path, *BOOLQ)
    job = EvaluateJob(rows={"sample:bolq": str(file)})
    with pytest.raises(UsageError, match=r"names sample:bolq, which is not among the tasks.\n.*sample:boolq"):
        evaluate("demo", select_tasks(["sample"], ["boolq"]), tmp_path / "run", job)
    assert not (tmp_path / "run").exists()


def test_a_task_of_lm_eval_is_scored_on_a_file(tmp_path: Path) -> None:
    """Without the hub, in the fields that the hub's rows have."""
    rows = [{"query": f"질문 {i}\n### 답:", "options": "(A) (B)", "answer": f"({'AB'[i]})"} for i in range(2)]
    name = "lm-eval:haerae_general_knowledge"
    job = EvaluateJob(rows={name: str(write_lines(tmp_path, *rows))})
    record = evaluate("demo", select_tasks([name]), tmp_path / "run", job)
    assert {(score.task, score.n) for score in record.scores} == {(name, 2)}
    assert not record.errors


def test_a_task_of_lm_eval_without_the_hub_names_the_option(tmp_path: Path) -> None:
    """Because no data directory has its rows."""
    name = "lm-eval:haerae_general_knowledge"
    with pytest.raises(BenchError, match=f"has no local rows, and .*\n.*`rows={name}=FILE`"):
        evaluate("demo", select_tasks([name]), tmp_path / "run", EvaluateJob())


def test_a_task_can_be_shown_as_json(run_command: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """One list of one document, and `suites` alone lists all as before."""
    (shown,) = json.loads(run_command("suites", "show", "sample:qa", "--json").stdout)
    assert (shown["task"], shown["metrics"][0], bool(shown["prompt"])) == ("sample:qa", "char_f1", True)
    assert {"sample", "klue"} <= {task["suite"] for task in json.loads(run_command("suites", "--json").stdout)}
