"""Read JSON Lines with all text in NFC, and say which line is wrong; a file of AI Hub is read an entry a line."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitnet_bench.data import aihub
from bitnet_bench.errors import BenchError


def nfc_json(line: str) -> Any:
    """Return the value of one line of JSON, its strings in NFC, escaped ones too; ValueError if it is not JSON."""
    return json.loads(unicodedata.normalize("NFC", json.dumps(json.loads(line), ensure_ascii=False)))


def is_whole(path: Path) -> bool:
    """Return whether *path* is called a JSON file: one value, and not a row a line."""
    return path.suffix.lower() == ".json"


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line) of a UTF-8 file, blank lines left out; a byte-order mark is no text.

    Of a `.json` file of AI Hub: (entry number from 1, the entry as a line).
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BenchError(f"{path} is not UTF-8: {error.reason} at byte {error.start}.", "Save it as UTF-8.") from error
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}.", "Check the file and its permissions.") from error
    lines = _whole(path, text) if is_whole(path) else None
    for number, line in enumerate(text.split("\n") if lines is None else lines, start=1):
        if line.strip():
            yield number, line


def _whole(path: Path, text: str) -> list[str] | None:
    """Return the entries of one JSON value, or None if the file has a row a line all the same."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    listed = aihub.entries(value) if isinstance(value, dict) else value
    if listed is None and "\n" not in text.strip():
        return None  # a single row
    if not isinstance(listed, list):
        fields = ", ".join(sorted(value)) if isinstance(value, dict) else type(value).__name__
        raise BenchError(
            f"{path} is one JSON value of no known form (it has {fields}).",
            "Known are AI Hub's files with `data` or `documents`, lists of rows, and JSONL, a row a line.",
        )
    return [json.dumps(entry, ensure_ascii=False) for entry in listed]
