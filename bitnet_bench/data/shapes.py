"""Recognise the shapes in which data sets write a row, from a table of named shapes.

A shape is recognised by the fields that it needs. If several fit, the one that reads most of the row is used. If
neither of two reads all that the other does, the row is refused with their names: nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from bitnet_bench.data import aihub
from bitnet_bench.data.fields import SPEAKERS, Fields
from bitnet_bench.data.jsonl import BadRowError, shorten_name
from bitnet_bench.data.tool_calls import (
    CALL_NAMES,
    CALLS,
    TOOL_NAMES,
    TOOLS,
    add_tools,
    join_results,
    write_calls,
    write_result,
    write_tools,
)
from bitnet_bench.data.turns import Turn, role_of

DESCRIPTION = (
    '{"prompt", "response"} (or "completion"), {"instruction", "input", "output"}, {"question", "answer"}, '
    '{"input", "output"}, {"Q", "A"}, {"messages": [...]} or {"conversations": [...]}, {"turns": [...]}, each with a '
    '"system" if there is one; AI Hub\'s files of summaries and questions; '
    'for --method pretrain also {"text"} or {"document"}; for dpo {"prompt", "chosen", "rejected"}'
)
ASKING = ("prompt", "instruction", "question", "query", "input")
ANSWERING = ("response", "output", "answer", "completion")
SYSTEM = ("system", "system_prompt")
APPENDED = ("context", "input")
"""Fields that continue the user's text, in this order."""
AROUND = (*SYSTEM, "history", *APPENDED)
DIALOGUES = ("messages", "conversations", "conversation", "turns", "dialogue")
CONTENTS = ("content", "value", "utterance", "text")
TEXTS = ("text", "document")
STRICT_FLAGS = ("weight", "train")
LEARNING_FLAGS = (*STRICT_FLAGS, "training", "trainable", "loss", "learn", "learned", "learnable", "train_on_turn")
"""Fields of a turn or a row that say whether it carries the loss: 0 or 1, false or true. Of the strict ones, any other
number is refused."""
NAMES_SHOWN = 10
_TYPES: dict[str, type] = {**dict.fromkeys(DIALOGUES, list), **dict.fromkeys(TEXTS, str)}
"""Type that a field of each name must have to identify a shape: many data sets count their turns in `turns`."""


class UnknownShapeError(BadRowError):
    """A row without the fields of any shape: a fault of its whole file, if no row before it had a shape."""


@dataclass(frozen=True, slots=True)
class Said:
    """The contents of a row: its turns, and the rejected alternative to the last of them."""

    turns: list[Turn]
    rejected: str | None = None


@dataclass(frozen=True)
class Shape:
    """One way to write a row."""

    name: str
    needs: tuple[str, ...]
    read: Callable[[Fields], Said]
    also: tuple[str, ...] = ()
    """Optional fields that are read if present."""
    rank: int = 1
    """Priority, the lowest first: pairs with a rejected answer (0) often hold their prompt as a dialogue too, and all
    kinds may hold their source as a text (2)."""
    texts_are_joined: bool = False
    """True if the texts of many small fields are joined, so that a field counts as read if they contain its text."""

    def claims(self, there: frozenset[str]) -> frozenset[str]:
        """Return which of the fields *there* this shape reads; none if a field that it needs is missing."""
        return there.intersection((*self.needs, *self.also)) if there.issuperset(self.needs) else frozenset()


def recognise(fields: Fields) -> Shape:
    """Return the shape of a row; BadRowError says which fields are missing, or which shapes fit equally well."""
    there = frozenset(
        key for key, value in fields.values.items() if key in fields and isinstance(value, _TYPES.get(key, object))
    )
    fitting = find_widest(there) or [_nearest(fields, there)]
    if len(fitting) > 1:
        names = " or as ".join(shape.name for shape in fitting)
        raise BadRowError(f"can be read as {names}: leave out the fields of one, or make them null")
    return fitting[0]


@lru_cache(maxsize=1024)
def find_widest(there: frozenset[str]) -> list[Shape]:
    """Return the shapes of the lowest rank that read most of the fields *there*, one for each set of fields."""
    fitting = {shape: claims for shape in SHAPES if (claims := shape.claims(there))}
    rank = min((shape.rank for shape in fitting), default=0)
    claimed = {shape: claims for shape, claims in fitting.items() if shape.rank == rank}
    widest = {
        claims: shape
        for shape, claims in reversed(claimed.items())
        if not any(claims < other for other in claimed.values())
    }
    return list(reversed(widest.values()))


def _nearest(fields: Fields, there: frozenset[str]) -> Shape:
    """Return the shape that a row matches best, whose reader says which field is null or blank.

    UnknownShapeError if a field that it needs is not there at all.
    """

    def has(shape: Shape) -> tuple[int, int]:
        return len(there.intersection(shape.needs)), sum(key in fields.values for key in shape.needs)

    nearest = max(SHAPES, key=has)
    if not any(has(nearest)):
        names = [shorten_name(name) for name in sorted(fields.values)]
        more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
        raise UnknownShapeError(
            f"has none of the known fields (it has {', '.join(names[:NAMES_SHOWN]) or 'no fields'}{more})"
        )
    lacking = [key for key in nearest.needs if key not in fields.values]
    if lacking:
        raise UnknownShapeError(f'has no "{lacking[0]}"')
    return nearest


def list_known_fields() -> list[str]:
    """Return the names of all fields that any shape reads, the common ones first."""
    return list(dict.fromkeys(name for shape in SHAPES for name in (*shape.needs, *shape.also)))


def _read_pair(asking: str, answering: str) -> Callable[[Fields], Said]:
    def read(fields: Fields) -> Said:
        if (asking, answering) == ("prompt", "completion") and fields.values.get("label") is False:
            raise BadRowError('marks its answer as unwanted ("label": false), which no method here learns from')
        turns = [*_before(fields), *_asked(fields, asking), *_answered(fields, answering)]
        return Said(turns)

    return read


def _before(fields: Fields) -> list[Turn]:
    """Return the turns before the question: an instruction, and the history of the dialogue."""
    system = [Turn("system", text) for key in SYSTEM if (text := fields.optional_text(key))]
    history = fields.take("history")
    if history in (None, [], ""):
        return system
    if not isinstance(history, list):
        raise BadRowError('has a "history" that is no list of questions with their answers')
    return [*system, *(turn for exchange in history for turn in _exchange(fields, exchange))]


def _exchange(fields: Fields, exchange: Any) -> list[Turn]:
    """Return the turns of one entry of a history: [question, answer], or a turn as in a dialogue."""
    if not isinstance(exchange, list):
        return _turn(fields, "history", exchange)
    if len(exchange) != 2 or not all(isinstance(text, str) and text.strip() for text in exchange):
        raise BadRowError('has an entry of its "history" that is not a question with its answer')
    return [Turn("user", exchange[0]), Turn("model", exchange[1])]


def _asked(fields: Fields, key: str) -> list[Turn]:
    if _holds_messages(fields, key):
        return _turns(fields, key)
    parts = [fields.text(key), *(fields.optional_text(other) for other in APPENDED if other != key)]
    first, *more = [part for part in parts if part]
    return [Turn("user", "\n".join([first, *(part.strip() for part in more)]))]


def _answered(fields: Fields, key: str) -> list[Turn]:
    return _turns(fields, key) if _holds_messages(fields, key) else [Turn("model", fields.text(key))]


def _holds_messages(fields: Fields, key: str) -> bool:
    listed = fields.values.get(key)
    return isinstance(listed, list) and any(isinstance(one, dict) for one in listed)


def _read_preference(chosen: str, rejected: str) -> Callable[[Fields], Said]:
    def read(fields: Fields) -> Said:
        prompt = _prompt_of_preference(fields)
        sides = [_with_prompt(prompt, _answered(fields, key), key) for key in (chosen, rejected)]
        for side, key in zip(sides, (chosen, rejected), strict=True):
            if side[-1].role != "model" or not side[-1].learned:
                raise BadRowError(f'has a "{key}" that does not end in an answer')
            if side[0].role == "model":
                raise BadRowError('has no "prompt"')
        if sides[0][:-1] != sides[1][:-1]:
            raise BadRowError(f'has a "{chosen}" and a "{rejected}" that differ before their last answer')
        if sides[0][-1].text == sides[1][-1].text:
            raise BadRowError("prefers an answer to itself")
        return Said(sides[0], sides[1][-1].text)

    return read


def _prompt_of_preference(fields: Fields) -> list[Turn]:
    asking = [key for key in ASKING if key in fields and key not in APPENDED]
    asking = asking or [key for key in ("input",) if key in fields]
    if len(asking) > 1:
        raise BadRowError("asks in several fields: " + ", ".join(f'"{key}"' for key in asking))
    return [*_before(fields), *(turn for key in asking for turn in _asked(fields, key))]


def _with_prompt(prompt: list[Turn], said: list[Turn], key: str) -> list[Turn]:
    """Return a dialogue that holds the prompt once, whether *said* repeats it or not."""
    if said[0].role == "model":
        return [*prompt, *said]
    missing = [turn for turn in prompt if turn not in said]
    if any(turn.role != "system" for turn in missing) or (missing and said[0].role == "system"):
        raise BadRowError(f'has a "{key}" that is a dialogue without its prompt')
    return [*missing, *said]


def _read_dialogue(key: str) -> Callable[[Fields], Said]:
    def read(fields: Fields) -> Said:
        turns = _turns(fields, key)
        if key == "turns":
            answers = "system" if all(turn.role != "model" for turn in turns) else "model"
            turns = [
                Turn("model" if t.role == answers else t.role, t.text, t.learned or t.role != answers) for t in turns
            ]
        tools = next(filter(None, (write_tools(fields.take(name)) for name in TOOLS)), "")
        system = [Turn("system", text) for name in SYSTEM if (text := fields.optional_text(name))]
        inside = [turn for turn in turns if turn.role == "system"]
        if system and inside and system != inside:
            raise BadRowError("has a system text both beside its turns and among them")
        return Said(add_tools(turns if inside else [*system, *turns], tools))

    return read


def _turns(fields: Fields, key: str) -> list[Turn]:
    listed = fields.take(key)
    if not isinstance(listed, list) or not listed:
        raise BadRowError(f'has a "{key}" that is no list of turns')
    turns = join_results(turn for one in listed for turn in _turn(fields, key, one))
    if not turns:
        raise BadRowError(f'has a "{key}" that is no list of turns with text')
    return turns


def _turn(fields: Fields, key: str, turn: Any) -> list[Turn]:
    if isinstance(turn, str):
        speaker, _, said = turn.partition(":")
        if not said.strip():
            raise BadRowError(f"has an empty turn {shorten_name(turn)!r}")
        return [Turn(role_of(speaker), said.strip())]
    if not isinstance(turn, dict):
        raise BadRowError("has a turn that is neither a string nor an object with role and content")
    inner = fields.inner(key, turn)
    if "user_message" in inner:
        return [
            Turn("user", inner.text("user_message")),
            Turn("model", inner.text("system_message"), is_learned(inner)),
        ]
    speaker_key = next((name for name in SPEAKERS if name in inner), None)
    if speaker_key is None:
        raise BadRowError("has a turn that is neither a string nor an object with role and content")
    speaker = inner.take(speaker_key)
    content = _find_content(inner)
    called = _turn_with_tool(inner, speaker, content)
    if called is not None:
        return [called]
    role = role_of(speaker)
    if role == "system" and inner.values.get(content) == "":
        return []  # a dialogue without an instruction, as exporters write it
    if role != "model" and (role, key) != ("system", "turns"):  # where "system" may be the side that answers
        _ignore_flags(inner)
        return [Turn(role, _content(inner, content))]
    return [Turn(role, _content(inner, content), is_learned(inner))]


def _find_content(fields: Fields) -> str:
    """Return the field of a turn that holds its text, or would hold it."""
    there = next((name for name in CONTENTS if name in fields), None)
    return there or next((name for name in CONTENTS if name in fields.values), CONTENTS[0])


def _turn_with_tool(fields: Fields, speaker: Any, content: str) -> Turn | None:
    """Return a turn that calls tools, or gives the result of a call, with the text in *content*; None for any other."""
    name = speaker.strip().lower() if isinstance(speaker, str) else ""
    if name in TOOL_NAMES:
        for about in ("tool_call_id", "name"):
            fields.take(about)
        _ignore_flags(fields)
        return write_result(_content(fields, content) if content in fields else str(fields.take(content) or ""))
    calls = next((fields.take(key) for key in CALLS if key in fields), None)
    if name in CALL_NAMES:
        return Turn("model", write_calls("", fields.take(content)), is_learned(fields))
    if not calls or role_of(speaker) != "model":
        return None
    said = _content(fields, content) if content in fields else ""
    fields.take(content)
    return Turn("model", write_calls(said, calls), is_learned(fields))


def _content(fields: Fields, key: str) -> str:
    """Return the text of a turn; if it has parts, they are joined."""
    parts = fields.values.get(key)
    if not isinstance(parts, list) or not parts:
        return fields.text(key)
    fields.take(key)
    found = []
    for part in parts:
        if isinstance(part, str):
            found.append(part)
        elif isinstance(part, dict) and part.get("type", "text") == "text":
            inner = fields.inner(key, part)
            inner.take("type")
            found.append(inner.text("text"))
        else:
            kind = part.get("type") if isinstance(part, dict) else part
            raise BadRowError(f'has a "{key}" with a part that is no text ({shorten_name(kind)})')
    joined = "".join(found)
    if not joined.strip():
        raise BadRowError(f'has an empty "{key}"')
    return joined


def is_learned(fields: Fields) -> bool:
    """Return whether a turn or a row carries the loss, by its flags: `"weight"`, `"train"`, `"loss"` and others.

    BadRowError for a weight between 0 and 1; another flag that is neither is left unread, and so is reported.
    """
    flags = {
        key: fields.values[key] for key in LEARNING_FLAGS if isinstance(fields.values.get(key), bool | int | float)
    }
    for key, value in flags.items():
        if value in (0, 1):
            fields.take(key)
        elif key in STRICT_FLAGS:
            raise BadRowError(f'has the "{key}" {value}, and only 0 and 1 can be learned by')
    return 0 not in flags.values()


def _ignore_flags(fields: Fields) -> None:
    """Take the flags that keep the loss off a turn that carries none; one that asks for it is left unread."""
    for key in LEARNING_FLAGS:
        if fields.values.get(key) == 0:
            fields.take(key)


def _read_aihub(read: Callable[[dict[str, Any]], tuple[str, str]]) -> Callable[[Fields], Said]:
    def turns(fields: Fields) -> Said:
        try:
            request, answer = read(fields.values)
        except ValueError as error:
            raise BadRowError(str(error)) from error
        return Said([Turn("user", request), Turn("model", answer)])

    return turns


def _read_text(key: str) -> Callable[[Fields], Said]:
    return lambda fields: Said([Turn("text", fields.text(key))])


def _pairs() -> Sequence[tuple[str, str]]:
    """Return every combination of a question and an answer field, the common ones first."""
    known = [("prompt", "response"), ("instruction", "output"), ("Q", "A"), ("question", "answer"), ("input", "output")]
    rest = [(asking, answering) for asking in ASKING for answering in ANSWERING]
    return [*known, *(pair for pair in rest if pair not in known)]


SHAPES: tuple[Shape, ...] = (
    *(
        Shape("a preference pair", (c, r), _read_preference(c, r), also=(*ASKING, *AROUND), rank=0)
        for c, r in (("chosen", "rejected"), ("chosen_response", "rejected_response"))
    ),
    *(Shape(f'a dialogue in "{key}"', (key,), _read_dialogue(key), also=(*SYSTEM, *TOOLS)) for key in DIALOGUES),
    Shape("a dialogue summary", ("body",), _read_aihub(aihub.parse_dialogue_summary), rank=2, texts_are_joined=True),
    Shape(
        "a document summary",
        ("abstractive",),
        _read_aihub(aihub.parse_document_summary),
        also=("text", "article_original"),
        rank=2,
        texts_are_joined=True,
    ),
    Shape(
        "a question about a text",
        ("context", "question"),
        _read_aihub(aihub.parse_question),
        also=("answers", "answer", "is_impossible"),
        texts_are_joined=True,
    ),
    *(
        Shape(f'"{asking}" and "{answering}"', (asking, answering), _read_pair(asking, answering), also=AROUND)
        for asking, answering in _pairs()
    ),
    *(Shape(f'the text "{key}"', (key,), _read_text(key), rank=2) for key in TEXTS),
)
