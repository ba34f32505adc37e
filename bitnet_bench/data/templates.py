"""Render a row as text and return the character span of every model turn."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import TemplateError

from bitnet_bench.data.bounds import bounded
from bitnet_bench.data.rows import Row, Turn
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.files import is_file, read_text


class _TemplateMarks(NamedTuple):
    """Text before each turn, by speaker, and between turns."""

    user: str
    model: str
    lead: str = ""
    """Text at the start of the response; a prompt that ended in a space would not be a token prefix."""
    between: str = ""
    after_user: str = ""
    system: tuple[str, str] = ("", "")
    """Text around an instruction, which is put into the user's first turn if *after_user* is set."""


_TEMPLATE_MARKS = {
    "plain": _TemplateMarks("", ""),
    "dialogue": _TemplateMarks("사용자: ", "모델:", lead=" ", between="\n"),
    "instruction": _TemplateMarks("### Instruction:\n", "### Response:\n", between="\n\n"),
    "inst": _TemplateMarks("[INST] ", "", lead=" ", after_user=" [/INST]", system=("<<SYS>>\n", "\n<</SYS>>\n\n")),
}
TEMPLATE_SECONDS = 3.0
TEMPLATE_BYTES = 2**29
TEMPLATE_CHARACTERS, TEMPLATE_GROWTH = 1_000_000, 50
"""Limits of a chat template for one row: time, memory, and characters (a base, plus a factor of the row's own)."""
MAX_TEMPLATE_BYTES = 1 << 20
ANSWER = "\ue000"
"""Placeholder of an answer in a chat template: a character that no text holds (Unicode's private use)."""
TEMPLATE_NAMES = ("auto", *_TEMPLATE_MARKS, "chat")


def check_template(template: str) -> None:
    """Raise BenchError unless *template* is one of `TEMPLATE_NAMES` or a file."""
    if template not in TEMPLATE_NAMES and not is_file(Path(template)):
        raise UsageError(
            f"There is no template {template!r}.",
            f"Choose {', '.join(TEMPLATE_NAMES)}, or name a file that holds a Jinja chat template.",
        )


def hash_template(template: str) -> str | None:
    """Return the sha256 of a template file, None for a template with a name."""
    return None if template in TEMPLATE_NAMES else hashlib.sha256(Path(template).read_bytes()).hexdigest()


@dataclass(frozen=True, slots=True)
class RenderedRow:
    """A row as text; *responses* are the [start, end) character spans that carry the loss."""

    text: str
    responses: tuple[tuple[int, int], ...]


def choose_template(template: str, row: Row, has_chat_template: bool) -> str:
    """Return the template for *row*: evaluation rows are verbatim; `auto` prefers the checkpoint's chat template."""
    if row.verbatim or any(turn.role == "text" for turn in row.turns):
        return "plain"
    if template != "auto":
        return template
    return "chat" if has_chat_template else "dialogue"


class RewrittenTurnsError(BenchError):
    """A chat template changes earlier turns when the dialogue continues, as those of reasoning models do."""


def render_sequences(row: Row, template: str, tokenizer: Any) -> list[RenderedRow]:
    """Return the texts that *row* is learned as: one, or one per answer if its template rewrites earlier turns."""
    try:
        return [render_row(row, template, tokenizer)]
    except RewrittenTurnsError:
        parts = row.split()
        if len(parts) < 2:
            raise
    return [render_row(part, template, tokenizer) for part in parts]


def render_rows(rows: Sequence[Row], templates: Sequence[str], tokenizer: Any) -> list[list[RenderedRow]]:
    """Return what `render_sequences` does for each of *rows*; dialogues of a chat template are rendered together.

    The limits of a chat template are those of one row for all of them. Where they or the template end this, the rows
    are rendered one by one, so that each has the whole limits and the first bad row is the one that is named.
    """
    together: dict[str, list[int]] = {}
    for at, template in enumerate(templates):
        if template not in _TEMPLATE_MARKS:
            together.setdefault(template, []).append(at)
    found: list[list[RenderedRow] | None] = [None] * len(rows)
    for template, members in together.items():
        file = None if template == "chat" else template
        try:
            rendered = _render_chats([rows[at] for at in members], tokenizer, file)
        except BenchError:
            continue
        for at, one in zip(members, rendered, strict=True):
            found[at] = [one] if isinstance(one, RenderedRow) else None
    return [
        render_sequences(row, template, tokenizer) if one is None else one
        for row, template, one in zip(rows, templates, found, strict=True)
    ]


def render_row(row: Row, template: str, tokenizer: Any) -> RenderedRow:
    """Render *row*; each response ends with the tokenizer's EOS, or as its chat template writes it.

    An EOS at the end of a response in the row, or a BOS at its beginning, is not written a second time.
    """
    if template == "chat" or template not in _TEMPLATE_MARKS:
        return _render_chat(row, tokenizer, None if template == "chat" else template)
    marks = _TEMPLATE_MARKS[template]
    text, spans, opened = "", [], False
    for turn in row.turns:
        text += marks.between if text and not opened else ""
        if turn.role in ("user", "system") and not opened:
            text += marks.user if turn.role == "user" or marks.after_user else ""
        opened = turn.role == "system" and bool(marks.after_user)  # [INST] stays open for the user's text
        text += marks.model if turn.role == "model" else ""
        start = len(text)
        text += _wrap_turn(turn, marks)
        if turn.role in ("model", "text"):
            text = _without_eos(text, tokenizer) + (tokenizer.eos_token or "")
            if turn.learned:
                spans.append((start, len(text)))
    return RenderedRow(text, tuple(spans))


def _without_eos(text: str, tokenizer: Any) -> str:
    """Return *text* without a final EOS."""
    eos = tokenizer.eos_token
    ended = text.rstrip()
    return ended.removesuffix(eos) if eos and ended.endswith(eos) else text


def _wrap_turn(turn: Turn, marks: _TemplateMarks) -> str:
    before, after = {
        "model": (marks.lead, ""),
        "user": ("", marks.after_user),
        "system": marks.system,
        "text": ("", ""),
    }[turn.role]
    return f"{before}{turn.text}{after}"


@cache
def _read_template(file: str) -> str:
    return read_text(Path(file), "Give a file that holds a Jinja chat template.", MAX_TEMPLATE_BYTES)


def _render_chat(row: Row, tokenizer: Any, file: str | None) -> RenderedRow:
    """Render through the checkpoint's chat template, or one from a *file*; transformers runs either in a sandbox."""
    (rendered,) = _render_chats([row], tokenizer, file)
    if isinstance(rendered, RewrittenTurnsError):
        raise rendered
    return rendered


def _render_chats(rows: Sequence[Row], tokenizer: Any, file: str | None) -> list[RenderedRow | RewrittenTurnsError]:
    """Return what `_render_chat` returns or raises for each of *rows*; the template is called for all at once."""
    prompts: list[list[dict[str, str]]] = []
    dialogues: list[list[dict[str, str]]] = []
    for row in rows:
        messages = _to_chat(row, tokenizer, file)
        prompts += [messages[:response] for response in row.responses]
        dialogues += [messages[: response + 1] for response in row.responses]
        if not row.responses or row.responses[-1] + 1 < len(messages):
            dialogues.append(messages)
    before = iter(_apply_chat_template(tokenizer, prompts, file, add_generation_prompt=True))
    after = iter(_apply_chat_template(tokenizer, dialogues, file))
    found: list[RenderedRow | RewrittenTurnsError] = []
    for row in rows:
        asked = list(islice(before, len(row.responses)))
        said = list(islice(after, len(row.responses)))
        has_rest = not row.responses or row.responses[-1] + 1 < len(row.turns)
        whole = next(after) if has_rest else said[-1]
        try:
            found.append(_find_responses(asked, said, whole))
        except RewrittenTurnsError as error:
            found.append(error)
    return found


def _to_chat(row: Row, tokenizer: Any, file: str | None) -> list[dict[str, str]]:
    """Return the messages of *row*, without an EOS of their own; BenchError if a chat template cannot render them."""
    if not (file or tokenizer.chat_template):
        raise BenchError("The checkpoint has no chat template.", "Use `template=dialogue`, instruction or plain.")
    if row.turns[0].role == "model":
        raise BenchError(
            "A dialogue begins with the model's turn, which a chat template has no prompt for.",
            "Remove such rows, or use `template=dialogue` or instruction.",
        )
    messages = row.to_messages()
    for message in messages:
        if message["role"] == "assistant":
            message["content"] = _without_eos(message["content"], tokenizer)
    return messages


def _find_responses(prompts: Sequence[str], dialogues: Sequence[str], whole: str) -> RenderedRow:
    """Return a dialogue as text, given its text up to each response (a prompt), with each of them, and as a *whole*."""
    text, spans = "", []
    for before, after in zip(prompts, dialogues, strict=True):
        if not (before.startswith(text) and after.startswith(before)):
            raise RewrittenTurnsError(
                "The chat template rewrites earlier turns, so the response cannot be told from the prompt.",
                "Use `template=dialogue` or instruction.",
            )
        spans.append((len(before), len(after)))
        text = after
    return RenderedRow(whole if whole.startswith(text) else text, tuple(spans))


def find_chat_template(template: str, rows: Iterable[Row], tokenizer: Any) -> str | None:
    """Return the Jinja chat template that *rows* are rendered with: the tokenizer's own, a file's or a named one's.

    Rows that are verbatim or running text use none; the tokenizer then keeps its own.
    """
    own: str | None = tokenizer.chat_template
    names = {
        choose_template(template, row, bool(own)) for row in rows if not (row.verbatim or row.turns[0].role == "text")
    }
    if not names or names == {"chat"}:
        return own
    (name,) = names
    return _write_jinja(_TEMPLATE_MARKS[name]) if name in _TEMPLATE_MARKS else _read_template(name)


def make_named_template(name: str) -> str:
    """Return the Jinja chat template that writes the text of the template *name*, such as `dialogue`."""
    return _write_jinja(_TEMPLATE_MARKS[name])


def apply_chat_template(
    tokenizer: Any, messages: Sequence[Mapping[str, str]], file: str | None = None, **options: bool
) -> str:
    """Return *messages* rendered by the chat template of *tokenizer*, or by that in *file*.

    BenchError for any failure, including too much time, memory or text: the template may be untrusted.
    """
    (text,) = _apply_chat_template(tokenizer, [messages], file, **options)
    return text


def _apply_chat_template(
    tokenizer: Any, dialogues: Sequence[Sequence[Mapping[str, str]]], file: str | None, **options: bool
) -> list[str]:
    """Return each of *dialogues* as `apply_chat_template` does, all of them within the limits of one."""
    if not dialogues:
        return []
    own = {"chat_template": _read_template(file)} if file else {}
    try:
        with bounded(TEMPLATE_SECONDS, TEMPLATE_BYTES):
            texts: list[str] = tokenizer.apply_chat_template(dialogues, tokenize=False, **own, **options)
        for text, messages in zip(texts, dialogues, strict=True):
            check_growth(text, sum(len(message["content"]) for message in messages))
    except Exception as error:  # a template is a program
        raise BenchError(
            f"The chat template {file or 'of the checkpoint'} does not take this row: {explain_template_error(error)}.",
            "Correct it, or do without it.",
        ) from error
    return texts


def check_growth(text: str, size: int) -> None:
    """Raise MemoryError if a template made too long a *text* of *size* characters."""
    if len(text) > TEMPLATE_CHARACTERS + TEMPLATE_GROWTH * size:
        raise MemoryError(f"it writes {len(text)} characters")


def explain_template_error(error: Exception) -> str:
    """Return the first line of the message of a template's error."""
    said = str(error).strip().partition("\n")[0].rstrip(".")
    if isinstance(error, MemoryError):
        return said or "it takes too much memory"
    return said if said and isinstance(error, (TemplateError, TimeoutError)) else f"{type(error).__name__}: {said}"


def find_turn_end(tokenizer: Any) -> frozenset[int]:
    """Return the special token that the tokenizer's chat template writes right after an answer; empty if there is none.

    A base model that learned such a template ends its answers with it, whatever the tokenizer's EOS is.
    """
    if not tokenizer.chat_template:
        return frozenset()
    messages = [{"role": "user", "content": ANSWER * 2}, {"role": "assistant", "content": ANSWER}]
    try:
        text = apply_chat_template(tokenizer, messages)
    except BenchError:
        return frozenset()
    ids = tokenizer(text.rpartition(ANSWER)[2], add_special_tokens=False).input_ids[:1]
    return frozenset(ids) & find_special_ids(tokenizer)


def find_special_ids(tokenizer: Any) -> frozenset[int]:
    """Return the ids of all tokens that decoding skips."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return frozenset(getattr(tokenizer, "all_special_ids", ())) | {i for i, token in added.items() if token.special}


def _write_jinja(marks: _TemplateMarks) -> str:
    """Return the chat template that writes the text of `render_row` with *marks*."""
    between, user, after_user, model, lead = (
        json.dumps(text, ensure_ascii=False)
        for text in (marks.between, marks.user, marks.after_user, marks.model, marks.lead)
    )
    before_system, after_system = (json.dumps(text, ensure_ascii=False) for text in marks.system)
    # the instruction is put into the user's first turn if that turn has an end mark
    inside = bool(marks.after_user)
    return (
        "{%- set ns = namespace(inside=false) -%}{%- for m in messages -%}"
        f"{{%- if not (loop.first or ns.inside) -%}}{{{{ {between} }}}}{{%- endif -%}}"
        "{%- if m.role == 'assistant' -%}"
        f"{{{{ {model} + {lead} + m.content + eos_token }}}}"
        "{%- elif m.role == 'system' -%}"
        f"{{{{ ('' if ns.inside else {user if inside else json.dumps('')}) }}}}"
        f"{{{{ {before_system} + m.content + {after_system} }}}}"
        "{%- else -%}"
        f"{{{{ ('' if ns.inside else {user}) + m.content + {after_user} }}}}"
        "{%- endif -%}"
        f"{{%- set ns.inside = {json.dumps(inside)} and m.role == 'system' -%}}"
        "{%- endfor -%}"
        f"{{%- if add_generation_prompt -%}}{{{{ {between} + {model} }}}}{{%- endif -%}}"
    )
