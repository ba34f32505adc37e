"""KMMLU-Redux and KMMLU-Pro: questions of Korean qualification and licensing exams, with 4 or 5 choices.

The prompt of generation is the one that LG AI Research published with the sets. For likelihood they publish none: the
question is asked as in KMMLU.
"""

import re
from typing import Any

LETTERS = "ABCDE"
GROUPS = ("category", "license_name", "cert_name", "subject")
"""Fields that say what a question belongs to, where a row has them."""
_NUMBER = re.compile(r"\s*([1-5])\)\s*")


def prompt(doc: dict[str, Any]) -> str:
    """Return the question and its choices in the form of KMMLU."""
    named = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, options(doc), strict=False))
    return f"{doc['question'].strip()}\n{named}\n정답："


def prompt_to_think(doc: dict[str, Any]) -> str:
    """Return the question and its choices below the published instruction to think before answering."""
    letters = "".join(choices(doc))
    named = "\n".join(f"{letter}) {text}" for letter, text in zip(LETTERS, options(doc), strict=False))
    return (
        f'다음 문제에 대해 정답을 고르세요. 당신의 최종 정답은 {letters} 중 하나이고, "정답:" 뒤에 와야 합니다. '
        f"정답을 고르기 전에 차근차근 생각하고 추론하세요.\n\n{doc['question'].strip()}\n\n{named}"
    )


def choices(doc: dict[str, Any]) -> list[str]:
    """Return the letters of the choices."""
    return list(LETTERS[: len(doc["options"])])


def target(doc: dict[str, Any]) -> int:
    """Return the position of the answer, which a row counts from 1."""
    position = int(doc["solution"]) - 1
    if not 0 <= position < len(doc["options"]):
        raise ValueError(f"the solution {doc['solution']!r} is none of its {len(doc['options'])} options")
    return position


def options(doc: dict[str, Any]) -> list[str]:
    """Return the texts of the choices, without `1)` where each of them has its number."""
    texts = [str(text).strip() for text in doc["options"]]
    numbers = [_NUMBER.match(text) for text in texts]
    if all(number and int(number[1]) == place for place, number in enumerate(numbers, 1)):
        return [_NUMBER.sub("", text, count=1) for text in texts]
    return texts


def groups(doc: dict[str, Any]) -> dict[str, str]:
    """Return the exam and the subject of a question, as far as its row says them."""
    return {name: str(doc[name]) for name in GROUPS if doc.get(name)}
