"""Read JSON documents of foreign origin within bounds; an error names the file and the place."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bitnet_bench.errors import BenchError, shorten_text
from bitnet_bench.files import MAX_DOCUMENT_BYTES, read_text

MAX_JSON_DEPTH = 100
MAX_DIGITS = 400
"""Number of digits up to which an integer is read; a float has 309 before its point at most."""
WORD_CHARACTERS = 60
"""Number of characters of a file's own words that an error repeats."""
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*\\?(?:"|\Z)', re.DOTALL)
"""A text of JSON, or one that does not end."""
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""Depth that each bracket adds, as a signed byte."""
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_HALF_CHARACTER = re.compile("[\\ud800-\\udfff]")
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(file: Path, hint: str, most_bytes: int = MAX_DOCUMENT_BYTES) -> Any:
    """Return the value of the JSON document *file*.

    BenchError if it is none, is nested too deeply, has a name twice in an object, or a text that no file can hold.
    NaN and infinity are read, as Python writes them: what they may not stand for is said by its reader.
    """
    text = read_text(file, hint, most_bytes)
    try:
        value = json.loads(text, object_pairs_hook=_refuse_duplicates, parse_int=_parse_integer)
        _check_values(value, has_escapes=_ESCAPED_HALF.search(text) is not None)
    except json.JSONDecodeError as error:
        raise BenchError(
            f"{file} cannot be read: it is not valid JSON ({error.msg} in line {error.lineno}).", hint
        ) from error
    except RecursionError as error:
        raise BenchError(f"{file} cannot be read: it is nested more than {MAX_JSON_DEPTH} deep.", hint) from error
    except _RefusedError as error:
        raise BenchError(f"{file} cannot be read: it {error}.", hint) from error
    return value


def read_json_object(file: Path, hint: str, most_bytes: int = MAX_DOCUMENT_BYTES) -> dict[str, Any]:
    """Return the fields of the JSON document *file*; BenchError as of `read_json`, and if it is no object."""
    value = read_json(file, hint, most_bytes)
    if not isinstance(value, dict):
        raise BenchError(f"{file} cannot be read: it is a JSON {describe_type(value)} and holds no fields.", hint)
    return value


def check_json_depth(file: Path, hint: str, most_depth: int) -> None:
    """Raise BenchError if *file* is nested more than *most_depth* deep; it is not parsed, and may be broken.

    For a library that reads the file itself, and for which depth is time or stack.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise BenchError(f"{file} cannot be read: {error.strerror}.", hint) from error
    brackets = np.frombuffer(_STRING.sub(b"", data).translate(_STEPS, _NO_BRACKETS), dtype=np.int8)
    if brackets.size and brackets.cumsum(dtype=np.int32).max() > most_depth:
        raise BenchError(f"{file} cannot be read: it is nested more than {most_depth} deep.", hint)


def describe_type(value: Any) -> str:
    """Return the name of a JSON value's type, for messages."""
    names = {dict: "object", list: "list", str: "text", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")


class _RefusedError(Exception):
    """Valid JSON that is not read; the end of a sentence about the file."""


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        name = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _RefusedError(f'has the field "{_shorten(name)}" twice')
    return found


def _parse_integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise _RefusedError(f"has the number {_shorten(digits)} of {len(digits):,} digits")
    return int(digits)


def _check_values(value: Any, has_escapes: bool) -> None:
    """Raise `_RefusedError` for depth, and for half characters if the text *has_escapes* that may stand for them."""
    level = [value]
    for _ in range(MAX_JSON_DEPTH + 1):
        if has_escapes and any(_HALF_CHARACTER.search(text) for one in level for text in _list_texts(one)):
            raise _RefusedError("has half a character (a lone surrogate, as of a cut emoji) in a text")
        level = [held for one in level for held in _list_inner(one) if isinstance(held, dict | list)]
        if not level:
            return
    raise _RefusedError(f"is nested more than {MAX_JSON_DEPTH} deep")


def _list_inner(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _list_texts(value: Any) -> Iterator[str]:
    """Yield the texts that stand in *value* itself."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        yield from (one for one in value.values() if isinstance(one, str))
    elif isinstance(value, list):
        yield from (one for one in value if isinstance(one, str))


def _shorten(word: str) -> str:
    return shorten_text(_HALF_CHARACTER.sub("\ufffd", word), WORD_CHARACTERS)
