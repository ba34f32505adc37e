"""KLUE-STS: how similar two sentences are, 0 to 5, asked as a choice of six numbers.

The answer that is scored is the mean of the six under their probabilities, so it is not bound to whole numbers.
"""

from typing import Any

VALUES = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0)


def prompt(doc: dict[str, Any]) -> str:
    """Return both sentences and the scale."""
    return (
        f"문장1: {doc['sentence1'].strip()}\n"
        f"문장2: {doc['sentence2'].strip()}\n"
        "두 문장의 의미는 얼마나 비슷한가요? 0(전혀 다름)부터 5(완전히 같음)까지의 숫자로 답하세요.\n"
        "점수:"
    )


def value(doc: dict[str, Any]) -> float:
    """Return the gold similarity, 0..5: the mean of the annotators, which upstream calls `real-label`."""
    return float(doc["labels"]["real-label"])


def target(doc: dict[str, Any]) -> str:
    """Return the choice nearest to the gold similarity, halves up: what training teaches."""
    return str(int(value(doc) + 0.5))
