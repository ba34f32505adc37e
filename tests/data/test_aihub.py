"""AI Hub's files, by their published schemas; every text here was written for these tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bitnet_bench.data.aihub import NO_ANSWER_TEXT
from bitnet_bench.data.rows import Row, convert_data, read_rows
from bitnet_bench.errors import BenchError
from bitnet_bench.training.inputs import inspect_data_files


def said(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [
        {"utteranceID": f"U{i}", "turnID": f"T{i}", "participantID": who, "date": "", "time": "", "utterance": text}
        for i, (who, text) in enumerate(turns, 1)
    ]


DIALOGUES = {
    "numberOfItems": 1,
    "data": [
        {
            "header": {"dialogueInfo": {"dialogueID": "d1", "topic": "여가 생활"}},
            "body": {
                "dialogue": said(("P01", "토요일에 산에 갈래?"), ("P02", "좋아, 아홉 시에 만나자.")),
                "summary": "두 사람은 토요일 아홉 시에 만나 산에 가기로 했다.",
            },
        }
    ],
}
DOCUMENTS = {
    "name": "문서요약 프로젝트",
    "documents": [
        {
            "id": "1",
            "category": "지역",
            "title": "새 다리",
            "text": [
                [{"index": 0, "sentence": "강가에 새 다리가 놓였다.", "highlight_indices": ""}],
                [{"index": 1, "sentence": "주민들은 걸어서 건널 수 있다.", "highlight_indices": ""}],
            ],
            "abstractive": ["걸어서 건널 수 있는 새 다리가 놓였다."],
            "extractive": [0, 1, None],
        }
    ],
}
QUESTIONS = {
    "data": [
        {
            "doc_title": "등대",
            "paragraphs": [
                {
                    "context": "등대지기는 매일 저녁 일곱 시에 불을 켠다.",
                    "qas": [
                        {
                            "question": "불은 언제 켜지나?",
                            "question_id": "q1",
                            "is_impossible": False,
                            "answers": [{"text": "저녁 일곱 시", "answer_start": 10}],
                        },
                        {"question": "등대는 언제 지어졌나?", "is_impossible": True, "answers": []},
                        {"question": "누가 켜나?", "answers": {"text": "등대지기", "answer_start": 0}},
                    ],
                }
            ],
        }
    ],
}


def read(value: Any, folder: Path) -> list[Row]:
    file = folder / "hub.json"
    file.write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")
    return read_rows(file)


def texts(row: Row) -> tuple[str, str]:
    assert [turn.role for turn in row.turns] == ["user", "model"]
    return row.turns[0].text, row.turns[1].text


def test_a_dialogue_is_summarized(tmp_path: Path) -> None:
    (row,) = read(DIALOGUES, tmp_path)
    assert texts(row) == (
        "다음 대화를 요약하세요.\n\nP01: 토요일에 산에 갈래?\nP02: 좋아, 아홉 시에 만나자.",
        "두 사람은 토요일 아홉 시에 만나 산에 가기로 했다.",
    )


def test_a_document_is_summarized_in_its_newer_and_its_older_form(tmp_path: Path) -> None:
    """The older one has a row a line."""
    expected = (
        "다음 글을 요약하세요.\n\n강가에 새 다리가 놓였다. 주민들은 걸어서 건널 수 있다.",
        "걸어서 건널 수 있는 새 다리가 놓였다.",
    )
    (row,) = read(DOCUMENTS, tmp_path)
    assert texts(row) == expected
    old = {
        "media": "소식지",
        "id": 7,
        "article_original": ["강가에 새 다리가 놓였다.", "주민들은 걸어서 건널 수 있다."],
        "abstractive": expected[1],
        "extractive": [0, 1],
    }
    file = tmp_path / "old.jsonl"
    file.write_text(json.dumps(old, ensure_ascii=False) + "\n", encoding="utf-8")
    assert [texts(one) for one in read_rows(file)] == [expected]


def test_every_question_is_a_row_and_one_without_an_answer_says_so(tmp_path: Path) -> None:
    rows = [texts(row) for row in read(QUESTIONS, tmp_path)]
    assert [answer for _, answer in rows] == ["저녁 일곱 시", NO_ANSWER_TEXT, "등대지기"]
    assert rows[0][0] == (
        "다음 글을 읽고 질문에 답하세요.\n\n등대지기는 매일 저녁 일곱 시에 불을 켠다.\n\n질문: 불은 언제 켜지나?"
    )


SILENT = {"header": {}, "body": {"dialogue": [], "summary": "끝"}}
UNSUMMARIZED = {"header": {}, "body": {"dialogue": said(("P01", "네")), "summary": " "}}


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ({"data": [DIALOGUES["data"][0], SILENT]}, "Entry 2 .* without"),  # type: ignore[index]
        ({"data": [UNSUMMARIZED]}, 'Entry 1 .* no "summary"'),
        ({"documents": [{"id": "1", "text": "통글", "abstractive": ["요약"]}]}, "Entry 1 .* neither"),
        ({"documents": [{"text": [[{"sentence": "글"}]], "abstractive": []}]}, 'Entry 1 .* no "abstractive"'),
        ({"data": [{"paragraphs": [{"context": "글", "qas": [{"question": "왜?"}]}]}]}, 'Entry 1 .* no "text"'),
        ({"data": [{"paragraphs": [{"qas": [{"question": "왜?"}]}]}]}, 'Entry 1 .* no "context"'),
        ({"data": [{"paragraphs": "글"}]}, "hub.json has no known shape: 1 row has .paragraphs. "),
        ({"version": 1, "items": []}, "no known form .it has items, version"),
        ("글", "no known form"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_says_where(value: Any, match: str, tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=match):
        read(value, tmp_path)


def test_json_files_of_rows_are_read_in_every_way(tmp_path: Path) -> None:
    """A list of rows, a row a line, and a single row, though the file is called .json."""
    row = {"prompt": "문?", "response": "열렸어요."}
    line = json.dumps(row, ensure_ascii=False)
    for text in (json.dumps([row, row], indent=1), f"{line}\n{line}\n"):
        (tmp_path / "rows.json").write_text(text, encoding="utf-8")
        assert len(read_rows(tmp_path / "rows.json")) == 2
    (tmp_path / "one.json").write_text(line, encoding="utf-8")
    assert len(read_rows(tmp_path / "one.json")) == 1


def test_such_files_are_checked_and_converted_like_any(tmp_path: Path) -> None:
    """Findings name entries, and the converted rows are the same rows."""
    broken = {"data": [*DIALOGUES["data"], {"body": {}}, *DIALOGUES["data"]]}  # type: ignore[misc]
    file = tmp_path / "hub.json"
    file.write_text(json.dumps(broken, ensure_ascii=False), encoding="utf-8")
    (checked,) = inspect_data_files([file])
    unread = {found.reason.split('"')[1] for found in checked.findings if found.kind == "unread"}
    assert unread == {
        "header.dialogueInfo.dialogueID",
        "header.dialogueInfo.topic",
        "body.dialogue[].utteranceID",
        "body.dialogue[].turnID",
    }
    others = [(found.line, found.kind) for found in checked.findings if found.kind != "unread"]
    assert others == [(2, "bad"), (3, "duplicate")]
    expected = read(QUESTIONS, tmp_path)
    assert convert_data(file, tmp_path / "out.jsonl") == 3
    assert read_rows(tmp_path / "out.jsonl") == expected
