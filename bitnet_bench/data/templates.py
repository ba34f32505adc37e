"""Turn a row into text whose model turns are known to the character."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bitnet_bench.data.rows import Row
from bitnet_bench.errors import BenchError

# before a user turn, before a model turn, between turns
_MARKS = {
    "plain": ("", "", ""),
    "dialogue": ("사용자: ", "모델: ", "\n"),
    "instruction": ("### Instruction:\n", "### Response:\n", "\n\n"),
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """A row as text; *responses* are the [start, end) character spans that carry the loss."""

    text: str
    responses: tuple[tuple[int, int], ...]
    has_special_tokens: bool = False
    """The text already holds its BOS (a chat template's does)."""


def choose(template: str, row: Row, has_chat_template: bool) -> str:
    """Return the template for *row*: evaluation rows are verbatim; `auto` prefers the checkpoint's chat template."""
    if row.verbatim or any(turn.role == "text" for turn in row.turns):
        return "plain"
    if template != "auto":
        return template
    return "chat" if has_chat_template else "dialogue"


def render(row: Row, template: str, tokenizer: Any) -> Rendered:
    """Render *row*; each response ends with the tokenizer's EOS."""
    if template == "chat":
        return _render_chat(row, tokenizer)
    user, model, between = _MARKS[template]
    text, spans = "", []
    for turn in row.turns:
        text += between if text else ""
        text += {"user": user, "model": model, "text": ""}[turn.role]
        start = len(text)
        text += turn.text
        if turn.role != "user":
            text += tokenizer.eos_token
            spans.append((start, len(text)))
    return Rendered(text, tuple(spans))


def _render_chat(row: Row, tokenizer: Any) -> Rendered:
    if not tokenizer.chat_template:
        raise BenchError("The checkpoint has no chat template.", "Use --template dialogue, instruction or plain.")
    messages = [{"role": "assistant" if t.role == "model" else "user", "content": t.text} for t in row.turns]
    text, spans = "", []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = tokenizer.apply_chat_template(messages[:i], tokenize=False, add_generation_prompt=True)
        after = tokenizer.apply_chat_template(messages[: i + 1], tokenize=False)
        if not (before.startswith(text) and after.startswith(before)):
            raise BenchError(
                "The chat template rewrites earlier turns, so the response cannot be told from the prompt.",
                "Use --template dialogue or instruction.",
            )
        spans.append((len(before), len(after)))
        text = after
    return Rendered(text, tuple(spans), has_special_tokens=True)
