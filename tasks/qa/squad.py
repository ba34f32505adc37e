"""KorQuAD 1.0: a question on a passage, answered by a span of it."""

from typing import Any


def targets(doc: dict[str, Any]) -> list[str]:
    """Return every gold answer, the first of which training teaches."""
    return list(dict.fromkeys(doc["answers"]["text"]))
