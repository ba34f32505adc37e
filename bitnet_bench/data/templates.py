"""Turn a row into text whose model turns are known to the character."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from bitnet_bench.data.rows import Row
from bitnet_bench.errors import BenchError


class _Marks(NamedTuple):
    """Text around turns. *lead* belongs to the response: a prompt that ended in a space would be no token prefix."""

    user: str
    model: str
    lead: str
    between: str


_MARKS = {
    "plain": _Marks("", "", "", ""),
    "dialogue": _Marks("사용자: ", "모델:", " ", "\n"),
    "instruction": _Marks("### Instruction:\n", "### Response:\n", "", "\n\n"),
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
    marks = _MARKS[template]
    text, spans = "", []
    for turn in row.turns:
        text += marks.between if text else ""
        text += {"user": marks.user, "model": marks.model}.get(turn.role, "")
        start = len(text)
        text += marks.lead + turn.text if turn.role == "model" else turn.text
        if turn.role in ("model", "text"):
            text += tokenizer.eos_token
            spans.append((start, len(text)))
    return Rendered(text, tuple(spans))


def _render_chat(row: Row, tokenizer: Any) -> Rendered:
    if not tokenizer.chat_template:
        raise BenchError("The checkpoint has no chat template.", "Use --template dialogue, instruction or plain.")
    if row.turns[0].role == "model":
        raise BenchError(
            "A dialogue begins with the model's turn, which a chat template has no prompt for.",
            "Remove such rows, or use --template dialogue or instruction.",
        )
    messages = row.messages()
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
