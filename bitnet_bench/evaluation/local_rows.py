"""Read a task's local rows: JSON Lines, a JSON list, a table, Parquet, or a file in SQuAD's layout."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitnet_bench.data.jsonl import DELIMITERS, BadRowError, parse_nfc_json, read_numbered_lines
from bitnet_bench.errors import BenchError
from bitnet_bench.evaluation.row_fields import check_types
from bitnet_bench.files import is_file

CONFIG_FIELD = "config"
"""Field with the configuration of a row, where a task has several."""
SAMPLED_BYTES = 4096
"""Bytes at the beginning of a file that show whether it is a list."""
LINE_SUFFIXES = (".jsonl", ".ndjson", ".txt", "")
_WHOLE_NUMBER = re.compile(r"0|-?[1-9]\d{0,17}")


def read_rows_files(files: Mapping[str, Path], missing_hint: str) -> tuple[list[dict[str, Any]], list[int]]:
    """Return (rows, line of each) of the only file, or (rows of all files with their configuration, [])."""
    if len(files) == 1 and "" in files:
        return read_rows_file(files[""], missing_hint)
    missing = [file for file in files.values() if not is_file(file)]
    if missing:
        more = f" and {len(missing) - 1} more of {len(files)} files" if len(missing) > 1 else ""
        raise BenchError(f"There is no {missing[0]}{more}.", missing_hint)
    found: list[dict[str, Any]] = []
    for config, file in files.items():
        rows, lines = _read_json_lines(file)
        check_types(rows, lines, file)
        found += [{**row, CONFIG_FIELD: config} for row in rows]
    if not found:
        raise BenchError(f"{next(iter(files.values()))} has no rows.", "Get the data again.")
    if all(file.suffix.lower() in DELIMITERS for file in files.values()):
        _read_numbers(found)
    return found, []


def read_rows_file(file: Path, missing_hint: str) -> tuple[list[dict[str, Any]], list[int]]:
    """Return (rows in NFC, line of each); BenchError names the file and the line of a malformed row.

    A `.json` file is a list of rows, or in SQuAD's layout, where all rows have line 1. *missing_hint* is the hint for a
    missing file.
    """
    if not is_file(file):
        raise BenchError(f"There is no {file}.", missing_hint)
    if _is_squad(file):
        rows = _read_squad(file)
        lines = [1] * len(rows)
    else:
        rows, lines = _read_json_lines(file)
    if file.suffix.lower() in DELIMITERS:
        _read_numbers(rows)
    if not rows:
        raise BenchError(f"{file} has no rows.", "Get the data again.")
    check_types(rows, lines, file)
    return rows, lines


def _is_squad(file: Path) -> bool:
    """Return whether a `.json` file is no list of rows."""
    if file.suffix != ".json":
        return False
    with file.open("rb") as stream:
        return not stream.read(SAMPLED_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _read_numbers(rows: list[dict[str, Any]]) -> None:
    """Make a column of whole numbers numbers, such as labels: a table has only texts."""
    for name in rows[0] if rows else ():
        cells = [row.get(name) for row in rows]
        if all(isinstance(cell, str) and _WHOLE_NUMBER.fullmatch(cell) for cell in cells):
            for row in rows:
                row[name] = int(row[name])


def _read_json_lines(file: Path) -> tuple[list[dict[str, Any]], list[int]]:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    for number, line in read_numbered_lines(file):
        try:
            row = parse_nfc_json(line)
        except BadRowError as error:
            raise BenchError(f"Line {number} of {file} {error}.", "Correct or remove it.") from error
        if not isinstance(row, dict):
            raise BenchError(f"Line {number} of {file} is not a JSON object.", "Correct or remove it.")
        if rows and (lacking := sorted(rows[0].keys() - row.keys())):
            named = ", ".join(f'"{name}"' for name in lacking)
            raise BenchError(f"Line {number} of {file} has no {named}.", "Every row needs the same fields.")
        rows.append(row)
        lines.append(number)
    return rows, lines


def _read_squad(file: Path) -> list[dict[str, Any]]:
    """Return the questions of a SQuAD 1.1 file in the hub's flat form: id, title, context, question, answers."""
    try:
        articles = parse_nfc_json(file.read_text(encoding="utf-8-sig"))["data"]
        return [
            {
                "id": question["id"],
                "title": article["title"],
                "context": paragraph["context"],
                "question": question["question"],
                "answers": {key: [answer[key] for answer in question["answers"]] for key in ("text", "answer_start")},
            }
            for article in articles
            for paragraph in article["paragraphs"]
            for question in paragraph["qas"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{file} is not in SQuAD's layout: {error!r}.", "Get the file again, unchanged.") from error


def count_rows(file: Path) -> int:
    """Return how many rows a file has; if rows are lines, without parsing them."""
    if _is_squad(file):
        return len(_read_squad(file))
    if file.suffix.lower() not in LINE_SUFFIXES:
        return sum(1 for _ in read_numbered_lines(file))
    with file.open("rb") as lines:
        return sum(1 for line in lines if line.strip())


def compute_rows_digest(documents: Any) -> str:
    """Return the sha256 of rows, in order, as JSON with sorted keys."""
    digest = hashlib.sha256()
    for row in documents:
        digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False, default=str).encode())
    return digest.hexdigest()
