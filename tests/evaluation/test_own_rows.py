"""Own rows that a task cannot ask or score are refused by file and line, before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.local_rows import read_rows_file
from bitnet_bench.evaluation.select import select_tasks
from bitnet_bench.evaluation.task_run import check_rows, list_training_pairs
from bitnet_bench.evaluation.tasks import BuiltTask, TaskSettings, build_task

PAIR = {"english": "It rains.", "korean": "비가 온다."}


def build(name: str, rows: list[dict[str, Any]], folder: Path) -> BuiltTask:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    suite_name, _, task_name = name.partition(":")
    ((suite, task),) = select_tasks([suite_name], [task_name])
    return build_task(suite, task, TaskSettings(rows={name: file}))


def refusal(name: str, rows: list[dict[str, Any]], folder: Path) -> str:
    with pytest.raises(BenchError) as caught:
        check_rows(build(name, rows, folder), None)
    return caught.value.problem


@pytest.mark.parametrize("field", ["document", "label"])
@pytest.mark.parametrize("line", [1, 2])
def test_a_null_that_a_prompt_or_a_label_needs_is_refused(field: str, line: int, tmp_path: Path) -> None:
    """Asked as the word None, it would be scored."""
    rows: list[dict[str, Any]] = [{"id": f"{i}", "document": "재미있어요", "label": 1} for i in range(3)]
    rows[line - 1][field] = None
    problem = refusal("classification:nsmc", rows, tmp_path)
    assert f"Line {line} of " in problem
    assert f'a null in "{field}"' in problem


def test_a_null_that_no_prompt_needs_is_none_of_its_business(tmp_path: Path) -> None:
    rows = [{"id": None, "document": "재미있어요", "label": 1}, {"id": "2", "document": "None of it", "label": 0}]
    check_rows(build("classification:nsmc", rows, tmp_path), None)


def test_a_null_choice_and_a_null_reference_are_refused(tmp_path: Path) -> None:
    endings = {f"ending_{i}": f"끝 {i}" for i in range(1, 5)}
    row = {"context": "문장.", **endings, "label": 0}
    assert "Line 2 of" in (problem := refusal("sample:hellaswag", [row, row | {"ending_2": None}], tmp_path))
    assert '"ending_2"' in problem
    assert '"korean"' in refusal("sample:translation", [PAIR, PAIR | {"korean": None}], tmp_path)


def test_a_choice_without_text_is_refused(tmp_path: Path) -> None:
    endings = {f"ending_{i}": f"끝 {i}" for i in range(1, 5)}
    row = {"context": "문장.", **endings, "label": 0}
    problem = refusal("sample:hellaswag", [row, row | {"ending_2": " "}], tmp_path)
    assert "Line 2 of " in problem
    assert "no text in choice 2 of 4" in problem


@pytest.mark.parametrize("value", [2024, True, ["가"], {"가": "나"}])
def test_two_types_in_one_field_are_refused(value: Any, tmp_path: Path) -> None:
    """In a field that is asked, and in one that is not."""
    for field in ("english", "id"):
        rows = [{"id": "a", **PAIR}, {"id": "b", **PAIR}, {"id": "c", **PAIR} | {field: value}]
        problem = refusal("sample:translation", rows, tmp_path)
        assert problem.startswith("Line 3 of ")
        assert f'in "{field}", and line 1 has a text' in problem


def test_two_types_deep_within_a_field_are_refused(tmp_path: Path) -> None:
    rows = [
        {"context": "글", "question": "왜?", "answers": ["가"]},
        {"context": "글", "question": "왜?", "answers": [3]},
    ]
    assert "Line 2 of" in (problem := refusal("sample:qa", rows, tmp_path))
    assert '"answers[]"' in problem


def test_half_a_character_and_a_field_that_stands_twice_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    good = json.dumps(PAIR)
    for bad, said in (('{"english": "\\ud83d", "korean": "가"}', "half a character"), ('{"a": 1, "a": 2}', "twice")):
        file.write_text(f"{good}\n{bad}\n", encoding="utf-8")
        with pytest.raises(BenchError, match=f"Line 2 of .*{said}"):
            read_rows_file(file, "")


@pytest.mark.parametrize("text", ["[1, 2]", "['가', '나']", "[]", "(1)"])
def test_an_answer_that_looks_like_a_list_is_a_text(text: str, tmp_path: Path) -> None:
    """lm-eval reads a target in brackets as a Python list; the reference is the text as it stands."""
    from bitnet_bench.evaluation.task_run import _read_gold_answer

    built = build("sample:qa", [{"context": "글", "question": "무엇?", "answers": [text]}], tmp_path)
    check_rows(built, None)
    (doc,) = built.lm_task.test_docs()
    assert _read_gold_answer(built, doc, 0).references == (text,)


def test_training_rows_of_a_task_that_hold_null_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The word None is not learned, and the log counts the rows."""
    folder = tmp_path / "nsmc"
    folder.mkdir()
    for split, texts in (("train", ["좋아요", None, "별로예요"]), ("test", ["그저 그래요"])):
        rows = [{"id": f"{i}", "document": text, "label": 1} for i, text in enumerate(texts)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    ((suite, task),) = select_tasks(["classification"], ["nsmc"])
    pairs, _ = list_training_pairs(build_task(suite, task, TaskSettings(tmp_path)), None)
    assert [prompt for prompt, _ in pairs] == ["리뷰: 좋아요 긍부정:", "리뷰: 별로예요 긍부정:"]
    assert "1 training rows are left out" in caplog.text


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.fixed_dictionaries({"english": JSON, "korean": JSON}), min_size=1, max_size=3))
def test_any_values_are_asked_or_refused_in_a_sentence(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    try:
        check_rows(build("sample:translation", rows, tmp_path), None)
    except BenchError as error:
        said = error.problem
    else:
        return
    assert "rows.jsonl" in said


@pytest.mark.parametrize("values", [[0, 1, 2], [True] * 3, [{"a": 1}] * 3, [["가"]] * 3, [1.5] * 3, [[]] * 3])
@pytest.mark.parametrize("field", ["english", "korean"])
def test_what_is_no_text_in_any_row_is_refused_where_a_text_is_asked(
    field: str, values: list[Any], tmp_path: Path
) -> None:
    """It would be asked as the word True or as code, and scored; a list of gold texts is one of references."""
    if field == "korean" and values[0] == ["가"]:
        return
    problem = refusal("sample:translation", [PAIR | {field: value} for value in values], tmp_path)
    assert problem.startswith("Line 1 of ")
    assert field in problem or "gold answer" in problem
    assert "TypeError" not in problem


@pytest.mark.parametrize(
    ("name", "row", "field"),
    [
        ("sample:copa", {"premise": 5, "question": "원인", "alternative_1": "가", "alternative_2": "나"}, "premise"),
        ("sample:copa", {"premise": "비", "question": "원인", "alternative_1": 1, "alternative_2": 2}, "alternative_1"),
        ("sample:boolq", {"paragraph": True, "question": "왜?"}, "paragraph"),
        ("sample:wic", {"context_1": "가", "context_2": "나", "word": {"a": 1}}, "word"),
        ("classification:nsmc", {"document": 2024}, "document"),
    ],
)
def test_a_number_is_refused_in_a_prompt_and_in_a_choice_and_not_in_a_label(
    name: str, row: dict[str, Any], field: str, tmp_path: Path
) -> None:
    problem = refusal(name, [row | {"label": 0}] * 2, tmp_path)
    assert problem.startswith("Line 1 of ")
    assert f'in "{field}", where {name} needs a text' in problem
    texts = {key: value if isinstance(value, str) else str(i) for i, (key, value) in enumerate(row.items())}
    check_rows(build(name, [{"idx": 0, **texts, "label": 1}, {"idx": 1, **texts, "label": 0}], tmp_path), None)


def test_numbers_in_a_list_of_gold_texts_are_refused(tmp_path: Path) -> None:
    problem = refusal("sample:qa", [{"context": "글", "question": "언제?", "answers": [3]}], tmp_path)
    assert 'a number in "answers[]"' in problem


BLANK = ["", " ", "\n\t", "\u200b", "\u200b \u2060\ufeff", "\u3164"]


@pytest.mark.parametrize("blank", BLANK)
def test_a_text_with_nothing_to_see_is_refused_where_it_is_asked_or_expected(blank: str, tmp_path: Path) -> None:
    """A prompt without its sentence and an empty gold text are scored, and mean nothing."""
    copa = {"premise": "비가 왔다.", "question": "원인", "alternative_1": "가", "alternative_2": "나", "label": 0}
    for name, row, field in (
        ("sample:translation", PAIR, "english"),
        ("sample:translation", PAIR, "korean"),
        ("sample:copa", copa, "premise"),
        ("sample:summarization", {"document": "글", "summary": "글"}, "document"),
        ("language_modeling:own", {"text": "글"}, "text"),
    ):
        problem = refusal(name, [row, row | {field: blank}], tmp_path)
        assert problem.startswith("Line 2 of ")
        assert f'no text to see in "{field}"' in problem or "no text in its gold answer" in problem
    assert "no text in choice 2 of 2" in refusal("sample:copa", [copa | {"alternative_2": blank}] * 2, tmp_path)


def test_a_blank_field_that_is_not_asked_or_that_a_prompt_leaves_out_is_none_of_its_business(tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    suite.mkdir()
    (suite / "suite.yaml").write_text(
        "name: mine\nversion: '1'\ntitle: t\nlicence: l\ncitation: c\ntasks:\n"
        "  - {name: t, metrics: [exact_match], chance: 0.0, own_rows: true}\n"
    )
    (suite / "t.yaml").write_text(
        "task: bb_mine_t\ndataset_path: json\noutput_type: generate_until\ntest_split: test\n"
        'doc_to_text: "{% if hint %}힌트: {{hint}} {% endif %}{{a * 2}} {{names[b]}}:"\ndoc_to_target: c\n'
        "metric_list: [{metric: bypass, aggregation: bypass, higher_is_better: true}]\nmetadata: {version: 1.0}\n"
    )
    file = tmp_path / "rows.jsonl"
    row = {"hint": "", "a": 2, "b": 0, "names": ["0"], "c": "가", "note": " "}
    file.write_text(json.dumps(row) + "\n")
    ((found, task),) = select_tasks([str(suite)], ["t"])
    check_rows(build_task(found, task, TaskSettings(rows={f"{found.name}:t": file})), None)


def test_equal_choices_are_scored_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """They may be meant; the warning counts them and names the first line."""
    row = {"premise": "비가 왔다.", "question": "원인", "alternative_1": "가", "alternative_2": "나", "label": 0}
    rows = [row, row | {"alternative_2": "가 "}, row | {"alternative_1": "나"}]
    check_rows(build("sample:copa", rows, tmp_path), None)
    assert "2 rows have equal choices" in caplog.text
    assert "Line 2 of " in caplog.text
    caplog.clear()
    check_rows(build("sample:copa", rows, tmp_path), 1)
    assert caplog.text == ""
