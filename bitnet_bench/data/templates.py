"""Turn a row into text whose model turns are known to the character."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError

from bitnet_bench.data.rows import Row, Turn
from bitnet_bench.errors import BenchError, UsageError


class _Marks(NamedTuple):
    """Text before each turn, by who speaks, and between turns."""

    user: str
    model: str
    lead: str = ""
    """Belongs to the response: a prompt that ended in a space would be no token prefix."""
    between: str = ""
    after_user: str = ""
    system: tuple[str, str] = ("", "")
    """Around an instruction, which stands within the user's first turn where that has an end of its own."""


_MARKS = {
    "plain": _Marks("", ""),
    "dialogue": _Marks("사용자: ", "모델:", lead=" ", between="\n"),
    "instruction": _Marks("### Instruction:\n", "### Response:\n", between="\n\n"),
    "inst": _Marks("[INST] ", "", lead=" ", after_user=" [/INST]", system=("<<SYS>>\n", "\n<</SYS>>\n\n")),
}
NAMES = ("auto", *_MARKS, "chat")


def refuse_unknown(template: str) -> None:
    """BenchError unless *template* is one of `NAMES` or a file."""
    if template not in NAMES and not Path(template).is_file():
        raise UsageError(
            f"There is no template {template!r}.",
            f"Choose {', '.join(NAMES)}, or name a file that holds a Jinja chat template.",
        )


def digest(template: str) -> str | None:
    """Return the sha256 of a template from a file, None for one with a name."""
    return None if template in NAMES else hashlib.sha256(Path(template).read_bytes()).hexdigest()


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


class RewrittenTurnsError(BenchError):
    """A chat template writes earlier turns otherwise once the dialogue goes on, as those of reasoning models do."""


def render_sequences(row: Row, template: str, tokenizer: Any) -> list[Rendered]:
    """Return the texts that *row* is learned as: one, or one an answer where its template rewrites earlier turns."""
    try:
        return [render(row, template, tokenizer)]
    except RewrittenTurnsError:
        parts = row.split()
        if len(parts) < 2:
            raise
    return [render(part, template, tokenizer) for part in parts]


def render(row: Row, template: str, tokenizer: Any) -> Rendered:
    """Render *row*; each response ends with the tokenizer's EOS, or as its chat template has it.

    An EOS that the row brings at the end of a response, and a BOS at its beginning, are not written a second time.
    """
    if template == "chat" or template not in _MARKS:
        return _render_chat(row, tokenizer, None if template == "chat" else template)
    marks = _MARKS[template]
    text, spans, opened = "", [], False
    for turn in row.turns:
        text += marks.between if text and not opened else ""
        if turn.role in ("user", "system") and not opened:
            text += marks.user if turn.role == "user" or marks.after_user else ""
        opened = turn.role == "system" and bool(marks.after_user)  # [INST] stays open for the user's words
        text += marks.model if turn.role == "model" else ""
        start = len(text)
        text += _words(turn, marks)
        if turn.role in ("model", "text"):
            text = _without_eos(text, tokenizer) + (tokenizer.eos_token or "")
            if turn.learned:
                spans.append((start, len(text)))
    bos: str = getattr(tokenizer, "bos_token", None) or ""
    return Rendered(text, tuple(spans), has_special_tokens=bool(bos) and text.startswith(bos))


def _without_eos(text: str, tokenizer: Any) -> str:
    """Return *text* without the EOS that it ends with, if it does."""
    eos = tokenizer.eos_token
    ended = text.rstrip()
    return ended.removesuffix(eos) if eos and ended.endswith(eos) else text


def _words(turn: Turn, marks: _Marks) -> str:
    before, after = {
        "model": (marks.lead, ""),
        "user": ("", marks.after_user),
        "system": marks.system,
        "text": ("", ""),
    }[turn.role]
    return f"{before}{turn.text}{after}"


@cache
def _jinja(file: str) -> str:
    return Path(file).read_text(encoding="utf-8")


def _render_chat(row: Row, tokenizer: Any, file: str | None) -> Rendered:
    """Render through the checkpoint's chat template, or one from a *file*; transformers runs either in a sandbox."""
    if not (file or tokenizer.chat_template):
        raise BenchError("The checkpoint has no chat template.", "Use `template=dialogue`, instruction or plain.")
    if row.turns[0].role == "model":
        raise BenchError(
            "A dialogue begins with the model's turn, which a chat template has no prompt for.",
            "Remove such rows, or use `template=dialogue` or instruction.",
        )
    messages = row.messages()
    for message in messages:
        if message["role"] == "assistant":
            message["content"] = _without_eos(message["content"], tokenizer)
    source: dict[str, Any] = {"chat_template": _jinja(file)} if file else {}

    def apply(count: int, **options: bool) -> str:
        try:
            return str(tokenizer.apply_chat_template(messages[:count], tokenize=False, **options, **source))
        except TemplateError as error:
            raise BenchError(
                f"The chat template {file or 'of the checkpoint'} does not take this row: {error}.",
                "Correct it, or use `template=dialogue` or instruction.",
            ) from error

    text, spans, written = "", [], 0
    for response in row.responses:
        before, after = apply(response, add_generation_prompt=True), apply(response + 1)
        if not (before.startswith(text) and after.startswith(before)):
            raise RewrittenTurnsError(
                "The chat template rewrites earlier turns, so the response cannot be told from the prompt.",
                "Use `template=dialogue` or instruction.",
            )
        spans.append((len(before), len(after)))
        text, written = after, response + 1
    whole = apply(len(messages)) if written < len(messages) else text
    return Rendered(whole if whole.startswith(text) else text, tuple(spans), has_special_tokens=True)
