"""KoBALT-700: questions on linguistic phenomena of Korean, with the ten choices A to J in the question's own text.

The prompt of generation is that of the set's evaluation protocol, whose system message (`당신은 문제를 해결하는
전문가입니다.`) has to be given apart. For likelihood the authors publish none.
"""

import re
from typing import Any

LETTERS = "ABCDEFGHIJ"
_CHOICE = re.compile(r"^([A-J])\s*:\s*(.*)$", re.MULTILINE)


def prompt(doc: dict[str, Any]) -> str:
    """Return the question with the choices in it, up to where the answer stands."""
    return f"{doc['Question'].strip()}\n\n정답:"


def prompt_to_think(doc: dict[str, Any]) -> str:
    """Return the question in the form of the evaluation protocol."""
    listed = ", ".join(LETTERS)
    return (
        f"다음 문제에 대해서 충분히 생각하고 추론하여, 10개의 보기({listed}) 중 정답을 고르세요.\n\n"
        f"{doc['Question']}\n\n"
        '답변은 반드시 다음 형식을 엄격히 지켜야 합니다: "정답은 [정답 보기]입니다."로 끝나야 하고, '
        f"[정답 보기]는 {listed} 중 하나여야 합니다.\n"
        "정답: 문제를 풀기 위해, 한 번 천천히 생각해봅시다."
    )


def choices(_doc: dict[str, Any]) -> list[str]:
    """Return the letters of the choices."""
    return list(LETTERS)


def target(doc: dict[str, Any]) -> int:
    """Return the position of the answer, which a row gives as its letter."""
    return LETTERS.index(doc["Answer"].strip())


def options(doc: dict[str, Any]) -> list[str]:
    """Return the texts of the choices that stand in the question; [] unless all ten are found in order."""
    found = _CHOICE.findall(doc["Question"])
    return [text.strip() for _, text in found] if "".join(letter for letter, _ in found) == LETTERS else []


def groups(doc: dict[str, Any]) -> dict[str, str]:
    """Return domain, phenomenon and level of a question."""
    names = {"domain": "Class", "phenomenon": "Subclass", "level": "Level"}
    return {name: str(doc[field]) for name, field in names.items() if doc.get(field) not in (None, "")}
