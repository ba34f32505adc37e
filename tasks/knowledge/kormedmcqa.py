"""KorMedMCQA: Korean licensing exams of doctors, nurses, pharmacists and dentists, with five choices."""

from typing import Any


def options(doc: dict[str, Any]) -> list[str]:
    """Return the texts of the choices."""
    return [str(doc[letter]) for letter in "ABCDE"]


def groups(doc: dict[str, Any]) -> dict[str, str]:
    """Return the exam of a question: its configuration of the data set, or the subject that a row says."""
    subject = doc.get("config") or doc.get("subject")
    return {"subject": str(subject)} if subject else {}
