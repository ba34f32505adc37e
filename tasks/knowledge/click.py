"""CLIcK: questions of Korean exams and textbooks on culture and language, with 4 choices, or 5 in the CSAT.

Which exam a question is from, and what it is about, is in its id, as lm-eval's `click` reads it. The prompt of
likelihood is lm-eval's to the byte: it shows the first four choices only, though a CSAT question is answered by one of
A to E. The prompt of generation shows all choices, and is the same where there are four.
"""

from typing import Any

LETTERS = "ABCDE"
CULTURE = {
    "economy": "economy",
    "geography": "geography",
    "khb": "history",
    "history": "history",
    "law": "law",
    "psat": "law",
    "politics": "politics",
    "popular": "popular",
    "society": "society",
    "tradition": "tradition",
}
"""Categories of culture by what an id holds."""
SPEECH = ("대화", "발화", "질의")
"""Words by which a question of the Kedu exam 16 is about the use of language, and not about grammar."""


def prompt(doc: dict[str, Any]) -> str:
    """Return the question with its first four choices, as lm-eval asks it."""
    return _ask(doc, doc["choices"][:4])


def prompt_with_all(doc: dict[str, Any]) -> str:
    """Return the question with all of its choices."""
    return _ask(doc, doc["choices"])


def choices(doc: dict[str, Any]) -> list[str]:
    """Return the letters of the choices."""
    return list(LETTERS if "CSAT" in doc["id"] else LETTERS[:4])


def target(doc: dict[str, Any]) -> int:
    """Return the position of the answer, which a row gives as a text."""
    position: int = doc["choices"].index(doc["answer"])
    return position


def options(doc: dict[str, Any]) -> list[str]:
    """Return the texts of the choices."""
    return list(doc["choices"])


def groups(doc: dict[str, Any]) -> dict[str, str]:
    """Return branch and category of a question."""
    found = _find_culture(doc["id"])
    if found is not None:
        return {"branch": "culture", "category": found}
    found = _find_language(doc["id"], doc["question"])
    return {} if found is None else {"branch": "language", "category": found}


def _ask(doc: dict[str, Any], shown: list[str]) -> str:
    letters = LETTERS[: len(shown)]
    first, *others = (f"{letter}: {text}" for letter, text in zip(letters, shown, strict=True))
    named = ", ".join([first.replace(": ", ":", 1), *others])
    listed = ", ".join(letters)
    end = f"질문: {doc['question']}\n보기:\n{named}\n정답:"
    if doc["paragraph"]:
        return (
            f"주어진 맥락을 천천히 읽고, 질문에 대한 적절한 정답을 {listed} 중에 골라 알파벳 하나로 답하시오.\n\n"
            f"맥락: {doc['paragraph']}\n{end}"
        )
    return f"주어진 질문을 천천히 읽고, 적절한 정답을 {listed} 중에 골라 알파벳 하나로 답하시오.\n\n{end}"


def _find_culture(name: str) -> str | None:
    return next((category for part, category in CULTURE.items() if part in name.lower()), None)


def _find_language(name: str, question: str) -> str | None:
    parts = name.split("_")
    if "PSE_korean" in name:
        return "functional"
    if "CSAT_korean" in name:
        return _find_csat(int(parts[2]), [int(part) for part in parts[3:]])
    if "Kedu_1" in name:
        about_speech = "Kedu_16" in name and any(word in question for word in SPEECH)
        return "functional" if about_speech else "grammar"
    if "TK" in name:
        return "grammar" if int(parts[-1]) < 5 else "textual"
    return None


def _find_csat(year: int, numbers: list[int]) -> str | None:
    """Return what a question of the CSAT is about: its number says so, in another way before the year 2021."""
    number = numbers[-1]
    if year < 21:
        return "functional" if numbers[0] < 11 else "grammar"
    if number > 34:
        return "functional"
    return "textual" if year in (22, 23) else None
