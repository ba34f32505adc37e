"""Read JSON Lines with all text in NFC, and say which line is wrong."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bitnet_bench.errors import BenchError


def nfc_json(line: str) -> Any:
    """Return the value of one line of JSON, its strings in NFC, escaped ones too; ValueError if it is not JSON."""
    return json.loads(unicodedata.normalize("NFC", json.dumps(json.loads(line), ensure_ascii=False)))


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line) of a UTF-8 file, blank lines left out; a byte-order mark is no text."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BenchError(f"{path} is not UTF-8: {error.reason} at byte {error.start}.", "Save it as UTF-8.") from error
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}.", "Check the file and its permissions.") from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, line
