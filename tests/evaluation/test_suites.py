"""Suites and their task files say the same, and lm-eval indexes every one of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from lm_eval.api.model import LM

from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.evaluation import select
from bitnet_bench.evaluation.local_rows import read_rows_file
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.task_run import check_rows, evaluate_task, list_training_pairs
from bitnet_bench.evaluation.tasks import BuiltTask, TaskSettings, build_task
from bitnet_bench.metrics import load_metric


def test_lm_eval_indexes_every_task_of_every_suite() -> None:
    """lm-eval swallows a YAML that it cannot parse, so each must be found under its prefixed name."""
    from lm_eval.tasks import TaskManager

    suites = select.load_suites().values()
    indexed = TaskManager(include_path=[str(s.folder) for s in suites], include_defaults=False).all_tasks
    assert sorted(indexed) == sorted(f"bb_{s.name}_{t.name}" for s in suites for t in s.tasks)


def test_every_metric_that_a_suite_names_exists() -> None:
    """A typo in suite.yaml would show only after an hour of evaluation."""
    for suite in select.load_suites().values():
        for task in suite.tasks:
            for name in task.metrics:
                signed = load_metric(name).signature().lower().replace("_", "")
                assert signed.startswith(name.partition(":")[0].replace("_", ""))


def test_unknown_suite_and_task_name_the_nearest() -> None:
    """A misspelt name is wrong use, and the answer says what was probably meant."""
    with pytest.raises(UsageError, match="kobset") as suite_error:
        select_tasks(["kobset"])
    assert "Did you mean kobest?" in suite_error.value.hint
    with pytest.raises(UsageError) as task_error:
        select_tasks(["kobest"], ["bolq"])
    assert "Did you mean boolq?" in task_error.value.hint


def test_prompts_have_no_double_space() -> None:
    """lm-eval's own BoolQ and COPA prompts have one; ours, with the delimiter before a choice, have none."""
    for suite, task in select_tasks(["sample"]):
        for prompt, response in list_training_pairs(build_task(suite, task, TaskSettings()), 5)[0]:
            assert "  " not in prompt + response
            assert response.startswith(" ")


def test_sample_splits_share_no_row() -> None:
    """What quickstart trains on is not what it is scored on."""
    suite = select.load_suites()["sample"]
    for task in suite.tasks:
        train, test = (
            {json.dumps({k: v for k, v in row.items() if k not in ("id", "label")}, sort_keys=True) for row in rows}
            for rows in (_rows(suite, task, "train"), _rows(suite, task, "test"))
        )
        assert not train & test


def _rows(suite, task, split):  # type: ignore[no-untyped-def]
    return read_rows_file(suite.find_rows_file(task, split, None), "")[0]


def test_missing_rows_name_the_file_and_the_hub(tmp_path: Path) -> None:
    """A data directory without the task's folder is a sentence with the path and where else rows are."""
    ((suite, task),) = select_tasks(["kobest"], ["copa"])
    with pytest.raises(BenchError, match=r"copa.test\.jsonl") as error:
        build_task(suite, task, TaskSettings(tmp_path))
    assert "skt/kobest_v1" in error.value.hint


def test_rows_that_do_not_fit_the_task_are_refused(tmp_path: Path) -> None:
    """A field that the prompt needs and no row has would make an empty prompt; it is a sentence instead."""
    folder = tmp_path / "kobest/copa"
    folder.mkdir(parents=True)
    (folder / "test.jsonl").write_text('{"premise": "비가 왔다.", "label": 0}\n', encoding="utf-8")
    ((suite, task),) = select_tasks(["kobest"], ["copa"])
    with pytest.raises(BenchError, match=r"first row of kobest:copa .* does not fit"):
        build_task(suite, task, TaskSettings(tmp_path))


@pytest.mark.parametrize(
    ("line", "complaint"), [("{", "Line 2"), ("[1]", "Line 2"), ('{"premise": "가"}', 'Line 2 .* no "label"')]
)
def test_a_malformed_row_is_named_by_file_and_line(tmp_path: Path, line: str, complaint: str) -> None:
    """A row that is no JSON, no object or lacks a field stops the run before the model is loaded."""
    file = tmp_path / "test.jsonl"
    file.write_text('{"premise": "나", "label": 1}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(BenchError, match=complaint):
        read_rows_file(file, "")


def test_a_label_outside_the_set_is_refused(tmp_path: Path) -> None:
    """A label that is none of the choices cannot be scored: the line is named before any model is loaded."""
    folder = tmp_path / "kobest/sentineg"
    folder.mkdir(parents=True)
    rows = '{"sentence": "좋아요", "label": 1}\n\n{"sentence": "싫어요", "label": 7}\n'
    (folder / "test.jsonl").write_text(rows, encoding="utf-8")
    ((suite, task),) = select_tasks(["kobest"], ["sentineg"])
    built = build_task(suite, task, TaskSettings(tmp_path))
    with pytest.raises(BenchError, match=r"Line 3 .*label 7"):
        check_rows(built, None)
    check_rows(built, 1)  # a row that --limit leaves out is nobody's trouble


def test_a_broken_squad_file_is_named(tmp_path: Path) -> None:
    """KorQuAD is one JSON file; another layout under its name is a sentence."""
    file = tmp_path / "dev.json"
    for text in ("{}", "{", '{"data": [{"title": "가"}]}'):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(BenchError, match="not in SQuAD's layout"):
            read_rows_file(file, "")


def test_a_run_takes_the_tasks_that_have_rows(tmp_path: Path) -> None:
    """XL-Sum is on the hub only, and one's own pairs are nowhere: neither breaks a run of the whole suite."""
    offline = {f"{s.name}:{t.name}" for s, t in select_tasks(["summarization", "translation"], [], tmp_path)}
    assert "summarization:sae4k" in offline
    assert not offline & {"summarization:xlsum", "translation:own_en_ko"}
    online = {t.name for _, t in select_tasks(["summarization"])}
    assert online == {"xlsum"}
    assert [t.name for _, t in select_tasks(["summarization"], ["xlsum"], tmp_path)] == ["xlsum"]


def test_own_rows_stand_for_a_test_split(tmp_path: Path) -> None:
    """Any JSONL of pairs can be scored; without it the task says how to name one."""
    ((suite, task),) = select_tasks(["translation"], ["own_en_ko"])
    with pytest.raises(BenchError) as missing:
        build_task(suite, task, TaskSettings())
    assert "`rows=translation:own_en_ko=FILE`" in missing.value.hint
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"en": "It rains.", "ko": "비가 온다."}\n', encoding="utf-8")
    built = build_task(suite, task, TaskSettings(rows={"translation:own_en_ko": file}))
    (doc,) = built.lm_task.test_docs()
    assert built.lm_task.doc_to_text(doc) == "영어: It rains.\n한국어:"
    assert built.source == str(file)


def test_shots_are_the_same_seeded_training_rows_for_every_question() -> None:
    """Few-shot examples are fixed by the seed, come from the training split, and are never the question itself."""
    ((suite, task),) = select_tasks(["sample"], ["sentineg"])

    def contexts(seed: int) -> list[str]:
        built = build_task(suite, task, TaskSettings(shots=2, seed=seed)).lm_task
        return [built.fewshot_context(doc, 2) for doc in list(built.test_docs())[:3]]

    first = contexts(0)
    head = first[0].rsplit("문장:", 1)[0]
    assert all(context.startswith(head) for context in first)
    assert head.count("긍부정: ") == 2  # each example ends with its answer
    assert contexts(0) == first != contexts(1)
    train = {row["sentence"] for row in _rows(suite, task, "train")}
    assert {line.split(" 긍부정")[0].removeprefix("문장: ") for line in head.strip().split("\n\n")} <= train


def test_too_many_shots_are_refused() -> None:
    """More examples than training rows is a sentence, not an assertion of lm-eval's."""
    ((suite, task),) = select_tasks(["sample"], ["sentineg"])
    with pytest.raises(BenchError, match="training rows for 100000 shots"):
        build_task(suite, task, TaskSettings(shots=100000))


def test_training_rows_that_evaluation_asks_are_left_out(tmp_path: Path) -> None:
    """Equal text under other spacing, case or Unicode form is the same row."""
    folder = tmp_path / "nsmc"
    folder.mkdir()
    (folder / "test.jsonl").write_text('{"document": "정말 Good!", "label": 1}\n', encoding="utf-8")
    train = [{"document": "정말good", "label": 1}, {"document": "별로다", "label": 0}]
    (folder / "train.jsonl").write_text("\n".join(map(json.dumps, train)), encoding="utf-8")
    ((suite, task),) = select_tasks(["classification"], ["nsmc"])
    pairs, overlap = list_training_pairs(build_task(suite, task, TaskSettings(tmp_path)), None)
    assert (pairs, overlap) == ([("리뷰: 별로다 긍부정:", " 부정")], 1)


def test_lm_evals_own_prompts_are_a_mode_of_kobest(tmp_path: Path) -> None:
    """`--prompts lm-eval` asks exactly what lm-eval ships, its double space included."""
    folder = tmp_path / "kobest/boolq"
    folder.mkdir(parents=True)
    row = {"paragraph": "비가 왔다.", "question": "비가 왔나?", "label": 1}
    (folder / "test.jsonl").write_text(json.dumps(row), encoding="utf-8")
    ((suite, task),) = select_tasks(["kobest"], ["boolq"])
    ours, theirs = (build_task(suite, task, TaskSettings(tmp_path, prompts=p)).lm_task for p in ("default", "lm-eval"))
    assert ours.fewshot_context(row, 0) == "비가 왔다. 질문: 비가 왔나? 답변:"
    assert theirs.fewshot_context(row, 0) == "비가 왔다. 질문: 비가 왔나? 답변: "
    with pytest.raises(UsageError, match="no prompts called 'lmeval'"):
        build_task(suite, task, TaskSettings(tmp_path, prompts="lmeval"))


@pytest.fixture
def haerae_rows(tmp_path: Path) -> Path:
    """Two rows in the shape of HAE-RAE Bench, written for this test."""
    query = "### 질문: 물은 몇 도에서 끓는가?\n### 선택지:\n(A) 100\n(B) 10\n(C) 1\n(D) 0\n(E) 50\n### 정답:"
    file = tmp_path / "haerae.jsonl"
    lines = [json.dumps({"query": query, "answer": answer}) for answer in ("(A)", "(B)")]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_lm_evals_own_tasks_run_by_name(haerae_rows: Path, gold: Callable[[BuiltTask], LM]) -> None:
    """A group of lm-eval's becomes its single tasks, asked and scored as lm-eval does."""
    pairs = select_tasks(["lm-eval:haerae"])
    assert {"haerae_history", "haerae_loan_word"} <= {task.name for _, task in pairs}
    (pair,) = select_tasks(["lm-eval:haerae_history"])
    assert pair[1].hub == "HAERAE-HUB/HAE_RAE_BENCH"
    built = build_task(*pair, TaskSettings(rows={"lm-eval:haerae_history": haerae_rows}))
    result = evaluate_task(gold(built), built)
    assert [(s.metric, s.value, s.n) for s in result.scores] == [("acc", 100.0, 2), ("acc_norm", 100.0, 2)]
    assert result.scores[0].signature.startswith("acc|lm-eval:")
    assert [e.correct for e in result.examples] == [1.0, 1.0]


def test_an_unknown_task_of_lm_evals_names_the_nearest() -> None:
    """`lm-eval:haerea` is wrong use."""
    with pytest.raises(UsageError, match="haerae_histori") as error:
        select_tasks(["lm-eval:haerae_histori"])
    assert "haerae_history" in error.value.hint
