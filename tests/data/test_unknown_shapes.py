"""A file of no known shape is one error: its fields, counted, and what to do about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.cli.data import findings_table
from bitnet_bench.data.checking import FileFindings, examine_rows
from bitnet_bench.data.row_reading import read_row_file
from bitnet_bench.data.rows import convert_data, read_rows
from bitnet_bench.data.unknown_shapes import find_renames, suggest_shape
from bitnet_bench.errors import BenchError

PAIR = {"prompt": "질문", "response": "답"}


def write(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def check(file: Path, tokenizer: Any) -> FileFindings:
    return examine_rows(file, tokenizer, "dialogue", 4096, {}, lambda text: text)


@pytest.mark.parametrize("read", [read_rows, read_row_file])
def test_the_fields_are_listed_with_the_rows_that_have_them(read: Any, tmp_path: Path) -> None:
    """A null counts as absent; the hint is the command that makes the rows a known shape."""
    rows = [{"질문": "가?", "답변": "나.", "id": i, "메모": None if i else "첫"} for i in range(50)]
    with pytest.raises(BenchError) as caught:
        read(write(tmp_path, *rows))
    said = 'rows.jsonl has no known shape: 50 rows have "질문" (50), "답변" (50), "id" (50), "메모" (1).'
    assert caught.value.problem == said
    assert "--rename '질문=prompt' --rename '답변=response'" in caught.value.hint


def test_the_command_that_is_suggested_works(tmp_path: Path) -> None:
    """Its fields are renamed, and the rows are read."""
    file = write(tmp_path, {"질문": "가?", "답변": "나."})
    assert convert_data(file, tmp_path / "out.jsonl", renames={"질문": "prompt", "답변": "response"}) == 1
    assert read_rows(tmp_path / "out.jsonl") == read_rows(write(tmp_path, {"prompt": "가?", "response": "나."}))


@pytest.mark.parametrize(
    ("fields", "renames"),
    [
        (["promt", "respons"], {"promt": "prompt", "respons": "response"}),
        (["Prompt", "RESPONSE"], {"Prompt": "prompt", "RESPONSE": "response"}),
        (["prompt", "reply", "id"], {"reply": "response"}),
        (["질문", "문제"], {"질문": "prompt"}),
        (["a", "b"], {}),
    ],
)  # fmt: skip
def test_what_a_field_may_mean_is_found_by_spelling_and_by_sense(fields: list[str], renames: dict[str, str]) -> None:
    """No two fields become one."""
    assert find_renames(fields) == renames


def test_without_a_guess_the_nearest_shapes_say_what_they_lack() -> None:
    """The fields that are known decide which these are."""
    assert '{"prompt", "response"} without "response"' in suggest_shape("f.jsonl", {"prompt": 3, "zzz": 3})
    assert "--rename OLD=NEW" in suggest_shape("f.jsonl", {"a": 1})
    assert "--encoding cp949" in suggest_shape("f.csv", {"a": 1}, "cp949")


def test_a_row_of_no_shape_among_others_has_its_line(tmp_path: Path) -> None:
    """The file has a shape then, and the row is at fault."""
    with pytest.raises(BenchError, match=r'Line 2 of rows.jsonl has no "response"'):
        read_rows(write(tmp_path, PAIR, {"prompt": "질문"}, PAIR))


def test_a_check_has_one_finding_for_all_rows(tmp_path: Path, tokenizer: Any) -> None:
    """It counts them, and names the first line."""
    found = check(write(tmp_path, *({"a": f"{i}", "b": "나"} for i in range(50))), tokenizer)
    ((line, kind, rows, reason),) = [(f.line, f.kind, f.rows, f.reason) for f in found.findings]
    assert (line, kind, rows, found.counts) == (1, "bad", 50, {"bad": 50})
    assert '50 rows have "a" (50), "b" (50)' in reason


def test_a_check_of_mixed_rows_names_lines_once_for_each_reason(tmp_path: Path, tokenizer: Any) -> None:
    """A table of findings has a line for what is the same, with the first places and how many more there are."""
    rows = [{"prompt": f"{i}"} if i % 2 else {"prompt": f"{i}", "response": "답"} for i in range(20)]
    table = findings_table(check(write(tmp_path, *rows), tokenizer), 40)
    assert [list(column.cells) for column in table.columns] == [
        ["2, 4, 6 and 7 more"],
        ["bad"],
        ['has no "response"'],
    ]


@pytest.mark.parametrize(
    ("renames", "why"),
    [({"없음": "prompt"}, "No row of rows.jsonl has a field 없음"), ({"id": "prompt"}, 'has a "prompt" already')],
)
def test_a_rename_that_does_nothing_or_too_much_is_refused(renames: dict[str, str], why: str, tmp_path: Path) -> None:
    """A field that no row has, and one that would take another's place."""
    with pytest.raises(BenchError, match=why):
        convert_data(write(tmp_path, {**PAIR, "id": "1"}), tmp_path / "out.jsonl", renames=renames)


def test_a_null_field_makes_room_for_a_renamed_one(tmp_path: Path) -> None:
    """As exporters write it."""
    file = write(tmp_path, {"prompt": None, "q": "가?", "response": "나."})
    assert convert_data(file, tmp_path / "out.jsonl", renames={"q": "prompt"}) == 1
