"""Read training rows in the shapes that data sets use, with errors that name the line, and write them in one shape."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from bitnet_bench.data.fields import Fields
from bitnet_bench.data.hub_rows import open_source
from bitnet_bench.data.jsonl import BadRowError as BadRowError
from bitnet_bench.data.jsonl import name_place, parse_nfc_json, read_numbered_lines
from bitnet_bench.data.shapes import DESCRIPTION as SHAPES
from bitnet_bench.data.shapes import UnknownShapeError, is_learned, recognise
from bitnet_bench.data.turns import Role as Role
from bitnet_bench.data.turns import Turn as Turn
from bitnet_bench.errors import BenchError
from bitnet_bench.files import is_file, write_lines_whole

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Row:
    """One training example. *verbatim*: its turns are joined without markers, as in an evaluation prompt."""

    turns: tuple[Turn, ...]
    verbatim: bool = False
    rejected: str | None = None
    """Rejected alternative to the last turn, for a preference pair."""

    def to_messages(self) -> list[dict[str, str]]:
        """Return the turns in the form of chat templates: [{"role", "content"}, ...]."""
        names = {"model": "assistant"}
        return [{"role": names.get(turn.role, turn.role), "content": turn.text} for turn in self.turns]

    def with_rejected(self) -> Row:
        """Return the row with its rejected answer as the last turn."""
        return Row((*self.turns[:-1], Turn("model", self.rejected or "")), self.verbatim)

    @property
    def responses(self) -> tuple[int, ...]:
        """Return the indices of the turns that are answers and carry the loss."""
        return tuple(i for i, turn in enumerate(self.turns) if turn.role == "model" and turn.learned)

    def learning_only(self, response: int) -> Row:
        """Return the same row with the loss on one answer only."""
        turns = (Turn(t.role, t.text, t.role != "model" or i == response) for i, t in enumerate(self.turns))
        return Row(tuple(turns), self.verbatim, self.rejected)

    def split(self) -> list[Row]:
        """Return one row for each answer that carries the loss, cut after that answer."""
        return [Row(self.turns[: at + 1], self.verbatim).learning_only(at) for at in self.responses]


def read_rows(path: Path, limit: int | None = None, encoding: str | None = None) -> list[Row]:
    """Return the rows of a file, or the first *limit* of them, in NFC; BenchError names the first bad line.

    Fields whose text is not used in any row are named in the log. *encoding* None is UTF-8.
    """
    return list(iterate_rows(path, limit, encoding))


def iterate_rows(
    path: Path, limit: int | None = None, encoding: str | None = None, renames: Mapping[str, str] | None = None
) -> Iterator[Row]:
    """Yield what `read_rows` returns, and raise and log at the end what it does.

    *renames* gives fields another name; BenchError if no row has one of them.
    """
    check_rows_file(path)
    unread: Counter[str] = Counter()
    left = set(renames or ())
    count = 0
    for number, line in islice(read_numbered_lines(path, encoding), limit):
        try:
            row, names = read_value(_rename_fields(parse_nfc_json(line), renames or {}, left))
        except BadRowError as error:
            is_unknown = isinstance(error, UnknownShapeError)
            raise make_row_error(path, number, str(error), is_unknown and not count, encoding) from error
        yield row
        unread.update(names)
        count += 1
    if left and count:
        raise BenchError(f"No row of {path.name} has a field {', '.join(sorted(left))}.", "Correct `rename`.")
    check_read_rows(path, count, unread)


def _rename_fields(value: Any, renames: Mapping[str, str], left: set[str]) -> Any:
    """Return a row with other names of its fields, and take those that it has out of *left*."""
    if not renames or not isinstance(value, dict):
        return value
    left.difference_update(value)
    taken = {new for old, new in renames.items() if old in value} - renames.keys()
    doubled = next((name for name in sorted(taken) if value.get(name) not in (None, "")), None)
    if doubled is not None:
        raise BadRowError(f'has a "{doubled}" already, and another field was to be called that')
    return {renames.get(name, name): one for name, one in value.items() if name not in taken}


def check_rows_file(path: Path) -> None:
    """Raise BenchError if there is no file *path*."""
    if not is_file(path):
        raise BenchError(
            f"There is no file {path}.",
            "`data` takes a file of rows, hub:ORG/NAME[:SPLIT], or SUITE:TASK such as klue:ynat "
            "(`bitnet-bench suites` lists them).",
        )


def make_row_error(
    path: Path, number: int, why: str, is_unknown: bool = False, encoding: str | None = None
) -> BenchError:
    """Return the error of a row that cannot be used; *is_unknown*: it begins a file, and has no known shape."""
    if is_unknown:
        from bitnet_bench.data.unknown_shapes import count_fields, describe_fields, suggest_shape

        rows, fields = count_fields(line for _, line in read_numbered_lines(path, encoding))
        return BenchError(
            f"{path.name} has no known shape: {describe_fields(rows, fields)}.",
            suggest_shape(str(path), fields, encoding),
        )
    return BenchError(f"{name_place(path, number)} {why}.", f"Rows look like {SHAPES}.")


def check_read_rows(path: Path, count: int, unread: Mapping[str, int]) -> None:
    """Raise BenchError if a file has no rows, and name fields in the log whose text or flag is in no row.

    *unread* counts them. Of names that are equally frequent, the first is named first.
    """
    if not count:
        raise BenchError(f"{path} has no rows.", f"Give a JSONL file with rows like {SHAPES}.")
    if unread:
        named = ", ".join(f'"{name}" ({rows:,} rows)' for name, rows in Counter(unread).most_common())
        _log.warning("%s holds flags or text that is not read: %s.", path.name, named)


def parse_row(line: str) -> Row:
    """Return the row of one JSONL line, in NFC; BadRowError says what is wrong with it."""
    return read_value(parse_nfc_json(line))[0]


def read_value(value: Any) -> tuple[Row, tuple[str, ...]]:
    """Return (row of a JSON value, names of fields whose text or training flag is not in it), or raise BadRowError."""
    if not isinstance(value, dict):
        raise BadRowError("is not a JSON object")
    fields = Fields(value)
    shape = recognise(fields)
    said = shape.read(fields)
    if not is_learned(fields):
        said = replace(said, turns=[Turn(one.role, one.text, one.role not in ("model", "text")) for one in said.turns])
    if not any(turn.role in ("model", "text") and turn.learned for turn in said.turns):
        weighted = ", because its answers have the weight 0" if any(not turn.learned for turn in said.turns) else ""
        raise BadRowError(f"has no model turn to learn from{weighted}")
    used = {turn.text.strip() for turn in said.turns} | {(said.rejected or "").strip()}
    unread = tuple(dict.fromkeys(fields.unread(used, shape.texts_are_joined)))
    return Row(tuple(said.turns), rejected=said.rejected), unread


def row_to_fields(row: Row) -> dict[str, Any]:
    """Return the JSON object of *row* in the shape that most tools read."""
    if row.rejected is not None:
        *prompt, chosen = row.to_messages()
        if [turn.role for turn in row.turns[:-1]] == ["user"]:
            return {"prompt": row.turns[0].text, "chosen": chosen["content"], "rejected": row.rejected}
        answers = [[{**chosen, "content": text}] for text in (chosen["content"], row.rejected)]
        return {"prompt": prompt, "chosen": answers[0], "rejected": answers[1]}
    if all(turn.role == "text" for turn in row.turns):
        return {"text": row.turns[0].text}
    weights: list[dict[str, int]] = [{} if turn.learned else {"weight": 0} for turn in row.turns]
    return {"messages": [message | weight for message, weight in zip(row.to_messages(), weights, strict=True)]}


def convert_data(
    source: str | Path, out: Path, encoding: str | None = None, renames: Mapping[str, str] | None = None
) -> int:
    """Write rows of any shape, of a file or the hub, as {"messages"} (pairs as {"prompt", "chosen", "rejected"}).

    Return the number of rows. BenchError names the first bad line; *out* is not written then. *encoding* is that of a
    file, and *renames* gives fields another name before a row is read.
    """
    if out.exists():
        raise BenchError(f"{out} is there already.", "Name another file.")
    rows = iterate_rows(open_source(source), encoding=encoding, renames=renames)
    return write_lines_whole(out, (json.dumps(row_to_fields(row), ensure_ascii=False) for row in rows))
