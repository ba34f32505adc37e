"""IFEval-Ko: requests with instructions that a program can verify, such as a number of words or a language."""

from typing import Any


def target(_doc: dict[str, Any]) -> str:
    """Return the gold answer: there is none."""
    return ""
