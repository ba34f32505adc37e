"""Suites and their task files say the same, and lm-eval indexes every one of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitnet_bench import api
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.evaluation.tasks import build_task, read_split
from bitnet_bench.metrics import metric


def test_lm_eval_indexes_every_task_of_every_suite() -> None:
    """lm-eval swallows a YAML that it cannot parse, so each must be found under its prefixed name."""
    from lm_eval.tasks import TaskManager

    suites = api.suites().values()
    indexed = TaskManager(include_path=[str(s.folder) for s in suites], include_defaults=False).all_tasks
    assert sorted(indexed) == sorted(f"bb_{s.name}_{t.name}" for s in suites for t in s.tasks)


def test_every_metric_that_a_suite_names_exists() -> None:
    """A typo in suite.yaml would show only after an hour of evaluation."""
    for suite in api.suites().values():
        for task in suite.tasks:
            for name in task.metrics:
                assert metric(name).signature().startswith(("rougeL", "chrf", name))


def test_unknown_suite_and_task_name_the_nearest() -> None:
    """A misspelt name is wrong use, and the answer says what was probably meant."""
    with pytest.raises(UsageError, match="kobset") as suite_error:
        api.select_tasks(["kobset"])
    assert "Did you mean kobest?" in suite_error.value.hint
    with pytest.raises(UsageError) as task_error:
        api.select_tasks(["kobest"], ["bolq"])
    assert "Did you mean boolq?" in task_error.value.hint


def test_prompts_have_no_double_space() -> None:
    """lm-eval's own BoolQ and COPA prompts have one; ours, with the delimiter before a choice, have none."""
    from bitnet_bench.evaluation.run import training_rows

    for suite, task in api.select_tasks(["sample"]):
        for prompt, response in training_rows(suite, task, None, 5):
            assert "  " not in prompt + response
            assert response.startswith(" ")


def test_sample_splits_share_no_row() -> None:
    """What quickstart trains on is not what it is scored on."""
    suite = api.suites()["sample"]
    for task in suite.tasks:
        train, test = (
            {json.dumps({k: v for k, v in row.items() if k not in ("id", "label")}, sort_keys=True) for row in rows}
            for rows in (_rows(suite, task, "train"), _rows(suite, task, "test"))
        )
        assert not train & test


def _rows(suite, task, split):  # type: ignore[no-untyped-def]
    return read_split(suite.rows_file(task, split, None), suite)


def test_missing_rows_name_the_file_and_the_hub(tmp_path: Path) -> None:
    """A data directory without the task's folder is a sentence with the path and where else rows are."""
    ((suite, task),) = api.select_tasks(["kobest"], ["copa"])
    with pytest.raises(BenchError, match=r"copa.test\.jsonl") as error:
        build_task(suite, task, tmp_path)
    assert "skt/kobest_v1" in error.value.hint


def test_rows_that_do_not_fit_the_task_are_refused(tmp_path: Path) -> None:
    """A field that the prompt needs and no row has would make an empty prompt; it is a sentence instead."""
    folder = tmp_path / "kobest/copa"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text('{"premise": "비가 왔다.", "label": 0}\n', encoding="utf-8")
    ((suite, task),) = api.select_tasks(["kobest"], ["copa"])
    with pytest.raises(BenchError, match="first row of kobest:copa does not fit"):
        build_task(suite, task, tmp_path)


@pytest.mark.parametrize(
    ("line", "complaint"), [("{", "Line 2"), ("[1]", "Line 2"), ('{"premise": "가"}', 'Line 2 .* no "label"')]
)
def test_a_malformed_row_is_named_by_file_and_line(tmp_path: Path, line: str, complaint: str) -> None:
    """A row that is no JSON, no object or lacks a field stops the run before the model is loaded."""
    file = tmp_path / "test.jsonl"
    file.write_text('{"premise": "나", "label": 1}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(BenchError, match=complaint):
        read_split(file, api.suites()["kobest"])


def test_a_label_outside_the_set_is_refused(tmp_path: Path) -> None:
    """A label that is none of the choices cannot be scored, and must not become a wrong answer in silence."""
    from bitnet_bench.backends.hf import HFBackend
    from bitnet_bench.evaluation.run import evaluate_task

    folder = tmp_path / "kobest/sentineg"
    folder.mkdir(parents=True)
    rows = '{"sentence": "좋아요", "label": 1}\n{"sentence": "싫어요", "label": 7}\n'
    (folder / "test.jsonl").write_text(rows, encoding="utf-8")
    ((suite, task),) = api.select_tasks(["kobest"], ["sentineg"])
    opened = HFBackend().open(api.open_checkpoint("demo"), "ternary")
    with opened as session, pytest.raises(BenchError, match="label 7") as error:
        evaluate_task(session, suite, task, build_task(suite, task, tmp_path), None, lambda *_: None)
    assert "kobest:sentineg" in error.value.problem
