"""HAE-RAE Bench 1.0: words, general knowledge and history of Korea, with the choices (A) to (E) in the query.

The prompt of likelihood is the query itself, as in lm-eval. That of generation is the one of HAE-RAE's own evaluation
toolkit, which asks for a summary of the reasoning first.
"""

import re
from typing import Any

LETTERS = "ABCDE"
_CHOICE = re.compile(r"\(([A-E])\)[.:]?[ \t]*([^\n]*?)(?=\s*(?:\n|\([A-E]\)|$))")


def prompt_to_think(doc: dict[str, Any]) -> str:
    """Return the query below the instruction of the toolkit, without the mark of the answer at its end."""
    query = doc["query"].replace("### 정답", "").strip()
    return (
        '다음은 객관식 문제입니다. 당신의 추론 과정을 간결하게 요약한 후, "따라서, 정답은: X"라고 결론지으십시오. '
        f"여기서 X는 (A), (B), (C), (D), (E) 중 하나입니다. {query}"
    )


def target(doc: dict[str, Any]) -> int:
    """Return the position of the answer, which a row gives as `(A)`."""
    return LETTERS.index(doc["answer"].strip().strip("()"))


def options(doc: dict[str, Any]) -> list[str]:
    """Return the texts of the choices that stand in the query; [] unless all five are found in order."""
    found = _CHOICE.findall(doc["query"])[-len(LETTERS) :]
    return [text.strip() for _, text in found] if "".join(letter for letter, _ in found) == LETTERS else []


def groups(doc: dict[str, Any]) -> dict[str, str]:
    """Return the category of a question, which is its configuration of the data set."""
    return {"category": str(doc["config"])} if doc.get("config") else {}
