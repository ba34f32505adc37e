"""Read rows from JSON Lines, JSON lists, CSV, Parquet and AI Hub's files, with text in NFC, and locate bad lines."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from bitnet_bench.data import aihub
from bitnet_bench.data.parquet_rows import read_parquet_rows
from bitnet_bench.errors import BenchError
from bitnet_bench.files import guess_encoding

DELIMITERS = {".csv": ",", ".tsv": "\t"}
"""Delimiter between the cells of a table, by the file's suffix."""
NAME_LENGTH = 40
"""Number of characters of a field's name that an error repeats."""
_SPACE = re.compile(r"\s*")
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")


class BadRowError(ValueError):
    """The reason why a row cannot be used, as the end of a sentence that begins with its line number."""


def shorten_name(name: Any) -> str:
    """Return the name of a field for a message: short, and without lone surrogates, which cannot be printed."""
    text = _HALF_CHARACTER.sub("\ufffd", str(name))
    return text if len(text) <= NAME_LENGTH else text[:NAME_LENGTH] + "…"


def read_json(text: str) -> tuple[Any, bool]:
    """Return (the value of *text* with its strings in NFC, whether any was not in NFC), or raise `BadRowError`.

    A name that occurs twice in an object is refused, because JSON readers keep only the last of its values. A lone
    surrogate is refused, because no file can hold one.
    """
    composed = _Composer()
    try:
        value = json.loads(text, object_pairs_hook=composed.pairs)
        return composed.strings(value), composed.changed
    except BadRowError:
        raise
    except RecursionError:
        raise BadRowError("is nested too deeply to be read") from None
    except ValueError as error:
        raise BadRowError(f"is not JSON ({error})") from error


def parse_nfc_json(line: str) -> Any:
    """Return the value of one line of JSON, all its strings in NFC; ValueError if it is not JSON."""
    return read_json(line)[0]


class _Composer:
    """Normalizes the strings of a value to NFC one by one; normalizing an escaped file as a whole would break it."""

    def __init__(self) -> None:
        self.changed = False

    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Return an object of *pairs*, which json has decoded already."""
        found: dict[str, Any] = {}
        for name, value in pairs:
            composed = self._text(name, "a field's name")
            if composed in found:
                raise BadRowError(f'has the field "{shorten_name(composed)}" twice')
            found[composed] = value
        return found

    def strings(self, value: Any, field: str = "the row") -> Any:
        """Return *value* with every string in it in NFC."""
        if isinstance(value, str):
            return self._text(value, field)
        if isinstance(value, list):
            return [self.strings(one, field) for one in value]
        if isinstance(value, dict):
            return {name: self.strings(one, f'"{shorten_name(name)}"') for name, one in value.items()}
        return value

    def _text(self, text: str, field: str) -> str:
        if text.isascii():
            return text
        if _HALF_CHARACTER.search(text):
            raise BadRowError(f"has half a character (a lone surrogate, as of a cut emoji) in {field}")
        if unicodedata.is_normalized("NFC", text):
            return text
        self.changed = True
        return unicodedata.normalize("NFC", text)


def is_parquet_file(path: Path) -> bool:
    """Return whether the name of *path* is that of a Parquet file."""
    return path.suffix.lower() == ".parquet"


def is_json_file(path: Path) -> bool:
    """Return whether the name of *path* is that of a JSON file, which holds one value and not one row per line."""
    return path.suffix.lower() == ".json"


def name_place(path: Path, number: int) -> str:
    """Return the place of row *number* of *path* for a message: its line, or its entry or row where there are none."""
    kind = "Entry" if is_json_file(path) else "Row" if is_parquet_file(path) else "Line"
    return f"{kind} {number} of {path.name}"


Take = Callable[[bytes], object]
"""Function that takes the bytes of a file in order as they are read, such as `update` of a digest."""


def read_numbered_lines(path: Path, encoding: str | None = None, take: Take | None = None) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, the JSON of a row) of a file, without blank lines and without a byte-order mark.

    For a `.json` file, the number is that of the entry, for a `.parquet` file that of the row. Lists of rows and rows
    that span several lines, tables (`.csv`, `.tsv`, with names in the first line), and lines that end in a comma are
    read too. *encoding* None is UTF-8.
    """
    try:
        if is_parquet_file(path):
            if encoding is not None:
                raise BenchError(
                    f"{path} holds no text in {encoding}: texts of Parquet are UTF-8.", "Name no encoding."
                )
            yield from read_parquet_rows(path, take)
            return
        if path.suffix.lower() in DELIMITERS:
            yield from _table_rows(path, _decoded_text(path, encoding, take))
        elif is_json_file(path):
            yield from _split_whole_file(path, "".join(_decoded_text(path, encoding, take)))
        else:
            yield from _json_lines(path, encoding, take)
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}.", "Check the file and its permissions.") from error


def _json_lines(path: Path, encoding: str | None, take: Take | None) -> Iterator[tuple[int, str]]:
    first = list(islice(((number, line) for number, line in _text_lines(path, encoding, None) if line.strip()), 2))
    opening = first[0][1].strip() if first else ""
    alone = len(first) == 1 and opening.startswith("[") and _is_list_of_objects(opening)
    if alone or opening in ("[", "{", "[{"):
        yield from _values_over_lines(path, "".join(_decoded_text(path, encoding, take)))
        return
    for number, line in _text_lines(path, encoding, take):
        if line.strip():
            yield number, line.rstrip().removesuffix(",")


def _is_list_of_objects(line: str) -> bool:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return False
    return bool(value) and all(isinstance(one, dict) for one in value)


def _text_lines(path: Path, encoding: str | None, take: Take | None) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line) of a file with the line ends of Unix, Windows or old Macs."""
    number = 0
    for text in _decoded_text(path, encoding, take):
        # JSON escapes line ends, so that none of these occurs within a string
        for line in text.removesuffix("\n").removesuffix("\r").split("\r"):
            number += 1
            yield number, line


def _decoded_text(path: Path, encoding: str | None, take: Take | None) -> Iterator[str]:
    """Yield the text of a file in pieces that end at a line end; BenchError suggests the encoding if it is another."""
    if encoding is not None:
        yield from io.StringIO(_decode_whole(path, encoding), newline="\n")
        return
    offset = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            if take is not None:
                take(line)
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _not_utf8(path, error, number, offset) from error
            yield text.removeprefix("\ufeff") if offset == 0 else text
            offset += len(line)


def _decode_whole(path: Path, encoding: str) -> str:
    try:
        codec = codecs.lookup(encoding)
        text = path.read_bytes().decode(codec.name)
    except LookupError as error:
        raise BenchError(f"There is no text encoding {encoding!r}.", "Name one such as cp949 or utf-16.") from error
    except UnicodeError as error:
        raise BenchError(f"{path} is not {encoding}: {error}.", "Name the encoding that it was saved in.") from error
    return text.removeprefix("\ufeff")


def _not_utf8(path: Path, error: UnicodeDecodeError, line: int, offset: int) -> BenchError:
    problem = f"{path} is not UTF-8: {error.reason} in line {line}, at byte {offset + error.start}"
    guess = guess_encoding(path.read_bytes())
    if guess is None:
        return BenchError(f"{problem}.", "Save it as UTF-8, or name its encoding in `bitnet-bench data convert`.")
    return BenchError(
        f"{problem}. It can be read as {guess}.",
        f"`bitnet-bench data convert {shlex.quote(str(path))} OUT --encoding {guess}` writes it as UTF-8.",
    )


def _table_rows(path: Path, pieces: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yield each row of a table as an object; an empty cell is null."""
    lines = (line for piece in pieces for line in io.StringIO(piece, newline=""))
    reader = csv.reader(lines, delimiter=DELIMITERS[path.suffix.lower()], strict=True)
    names: list[str] = []
    start = 1
    try:
        for cells in reader:
            if not names:
                names = [name.strip() for name in cells]
                if len(set(names)) < len(names):
                    raise BenchError(f"{path} names a column twice in its first line.", "Rename one of them.")
            elif any(cells):
                if len(cells) > len(names):
                    raise BenchError(
                        f"Line {start} of {path} has {len(cells)} cells under {len(names)} names.",
                        'Put a text that holds the delimiter between quotes ("…").',
                    )
                row = {name: cell or None for name, cell in zip(names, cells, strict=False)}
                yield start, json.dumps(row, ensure_ascii=False)
            start = reader.line_num + 1
    except csv.Error as error:
        raise BenchError(f"Line {start} of {path} is no row of a table: {error}.", "Correct or remove it.") from error


def _split_whole_file(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yield the entries of a `.json` file, which may also hold one row per line."""
    if text.lstrip().startswith("["):
        for number, (_line, entry) in enumerate(_values_over_lines(path, text), start=1):
            yield number, entry
        return
    try:
        value = json.loads(text, object_pairs_hook=_Composer().pairs)
    except BadRowError as error:
        raise BenchError(f"{path} {error}.", "Correct it; of a field that stands twice one value is lost.") from error
    except (ValueError, RecursionError):
        entries: list[Any] | None = None
    else:
        entries = _entries(path, value, "\n" in text.strip())
    if entries is None:
        rows = enumerate(text.split("\n"), start=1)
        yield from ((number, line.rstrip().removesuffix(",")) for number, line in rows if line.strip())
        return
    yield from ((number, json.dumps(entry, ensure_ascii=False)) for number, entry in enumerate(entries, start=1))


def _entries(path: Path, value: Any, over_lines: bool) -> list[Any] | None:
    """Return the entries of an AI Hub file; None for a single row in one line."""
    listed = aihub.split_entries(value) if isinstance(value, dict) else None
    if listed is not None:
        return listed
    if not over_lines and (isinstance(value, dict) or value is None):
        return None
    fields = ", ".join(sorted(map(shorten_name, value))) if isinstance(value, dict) else type(value).__name__
    raise BenchError(
        f"{path} is one JSON value of no known form (it has {fields}).",
        "Known are AI Hub's files with `data` or `documents`, lists of rows, and JSONL, a row a line.",
    )


def _values_over_lines(path: Path, text: str) -> Iterator[tuple[int, str]]:
    """Yield (first line, JSON) of each value of a list, or of values one after another."""
    decode = json.JSONDecoder().raw_decode
    position = _skip_space(text, 0)
    is_list = text[position : position + 1] == "["
    position = _skip_space(text, position + is_list)
    line, counted = 1, 0
    while position < len(text) and not (is_list and text[position] == "]"):
        line, counted = line + text.count("\n", counted, position), position
        try:
            _value, end = decode(text, position)
        except (ValueError, RecursionError) as error:
            at = getattr(error, "lineno", line)
            raise BenchError(
                f"{path} is JSON over several lines, and broken at line {at}: {getattr(error, 'msg', error)}.",
                "Correct it, or write a row a line (JSONL).",
            ) from error
        yield line, text[position:end]
        position = _skip_space(text, end)
        position = _skip_space(text, position + (text[position : position + 1] == ","))
    rest = text[position + 1 :] if is_list else ""
    if rest.strip() or (is_list and position >= len(text)):
        raise BenchError(
            f"{path} begins as a JSON list, and {'goes on after' if rest.strip() else 'lacks'} its closing bracket.",
            "Correct it, or write a row a line (JSONL).",
        )


def _skip_space(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return found.end() if found else position
