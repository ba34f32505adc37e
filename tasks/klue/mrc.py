"""KLUE-MRC: a question on a passage, answered by a span of it or by `답 없음`.

    output = "답 없음" , [ "." ] | answer ;
    answer = any text of one line ;

No output is malformed. White space inside `답 없음` is not compared. It is scored as the empty text, by which the
official script knows that a question has no answer; so is an output that is empty.
"""

import unicodedata
from typing import Any

NO_ANSWER = "답 없음"


def prompt(doc: dict[str, Any]) -> str:
    """Return title, passage and question, the last of which stays where a long passage is cut on the left."""
    return (
        f"제목: {doc['title'].strip()}\n"
        f"본문: {doc['context'].strip()}\n"
        f"질문: {doc['question'].strip()}\n"
        f"본문에 있는 말로 짧게 답하세요. 본문에 답이 없으면 '{NO_ANSWER}'이라고 쓰세요.\n"
        "답:"
    )


def references(doc: dict[str, Any]) -> tuple[str, ...]:
    """Return the gold answers in NFC, each once; ("",) for a question without an answer.

    The hub puts the plausible answers of an impossible question among its answers, so `is_impossible` decides.
    """
    texts = [unicodedata.normalize("NFC", text) for text in doc["answers"]["text"] if text.strip()]
    if doc.get("is_impossible", not texts):
        return ("",)
    if not texts:
        raise ValueError("the question is not marked as impossible and has no answer")
    return tuple(dict.fromkeys(texts))


def target(doc: dict[str, Any]) -> str:
    """Return the first gold answer on one line, or the word for none: what training teaches."""
    return " ".join(references(doc)[0].split()) or NO_ANSWER


def read(output: str) -> str:
    """Return the answer that *output* gives; "" for the word that says there is none."""
    answer = output.strip()
    says_none = "".join(answer.split()).removesuffix(".") == "".join(NO_ANSWER.split())
    return "" if says_none else answer
