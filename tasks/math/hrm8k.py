"""HRM8K: problems whose answer is a number, asked as lm-eval's `hrm8k` does, to the byte."""

from typing import Any

ASK = "주어진 문제를 풀어보세요.\n문제를 푼 후, "
FORM = "형식으로 작성하세요: $\\boxed{N}$.\n\n"


def prompt(doc: dict[str, Any]) -> str:
    """Return the problem below the instruction to write the answer in a box."""
    return f"{ASK}최종 답변을 다음과 같은 {FORM}문제: {doc['question'].strip()}\n답변:"


def prompt_with_choices(doc: dict[str, Any]) -> str:
    """Return the problem, which ends in four choices, below the instruction to write the number of one in a box."""
    return f"{ASK}주어진 선택지 (1, 2, 3, 4) 중 최종 선택지를 다음 {FORM}문제: {doc['question'].strip()}\n답변:"


def target(doc: dict[str, Any]) -> str:
    """Return the answer, without the decimal places of a whole number."""
    text = str(doc["answer"]).strip()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else str(number)
