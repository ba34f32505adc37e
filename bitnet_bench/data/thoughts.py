"""Find the thought that a model writes before its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bitnet_bench.protocols import Thoughts

KNOWN_MARKS = (
    Thoughts(),
    Thoughts("<thought>", "</thought>"),
    Thoughts("<thinking>", "</thinking>"),
    Thoughts("<|begin_of_thought|>", "<|end_of_thought|>"),
)
"""Marks of thoughts in the templates of published models, the most common first."""
THINKING_SWITCHES = ("enable_thinking", "thinking")
"""Names under which templates take whether to think."""


@dataclass(frozen=True)
class Thought:
    """A text of a model, divided."""

    thought: str
    answer: str
    unfinished: bool = False
    """True if the thought has no end, and so no answer follows it."""


def find_thought_marks(tokenizer: Any) -> Thoughts | None:
    """Return the marks of thoughts that the chat template or the tokens of *tokenizer* know; None if they know none."""
    template = tokenizer.chat_template or ""
    text = " ".join(template.values()) if isinstance(template, Mapping) else str(template)
    tokens = {str(token) for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
    return next((marks for marks in KNOWN_MARKS if marks.end in text or marks.end in tokens), None)


def opens_thought(prompt: str, marks: Thoughts) -> bool:
    """Return whether *prompt* ends right after the beginning of a thought, as some chat templates do."""
    return prompt.rstrip().endswith(marks.begin)


def find_answer_start(text: str, marks: Thoughts | None) -> int | None:
    """Return where in *text* the answer starts; None while a thought is open or may be beginning."""
    if marks is None:
        return 0
    begun = text.lstrip()
    if not marks.opened and not begun.startswith(marks.begin):
        return None if begun and marks.begin.startswith(begun) else 0
    end = text.find(marks.end)
    if end < 0:
        return None
    after = text[end + len(marks.end) :]
    return len(text) - len(after.lstrip())


def split_thought(text: str, marks: Thoughts | None) -> Thought:
    """Divide *text* into the thought and the answer after it."""
    start = find_answer_start(text, marks)
    if marks is None or start == 0:
        return Thought("", text)
    opened = text.lstrip().removeprefix(marks.begin)
    if start is not None:
        return Thought(opened.partition(marks.end)[0].strip(), text[start:])
    if not marks.opened and not text.lstrip().startswith(marks.begin):
        return Thought("", text)  # it ended before the mark of a beginning was whole
    return Thought(opened.strip(), "", unfinished=True)
