"""Parse the JSON of AI Hub: summaries of dialogues and documents, and questions about a text.

Such a file is one JSON value, not one row per line; `split_entries` splits it, and the parsers below make turns of an
entry. They follow the published schemas of 한국어 대화 요약, 문서요약 텍스트 and 기계독해.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

DIALOGUE_INSTRUCTION = "다음 대화를 요약하세요."
DOCUMENT_INSTRUCTION = "다음 글을 요약하세요."
QUESTION_INSTRUCTION = "다음 글을 읽고 질문에 답하세요."
NO_ANSWER_TEXT = "지문에서 답을 찾을 수 없습니다."
"""Answer that is learned for a question that its text does not answer."""


def split_entries(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    """Return the entries of a whole file, each with all that it needs; None if it is not a file of AI Hub."""
    listed = value.get("documents", value.get("data"))
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        return None
    return [one for entry in listed for one in (_split_questions(entry) if "paragraphs" in entry else [entry])]


def _split_questions(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each question with its text; a paragraph of another form is passed on, so that an error can name it."""
    paragraphs = document["paragraphs"]
    for paragraph in paragraphs if isinstance(paragraphs, list) else [document]:
        questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
        if not isinstance(questions, list):
            yield {"paragraphs": "none with a list of qas"}
            continue
        for question in questions:
            fields = question if isinstance(question, dict) else {"question": question}
            yield {"context": paragraph.get("context"), **fields}


def parse_dialogue_summary(entry: dict[str, Any]) -> tuple[str, str]:
    """Return (request, summary); ValueError says what is missing."""
    body = entry["body"]
    said = body.get("dialogue") if isinstance(body, dict) else None
    if not isinstance(said, list) or not said:
        raise ValueError('has a "body" without a "dialogue"')
    lines = [f"{_require_string(turn, 'participantID')}: {_require_string(turn, 'utterance')}" for turn in said]
    return _make_request(DIALOGUE_INSTRUCTION, "\n".join(lines)), _require_string(body, "summary")


def parse_document_summary(entry: dict[str, Any]) -> tuple[str, str]:
    """Return (request, summary) of a document in its newer form (`text`) or its older one (`article_original`)."""
    summaries = entry["abstractive"]
    summary = summaries[0] if isinstance(summaries, list) and summaries else summaries
    if "article_original" in entry:
        sentences = entry["article_original"]
    else:
        paragraphs = entry.get("text")
        listed = isinstance(paragraphs, list) and all(isinstance(paragraph, list) for paragraph in paragraphs)
        sentences = (
            [_require_string(one, "sentence") for paragraph in paragraphs or () for one in paragraph]
            if listed
            else None
        )
    if not isinstance(sentences, list) or not all(isinstance(one, str) for one in sentences) or not sentences:
        raise ValueError('has neither a "text" of sentences nor an "article_original"')
    return _make_request(DOCUMENT_INSTRUCTION, " ".join(one.strip() for one in sentences)), _require_string(
        {"abstractive": summary}, "abstractive"
    )


def parse_question(entry: dict[str, Any]) -> tuple[str, str]:
    """Return (request, answer) of a question about a text; the answer is `NO_ANSWER_TEXT` if the text has none."""
    request = _make_request(
        QUESTION_INSTRUCTION, f"{_require_string(entry, 'context')}\n\n질문: {_require_string(entry, 'question')}"
    )
    if entry.get("is_impossible") is True:
        return request, NO_ANSWER_TEXT
    answers = entry.get("answers", entry.get("answer"))
    first = answers[0] if isinstance(answers, list) and answers else answers
    fields = first if isinstance(first, dict) else {"text": first}
    texts = fields.get("text")
    return request, _require_string({"text": texts[0]} if isinstance(texts, list) and texts else fields, "text")


def _make_request(instruction: str, text: str) -> str:
    return f"{instruction}\n\n{text}"


def _require_string(fields: Any, key: str) -> str:
    value = fields.get(key) if isinstance(fields, dict) else None
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f'has no "{key}"')
    return value.strip()
