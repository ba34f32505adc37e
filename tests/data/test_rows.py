"""Training rows: every shape that is read, and every error that names its line."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bitnet_bench.data.rows import BadRowError, Row, Turn, parse_row, read_rows
from bitnet_bench.errors import BenchError

PAIR = (("user", "질문"), ("model", "답"))
SHAPES: dict[str, tuple[dict[str, Any], tuple[tuple[str, str], ...]]] = {
    "prompt and response": ({"prompt": "질문", "response": "답"}, PAIR),
    "Q and A": ({"Q": "질문", "A": "답", "label": 0}, PAIR),
    "instruction": ({"instruction": "질문", "output": "답"}, PAIR),
    "instruction with an empty input": ({"instruction": "질문", "input": " ", "output": "답"}, PAIR),
    "instruction with a null input": ({"instruction": "질문", "input": None, "output": "답"}, PAIR),
    "instruction with input": (
        {"instruction": "요약하세요.", "input": " 본문 ", "output": "답"},
        (("user", "요약하세요.\n본문"), ("model", "답")),
    ),
    "messages": (
        {"messages": [{"role": "user", "content": "질문"}, {"role": "assistant", "content": "답"}]},
        PAIR,
    ),
    "turns of utterances": (
        {"turns": [{"role": "user", "utterance": "질문"}, {"role": "system", "utterance": "답"}]},
        PAIR,
    ),
    "turns of texts": ({"turns": [{"role": "사용자", "text": "질문"}, {"role": "모델", "text": "답"}]}, PAIR),
    "turns of both sides": (
        {
            "turns": [
                {"user_message": "질문", "system_message": "답"},
                {"user_message": "또", "system_message": "네"},
            ]
        },
        (*PAIR, ("user", "또"), ("model", "네")),
    ),
    "turns of lines": ({"turns": ["사용자: 질문", "모델: 답"]}, PAIR),
    "lines with another colon": (
        {"turns": ["고객: 시간: 언제?", "상담원: 12:30"]},
        (("user", "시간: 언제?"), ("model", "12:30")),
    ),
    "text": ({"text": "글"}, (("text", "글"),)),
    "document": ({"document": "글", "label": 1}, (("text", "글"),)),
}

BAD: dict[str, tuple[str, str]] = {
    "cut off": ('{"prompt": "질', "is not JSON"),
    "a list": ('["질문", "답"]', "is not a JSON object"),
    "a number": ("3", "is not a JSON object"),
    "no known field": ('{"title": "a", "reply": "b"}', "none of the known fields (it has reply, title)"),
    "no field": ("{}", "none of the known fields (it has no fields)"),
    "no response": ('{"prompt": "질문"}', 'has no "response"'),
    "no prompt": ('{"response": "답"}', 'has no "prompt"'),
    "no A": ('{"Q": "질문"}', 'has no "A"'),
    "no output": ('{"instruction": "질문"}', 'has no "output"'),
    "input alone": ('{"input": "질문"}', 'has no "output"'),
    "empty response": ('{"prompt": "질문", "response": " "}', 'has an empty "response"'),
    "empty text": ('{"text": ""}', 'has an empty "text"'),
    "response of a number": ('{"prompt": "질문", "response": 3}', 'has a "response" that is no string'),
    "response of null": ('{"prompt": "질문", "response": null}', 'has a "response" that is no string'),
    "messages of a string": ('{"messages": "질문"}', "is no list of turns"),
    "no messages": ('{"messages": []}', "is no list of turns"),
    "user alone": ('{"messages": [{"role": "user", "content": "질문"}]}', "no model turn to learn from"),
    "someone else": ('{"messages": [{"role": "judge", "content": "3"}]}', "'judge', who is neither user nor model"),
    "no content": ('{"messages": [{"role": "user"}]}', 'has no "content"'),
    "content with an image": (
        '{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]}',
        'has a "content" with a part that is no text (image_url)',
    ),
    "content of a number": ('{"messages": [{"role": "user", "content": 3}]}', "that is no string (it is a number)"),
    "a turn of a number": ('{"turns": [3]}', "neither a string nor an object"),
    "half of both sides": ('{"turns": [{"user_message": "질문"}]}', 'has no "system_message"'),
}


def row(turns: tuple[tuple[Any, str], ...]) -> Row:
    return Row(tuple(Turn(role, text) for role, text in turns))


def write(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_read(name: str) -> None:
    """Each shape that data sets come in gives the same turns."""
    fields, turns = SHAPES[name]
    assert parse_row(json.dumps(fields, ensure_ascii=False)) == row(turns)


@pytest.mark.parametrize("name", BAD)
def test_every_bad_row_says_why(name: str) -> None:
    """Each thing that can be wrong with a row has its own sentence."""
    line, why = BAD[name]
    with pytest.raises(BadRowError) as caught:
        parse_row(line)
    assert why in str(caught.value)


@pytest.mark.parametrize("name", BAD)
def test_the_line_of_a_bad_row_is_named(name: str, tmp_path: Path) -> None:
    """The error of a file names the file, the line as an editor counts it, and the shapes there are."""
    line, why = BAD[name]
    path = write(tmp_path / "train.jsonl", '{"prompt": "질문", "response": "답"}', "", line)
    with pytest.raises(BenchError) as caught:
        read_rows(path)
    assert caught.value.problem.startswith("Line 3 of train.jsonl ")
    assert why in caught.value.problem
    assert '"prompt", "response"' in caught.value.hint


def test_empty_lines_are_passed_over(tmp_path: Path) -> None:
    """Empty lines between rows, and no newline at the end, are no errors."""
    (tmp_path / "a.jsonl").write_text('\n{"text": "하나"}\n  \n\n{"text": "둘"}', encoding="utf-8")
    assert read_rows(tmp_path / "a.jsonl") == [row((("text", "하나"),)), row((("text", "둘"),))]


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    """A file of empty lines is refused."""
    with pytest.raises(BenchError, match="has no rows"):
        read_rows(write(tmp_path / "a.jsonl", "", " "))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A path that is no file is named, and the hint mentions the other kind of --data."""
    with pytest.raises(BenchError, match=r"There is no file .*a\.jsonl") as caught:
        read_rows(tmp_path / "a.jsonl")
    assert "klue:ynat" in caught.value.hint


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    """A CP949 file, as Windows writes them, is refused with the name of what is expected."""
    (tmp_path / "a.jsonl").write_bytes('{"text": "한국어"}'.encode("cp949"))
    with pytest.raises(BenchError, match="is not UTF-8"):
        read_rows(tmp_path / "a.jsonl")


def test_the_byte_that_is_not_utf8_is_named_in_a_long_file(tmp_path: Path) -> None:
    """The byte position counts from the start of the file, however long the file is."""
    good = b'{"text": "abc"}\n' * 2000
    (tmp_path / "a.jsonl").write_bytes(good + b'{"text": "\xff"}\n')
    with pytest.raises(BenchError) as caught:
        read_rows(tmp_path / "a.jsonl")
    assert f"at byte {len(good) + 10}." in caught.value.problem


def test_decomposed_text_is_composed() -> None:
    """NFD text, as macOS writes it, is read as NFC."""
    line = unicodedata.normalize("NFD", json.dumps({"prompt": "한국", "response": "서울"}, ensure_ascii=False))
    assert line != unicodedata.normalize("NFC", line)
    assert parse_row(line) == row((("user", "한국"), ("model", "서울")))


def test_escaped_decomposed_text_is_composed() -> None:
    """NFD text that json.dumps escaped to \\uXXXX is read as NFC as well."""
    line = json.dumps({"prompt": unicodedata.normalize("NFD", "한국"), "response": "서울"})
    assert line.isascii()
    assert parse_row(line) == row((("user", "한국"), ("model", "서울")))


@settings(deadline=None, max_examples=50)
@given(st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8"), min_size=1))
def test_what_is_read_is_what_was_written_in_nfc(prompt: str, response: str) -> None:
    """Any two texts that are not blank come back in NFC, and nothing else happens to them."""
    if not prompt.strip() or not response.strip():
        return
    read = parse_row(json.dumps({"prompt": prompt, "response": response}, ensure_ascii=False))
    normalised = [unicodedata.normalize("NFC", text) for text in (prompt, response)]
    assert [turn.text for turn in read.turns] == normalised


def test_a_system_message_is_no_response() -> None:
    """In `messages` a system message is an instruction: learning to say it would be wrong, so it is no model turn."""
    messages = [
        {"role": "system", "content": "너는 친절한 도우미다."},
        {"role": "user", "content": "질문"},
        {"role": "assistant", "content": "답"},
    ]
    try:
        turns = parse_row(json.dumps({"messages": messages})).turns
    except BadRowError:
        return  # to refuse it would be right too
    assert [turn.text for turn in turns if turn.role == "model"] == ["답"]


def test_an_empty_line_of_a_dialogue_is_refused() -> None:
    """A turn `모델:` without words is as empty as an empty "content", and is refused like it."""
    with pytest.raises(BadRowError, match="empty"):
        parse_row(json.dumps({"turns": ["사용자: 질문", "모델:"]}))
