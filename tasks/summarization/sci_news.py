"""sci-news-sum-kr-50: the sentences of a science article that people chose as its summary, one on each line."""

from typing import Any


def prompt(doc: dict[str, Any]) -> str:
    """Return the article, one sentence on each line, and what is asked."""
    return f"기사:\n{_join_lines(doc['sentences'])}\n\n중요한 문장만 골라 요약:"


def target(doc: dict[str, Any]) -> str:
    """Return the chosen sentences in the order of the article."""
    return _join_lines([doc["sentences"][i] for i in sorted(doc["summaries"])])


def _join_lines(sentences: list[str]) -> str:
    return "\n".join(" ".join(sentence.split()) for sentence in sentences)
