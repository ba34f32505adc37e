"""Check that the fields of evaluation rows are usable: one type per field, and no null in text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bitnet_bench.data.jsonl import shorten_name
from bitnet_bench.errors import BenchError

LARGEST = 2**63 - 1
"""Largest integer that a table of rows can hold."""
_KINDS: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", str: "a text", dict: "an object"}


def check_types(rows: Sequence[Mapping[str, Any]], lines: Sequence[int], file: Path) -> None:
    """Refuse a field that is a text in one row and a number in another: a column of a table has one type."""
    first: dict[str, tuple[str, int]] = {}
    for row, line in zip(rows, lines, strict=True):
        for field, kind in _kinds(row, ""):
            there, where = first.setdefault(field, (kind, line))
            if there != kind:
                raise BenchError(
                    f'Line {line} of {file} has {kind} in "{field}", and line {where} has {there}.',
                    "A field needs the same type in every row.",
                )
            if kind == "a number too large":
                raise BenchError(f'Line {line} of {file} has {kind} in "{field}".', "Write it as a text.")


def _kinds(value: Any, field: str) -> Iterator[tuple[str, str]]:
    """Yield (field, type of its value) at any depth; a null matches any type."""
    if isinstance(value, dict):
        if field:
            yield field, "an object"
        for name, one in value.items():
            yield from _kinds(one, f"{field}.{shorten_name(name)}" if field else shorten_name(name))
    elif isinstance(value, list):
        yield field, "a list"
        kinds = {type(one) for one in value}
        flat = kinds.isdisjoint((dict, list, int))
        for one in {type(one): one for one in value}.values() if flat else value:
            yield from _kinds(one, f"{field}[]")
    elif isinstance(value, int) and abs(value) > LARGEST:
        yield field, "a number too large"
    elif value is not None:
        yield field, _KINDS[type(value)]


def find_null(task: Any, doc: Mapping[str, Any]) -> str | None:
    """Return a field of *doc* whose null would show as the word "None" in a prompt or target; None if there is none.

    A prompt may skip a null field on purpose: a field is named only if replacing its null removes the word.
    """
    names = [name for name, value in doc.items() if _without_nulls(value) != value]
    if not names:
        return None
    shown = _texts(task, doc).count("None")
    for name in names if shown else ():
        try:
            filled = _texts(task, {**doc, name: _without_nulls(doc[name])})
        except Exception:  # a task's code may raise anything for an empty text
            continue
        if filled.count("None") < shown:
            return name
    return None


def _texts(task: Any, doc: Mapping[str, Any]) -> str:
    """Return all texts that a task makes of a row, joined."""
    parts = [task.doc_to_text(doc), task.doc_to_target(doc)]
    parts += task.doc_to_choice(doc) if task.OUTPUT_TYPE == "multiple_choice" else []
    return "\n".join(map(str, parts))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_without_nulls(one) for one in value]
    return "" if value is None else value
