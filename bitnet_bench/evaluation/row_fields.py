"""Check that the fields of evaluation rows are usable: one type per field, and no null in text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from bitnet_bench.data.characters import is_blank
from bitnet_bench.data.jsonl import shorten_name
from bitnet_bench.errors import BenchError

LARGEST = 2**63 - 1
"""Largest integer that a table of rows can hold."""
_MARK = "\ue000표시\ue001"
"""Text that stands in a field to see where the task shows it."""
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


def find_unfit_text(task: Any, doc: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return (field, what it has) where *task* shows a value of *doc* as a text and it is none, or a blank one.

    A task may use a number in another way, such as an index of its choices, or leave out a blank field: a value counts
    as shown if another text in its place would be shown there, and nothing else would change.
    """
    shown = _shown_texts(task, doc)
    for path, value in _leaves(doc, ()):
        is_text = isinstance(value, str)
        if is_text and (not is_blank(value) or any(isinstance(part, int) for part in path)):
            continue
        if str(value).strip() in shown and (isinstance(value, list | dict) or _is_shown(task, doc, path, shown)):
            return _name_path(path), "no text to see" if is_text else _name_kind(value)
    return None


def _leaves(value: Any, path: tuple[str | int, ...]) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Yield (path, value) of everything in a row but nulls; a list or an object before what it holds."""
    if path and value is not None:
        yield path, value
    if isinstance(value, dict | list):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(one, (*path, key))


def _is_shown(task: Any, doc: Mapping[str, Any], path: tuple[str | int, ...], shown: str) -> bool:
    """Return whether all that changes in the texts of a row is the value at *path*, if there is a text in its place."""
    changed = deepcopy(dict(doc))
    place: Any = changed
    for key in path[:-1]:
        place = place[key]
    value, place[path[-1]] = str(place[path[-1]]), _MARK
    try:
        marked = _shown_texts(task, changed)
    except Exception:  # a task's code may raise anything for a text where it needs a number
        return False
    return _MARK in marked and shown in {marked.replace(_MARK, text) for text in (value, value.strip())}


def _shown_texts(task: Any, doc: Mapping[str, Any]) -> str:
    """Return the texts of a row that are read or compared as texts: prompt, choices, and what is to be generated.

    A function makes a target as it likes, also of numbers.
    """
    parts = [task.doc_to_text(doc)]
    if task.OUTPUT_TYPE == "multiple_choice":
        parts += task.doc_to_choice(doc)
    elif isinstance(task.config.doc_to_target, str):
        parts.append(task.doc_to_target(doc))
    return "\n".join(map(str, parts))


def _name_path(path: tuple[str | int, ...]) -> str:
    return "".join("[]" if isinstance(part, int) else f".{shorten_name(part)}" for part in path).removeprefix(".")


def _name_kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else _KINDS.get(type(value), type(value).__name__)


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
