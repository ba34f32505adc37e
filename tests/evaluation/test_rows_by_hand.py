"""What is read from a file of evaluation rows, and with which words a row is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.local_rows import compute_rows_digest, count_rows, read_rows_file
from bitnet_bench.evaluation.row_fields import check_types, find_null

FILE = Path("rows.jsonl")


def fail(act: Callable[[], Any]) -> tuple[str, str]:
    """Return the two sentences with which *act* refuses."""
    with pytest.raises(BenchError) as caught:
        act()
    return caught.value.problem, caught.value.hint


def write(folder: Path, text: str, name: str = "rows.jsonl") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_rows_have_the_line_on_which_they_stand(tmp_path: Path) -> None:
    """Blank lines count; text is in NFC; a row may have more fields than the first."""
    file = write(tmp_path, '\n{"a": "\u1112\u1161\u11ab"}\n\n{"a": "b", "c": 1}\n')
    assert read_rows_file(file, "") == ([{"a": "한"}, {"a": "b", "c": 1}], [2, 4])
    assert count_rows(file) == 2


@pytest.mark.parametrize(
    ("text", "problem", "hint"),
    [
        ("", "{} has no rows.", "Get the data again."),
        ('{"a": 1}\n[1]\n', "Line 2 of {} is not a JSON object.", "Correct or remove it."),
        (
            '{"a": 1, "c": 1, "b": 1}\n{"a": 1}\n',
            'Line 2 of {} has no "b", "c".',
            "Every row needs the same fields.",
        ),
        ('{"a": 1}\n{"a": 1, "a": 2}\n', 'Line 2 of {} has the field "a" twice.', "Correct or remove it."),
        (
            '{"a": 1}\n\n{"a": "1"}\n',
            'Line 3 of {} has a text in "a", and line 1 has a number.',
            "A field needs the same type in every row.",
        ),
    ],
)
def test_a_file_of_rows_is_refused_by_its_line(text: str, problem: str, hint: str, tmp_path: Path) -> None:
    file = write(tmp_path, text)
    assert fail(lambda: read_rows_file(file, "")) == (problem.format(file), hint)


def test_a_missing_file_has_the_hint_of_who_asks(tmp_path: Path) -> None:
    """A folder is no file."""
    for file in (tmp_path, tmp_path / "gone.jsonl"):
        assert fail(lambda file=file: read_rows_file(file, "Get it.")) == (f"There is no {file}.", "Get it.")  # type: ignore[misc]


SQUAD = {
    "data": [
        {
            "title": "t1",
            "paragraphs": [
                {
                    "context": "c1",
                    "qas": [
                        {"id": "1", "question": "q1", "answers": [{"text": "가", "answer_start": 3}], "other": 1},
                        {
                            "id": "2",
                            "question": "q2",
                            "answers": [{"text": "나", "answer_start": 0}, {"text": "다", "answer_start": 5}],
                        },
                    ],
                },
                {"context": "c2", "qas": []},
            ],
        },
        {
            "title": "t2",
            "paragraphs": [{"context": "c3", "qas": [{"id": "3", "question": "\u1100\u1161", "answers": []}]}],
        },
    ]
}


def test_a_file_in_squad_s_layout_is_a_row_for_each_question(tmp_path: Path) -> None:
    """With its title, its paragraph and all its answers; a byte-order mark is no part of it."""
    file = write(tmp_path, "\ufeff" + json.dumps(SQUAD), "dev.json")
    rows, lines = read_rows_file(file, "")
    assert rows == [
        {"id": "1", "title": "t1", "context": "c1", "question": "q1", "answers": {"text": ["가"], "answer_start": [3]}},
        {
            "id": "2",
            "title": "t1",
            "context": "c1",
            "question": "q2",
            "answers": {"text": ["나", "다"], "answer_start": [0, 5]},
        },
        {"id": "3", "title": "t2", "context": "c3", "question": "가", "answers": {"text": [], "answer_start": []}},
    ]
    assert lines == [1, 1, 1]
    assert count_rows(file) == 3


@pytest.mark.parametrize(
    ("text", "fault"), [("{}", "KeyError('data')"), ("3", "TypeError("), ("{", "BadRowError('is not JSON (")]
)
def test_another_layout_is_refused_with_what_is_lacking(text: str, fault: str, tmp_path: Path) -> None:
    file = write(tmp_path, text, "dev.json")
    problem, hint = fail(lambda: read_rows_file(file, ""))
    assert problem.startswith(f"{file} is not in SQuAD's layout: {fault}")
    assert hint == "Get the file again, unchanged."


def test_the_digest_of_rows_is_of_their_fields_in_order_of_name() -> None:
    """Rows in their own order, Korean as it is written."""
    text = '{"a": "가", "b": 1}{"c": null}'
    expected = hashlib.sha256(text.encode()).hexdigest()
    assert compute_rows_digest([{"b": 1, "a": "가"}, {"c": None}]) == expected
    assert compute_rows_digest([{"c": None}, {"a": "가", "b": 1}]) != expected
    assert compute_rows_digest([{"a": FILE}]) == hashlib.sha256(b'{"a": "rows.jsonl"}').hexdigest()


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("a", 1, 'a number in "x", and line 4 has a text'),
        (1, 1.5, None),
        (1, True, 'true or false in "x", and line 4 has a number'),
        ("a", ["a"], 'a list in "x", and line 4 has a text'),
        ({}, "a", 'a text in "x", and line 4 has an object'),
        ({"y": 1}, {"y": "a"}, 'a text in "x.y", and line 4 has a number'),
        ({"y": {"z": [1]}}, {"y": {"z": ["a"]}}, 'a text in "x.y.z[]", and line 4 has a number'),
        ([["a"]], [[1]], 'a number in "x[][]", and line 4 has a text'),
        ([{"y": 1}], [{"y": 2}, {"y": "a"}], 'a text in "x[].y", and line 4 has a number'),
        (["a", None], [None, "b"], None),
        (None, 1, None),
        ([], [1], None),
        ({"y": None}, {"y": "a"}, None),
        (2**63 - 1, -(2**63 - 1), None),
        (1, 2**63, 'a number too large in "x", and line 4 has a number'),
    ],
)
def test_a_field_has_one_type(first: Any, second: Any, said: str | None) -> None:
    """At any depth; a null is of any type."""
    rows = [{"x": first}, {"x": second}]
    if said is None:
        check_types(rows, [4, 9], FILE)
        return
    assert fail(lambda: check_types(rows, [4, 9], FILE)) == (
        f"Line 9 of rows.jsonl has {said}.",
        "A field needs the same type in every row.",
    )


def test_two_types_within_one_list_are_refused_on_their_own_line() -> None:
    assert fail(lambda: check_types([{"x": ["a", 1]}], [7], FILE)) == (
        'Line 7 of rows.jsonl has a number in "x[]", and line 7 has a text.',
        "A field needs the same type in every row.",
    )


@pytest.mark.parametrize("value", [2**63, -(2**63), [1, 2**63], {"y": 2**63}])
def test_a_number_that_no_table_holds_is_refused(value: Any) -> None:
    """Where it stands first, too."""
    field = "x.y" if isinstance(value, dict) else "x[]" if isinstance(value, list) else "x"
    problem, hint = fail(lambda: check_types([{"x": value}], [2], FILE))
    if isinstance(value, list):
        assert problem == f'Line 2 of rows.jsonl has a number too large in "{field}", and line 2 has a number.'
    else:
        assert (problem, hint) == (f'Line 2 of rows.jsonl has a number too large in "{field}".', "Write it as a text.")


def test_a_long_name_of_a_field_is_cut() -> None:
    """To forty characters."""
    problem, _ = fail(lambda: check_types([{"x" * 50: {"y" * 50: 2**63}}], [1], FILE))
    assert f'"{"x" * 40}….{"y" * 40}…"' in problem


def make_task(text: Any, target: Any = lambda doc: "", choices: Any = None) -> Any:
    return SimpleNamespace(
        doc_to_text=text,
        doc_to_target=target,
        doc_to_choice=choices,
        OUTPUT_TYPE="multiple_choice" if choices else "generate_until",
    )


def test_a_null_that_would_be_shown_is_found() -> None:
    """In the prompt, the target or a choice, deep in a field; the first field whose text would change it."""
    shows = make_task(lambda doc: f"{doc['a']} {doc['b']}")
    assert find_null(shows, {"a": "x", "b": None}) == "b"
    assert find_null(shows, {"a": None, "b": None}) == "a"
    assert find_null(shows, {"a": "None", "b": "x"}) is None
    assert find_null(shows, {"a": "None", "b": "x", "c": None}) is None
    assert find_null(shows, {"a": "x", "b": ["y", {"z": None}]}) == "b"
    assert find_null(make_task(lambda doc: "", lambda doc: doc["a"]), {"a": None}) == "a"
    choosing = make_task(lambda doc: "", choices=lambda doc: ["x", doc["a"]])
    assert find_null(choosing, {"b": None, "a": None}) == "a"
    assert find_null(make_task(lambda doc: doc["a"] or "nothing"), {"a": None}) is None
    choosing.OUTPUT_TYPE = "generate_until"
    assert find_null(choosing, {"a": None}) is None


def test_a_task_that_fails_without_a_null_goes_to_the_next_field() -> None:
    """Its code may raise anything for an empty text."""

    def show(doc: Any) -> str:
        if doc["a"] == "":
            raise ZeroDivisionError
        return f"{doc['a']} {doc['b']}"

    assert find_null(make_task(show), {"a": None, "b": None}) == "b"
    assert find_null(make_task(show), {"a": None, "b": "x"}) is None
