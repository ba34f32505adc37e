"""Read JSONL training rows of the shapes that are in use, or say which line is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bitnet_bench.data import aihub
from bitnet_bench.data.jsonl import is_whole, nfc_json, numbered_lines
from bitnet_bench.errors import BenchError
from bitnet_bench.files import write_whole

Role = Literal["user", "model", "system", "text"]
USER_NAMES = {"user", "human", "사용자", "질문자", "고객"}
MODEL_NAMES = {"model", "assistant", "bot", "gpt", "모델", "상담원"}
SYSTEM_NAMES = {"system", "sys", "시스템"}
"""An instruction beside a model's turns; the answering side where dialogues have no other (HG-TODS, WoS)."""
SHAPES = (
    '{"prompt", "response"}, {"instruction", "input", "output"}, {"messages": [...]}, {"turns": [...]}, {"Q", "A"}; '
    "AI Hub's files of summaries and questions; "
    'for `method=pretrain` also {"text"} or {"document"}; for dpo {"prompt", "chosen", "rejected"}'
)


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side said; `system` is an instruction, and `text` is running text with no sides."""

    role: Role
    text: str


@dataclass(frozen=True, slots=True)
class Row:
    """One training example. *verbatim*: its turns are joined as they are, as in an evaluation prompt."""

    turns: tuple[Turn, ...]
    verbatim: bool = False
    rejected: str | None = None
    """The answer that was not preferred to the last turn, of a preference pair."""

    def messages(self) -> list[dict[str, str]]:
        """Return the turns as chat templates and most tools name them."""
        names = {"model": "assistant"}
        return [{"role": names.get(turn.role, turn.role), "content": turn.text} for turn in self.turns]

    def with_rejected(self) -> Row:
        """Return the row that ends in its rejected answer."""
        return Row((*self.turns[:-1], Turn("model", self.rejected or "")), self.verbatim)


class BadRowError(ValueError):
    """Why a row cannot be used, as the end of a sentence that begins with its line number."""


def read_rows(path: Path) -> list[Row]:
    """Return the rows of a JSONL file, in NFC; BenchError names the first bad line."""
    if not path.is_file():
        raise BenchError(
            f"There is no file {path}.",
            "`data` takes a JSONL file, or SUITE:TASK such as klue:ynat (`bitnet-bench suites` lists them).",
        )
    rows = [row for _, row in _numbered(path)]
    if not rows:
        raise BenchError(f"{path} has no rows.", f"Give a JSONL file with rows like {SHAPES}.")
    return rows


def _numbered(path: Path) -> Iterator[tuple[int, Row]]:
    for number, line in numbered_lines(path):
        try:
            yield number, parse_row(line)
        except BadRowError as error:
            what = "Entry" if is_whole(path) else "Line"
            raise BenchError(f"{what} {number} of {path.name} {error}.", f"Rows look like {SHAPES}.") from error


def parse_row(line: str) -> Row:
    """Return the row of one JSONL line, in NFC; BadRowError says what is wrong with it."""
    try:
        fields = nfc_json(line)
    except ValueError as error:
        raise BadRowError(f"is not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise BadRowError("is not a JSON object")
    for keys, build in _SHAPES:
        if keys & fields.keys():
            turns = tuple(build(fields))
            rejected = _text(fields, _REJECTED[_REJECTED[0] not in fields]) if build is _preference else None
            if rejected == turns[-1].text:
                raise BadRowError("prefers an answer to itself")
            if all(turn.role in ("user", "system") for turn in turns):
                raise BadRowError("has no model turn to learn from")
            return Row(turns, rejected=rejected)
    raise BadRowError(f"has none of the known fields (it has {', '.join(sorted(fields)) or 'no fields'})")


def as_fields(row: Row) -> dict[str, Any]:
    """Return the JSON object that says the same in the shape most tools read."""
    if row.rejected is not None:
        return {"prompt": row.turns[0].text, "chosen": row.turns[-1].text, "rejected": row.rejected}
    if all(turn.role == "text" for turn in row.turns):
        return {"text": row.turns[0].text}
    return {"messages": row.messages()}


def _text(fields: dict[str, Any], key: str, may_be_empty: bool = False) -> str:
    if key not in fields:
        raise BadRowError(f'has no "{key}"')
    value = fields[key]
    if not isinstance(value, str):
        raise BadRowError(f'has a "{key}" that is no string')
    if not value.strip() and not may_be_empty:
        raise BadRowError(f'has an empty "{key}"')
    return value


def _pair(question: str, answer: str) -> Any:
    return lambda fields: (Turn("user", _text(fields, question)), Turn("model", _text(fields, answer)))


def _of_aihub(read: Any) -> Any:
    def turns(fields: dict[str, Any]) -> tuple[Turn, Turn]:
        try:
            request, answer = read(fields)
        except ValueError as error:
            raise BadRowError(str(error)) from error
        return Turn("user", request), Turn("model", answer)

    return turns


def _instruction(fields: dict[str, Any]) -> Iterator[Turn]:
    extra = _text(fields, "input", may_be_empty=True).strip() if fields.get("input") else ""
    instruction = _text(fields, "instruction")
    yield Turn("user", f"{instruction}\n{extra}" if extra else instruction)
    yield Turn("model", _text(fields, "output"))


_CHOSEN, _REJECTED = ("chosen", "chosen_response"), ("rejected", "rejected_response")


def _preference(fields: dict[str, Any]) -> Iterator[Turn]:
    yield Turn("user", _text(fields, "prompt"))
    yield Turn("model", _text(fields, _CHOSEN[_CHOSEN[0] not in fields]))


def _running_text(fields: dict[str, Any]) -> Iterator[Turn]:
    yield Turn("text", _text(fields, "text" if "text" in fields else "document"))


def _dialogue(fields: dict[str, Any]) -> Iterator[Turn]:
    turns = fields.get("messages", fields.get("turns"))
    if not isinstance(turns, list) or not turns:
        raise BadRowError('has a "turns" or "messages" that is no list of turns')
    said = [part for turn in turns for part in _turn(turn)]
    if "turns" in fields and all(turn.role != "model" for turn in said):
        said = [Turn("model", turn.text) if turn.role == "system" else turn for turn in said]
    yield from said


def _turn(turn: Any) -> Iterator[Turn]:
    if isinstance(turn, str):
        speaker, _, said = turn.partition(":")
        if not said.strip():
            raise BadRowError(f"has an empty turn {turn!r}")
        yield Turn(_role(speaker), said.strip())
    elif isinstance(turn, dict) and "user_message" in turn:
        yield Turn("user", _text(turn, "user_message"))
        yield Turn("model", _text(turn, "system_message"))
    elif isinstance(turn, dict) and "role" in turn:
        key = next((k for k in ("content", "utterance", "text") if k in turn), "content")
        yield Turn(_role(turn["role"]), _text(turn, key))
    else:
        raise BadRowError("has a turn that is neither a string nor an object with role and content")


def _role(name: Any) -> Role:
    lowered = str(name).strip().lower()
    if lowered in USER_NAMES:
        return "user"
    if lowered in MODEL_NAMES:
        return "model"
    if lowered in SYSTEM_NAMES:
        return "system"
    raise BadRowError(f"has a turn by {name!r}, who is neither user nor model")


_SHAPES: tuple[tuple[set[str], Any], ...] = (
    ({*_CHOSEN, *_REJECTED}, _preference),
    ({"messages", "turns"}, _dialogue),
    ({"prompt", "response"}, _pair("prompt", "response")),
    ({"instruction", "output"}, _instruction),
    ({"Q", "A"}, _pair("Q", "A")),
    ({"body"}, _of_aihub(aihub.dialogue_summary)),
    ({"abstractive"}, _of_aihub(aihub.document_summary)),
    ({"context"}, _of_aihub(aihub.question)),
    ({"text", "document"}, _running_text),
)


def convert_data(file: Path, out: Path) -> int:
    """Write the rows of *file*, whatever their shape, as {"messages"} (pairs as {"prompt", "chosen", "rejected"}).

    Returns how many; BenchError names the first bad line, and *out* is not written then.
    """

    if out.exists():
        raise BenchError(f"{out} is there already.", "Name another file.")
    rows = read_rows(file)
    write_whole(out, "".join(json.dumps(as_fields(row), ensure_ascii=False) + "\n" for row in rows))
    return len(rows)
