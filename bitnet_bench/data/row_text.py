"""Write a row as a line of text that is kept, compared and digested, and read it again."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from bitnet_bench.data.rows import Row, Turn

HASH_BYTES = 16
"""Bytes of a row's hash: two different rows share one with a probability of 2^-128."""
TEXT_ONLY, UNLEARNED, REJECTED, VERBATIM, STARTS_AS_TEXT, HAS_TEXT = (1 << bit for bit in range(6))
"""Kind of a row, as bits: all turns are text; an answer is not learned; it is a pair; it is verbatim; its first turn is
text; any turn is text."""

_encode_json = json.JSONEncoder(ensure_ascii=False).encode


def encode_row(row: Row) -> str:
    """Return *row* as JSON."""
    turns = [(turn.role, turn.text, turn.learned) for turn in row.turns]
    return _encode_json((turns, row.verbatim, row.rejected))


def decode_row(text: str) -> Row:
    """Return the row that `encode_row` wrote."""
    turns, verbatim, rejected = json.loads(text)
    return Row(tuple(Turn(*turn) for turn in turns), verbatim, rejected)


def digest_line(row: Row) -> bytes:
    """Return the bytes of *row* in a digest of rows: names and values of its fields, without those at their default."""
    found: tuple[Any, ...] = (("turns", tuple(map(_plain_turn, row.turns))),)
    if row.verbatim:
        found += (("verbatim", True),)
    if row.rejected is not None:
        found += (("rejected", row.rejected),)
    return repr(found).encode("utf-8", "surrogatepass") + b"\n"


def _plain_turn(turn: Turn) -> tuple[Any, ...]:
    if turn.learned:
        return ("role", turn.role), ("text", turn.text)
    return ("role", turn.role), ("text", turn.text), ("learned", False)


def hash_line(line: bytes) -> bytes:
    """Return the hash of a row whose `digest_line` is *line*; equal rows have equal hashes."""
    return hashlib.blake2b(line, digest_size=HASH_BYTES).digest()


def find_kind(row: Row) -> int:
    """Return the kind of *row*, as the sum of its bits."""
    are_text = [turn.role == "text" for turn in row.turns]
    bits = {
        TEXT_ONLY: all(are_text),
        UNLEARNED: not all(turn.learned for turn in row.turns),
        REJECTED: row.rejected is not None,
        VERBATIM: row.verbatim,
        STARTS_AS_TEXT: are_text[0],
        HAS_TEXT: any(are_text),
    }
    return sum(bit for bit, is_set in bits.items() if is_set)
