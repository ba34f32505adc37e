"""Track which fields of a row were read: text or a training flag in a field that was not read would be lost."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any

from bitnet_bench.data.jsonl import BadRowError, shorten_name

SPEAKERS = ("role", "from", "speaker")
"""Fields of a turn that name the speaker, which is not text."""
FLAG_NAME = re.compile("loss|weight|train|learn|mask|ignore|skip|exclude|supervis", re.IGNORECASE)
"""Part of the name of a field whose number, or true or false, says what is to be learned."""
_KINDS = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


class Fields:
    """One object of a row. A null or blank field counts as absent, as in files that `datasets` or a table wrote."""

    def __init__(self, values: dict[str, Any], path: str = "") -> None:
        self.values = values
        self._path = path
        self._read: set[str] = set()
        self._inner: list[Fields] = []

    def __contains__(self, key: str) -> bool:
        value = self.values.get(key)
        return not (value is None or value == [] or (isinstance(value, str) and not value.strip()))

    def take(self, key: str) -> Any:
        """Return the value of *key*, None if there is none, and mark it as read."""
        self._read.add(key)
        return self.values.get(key)

    def inner(self, key: str, value: dict[str, Any]) -> Fields:
        """Return an object within the field *key*, which reports its own unread fields."""
        self._inner.append(Fields(value, f"{self._path}{shorten_name(key)}[]."))
        return self._inner[-1]

    def text(self, key: str) -> str:
        """Return the text of *key*; BadRowError says what is there instead."""
        if key not in self.values:
            raise BadRowError(f'has no "{key}"')
        value = self.take(key)
        if not isinstance(value, str):
            raise BadRowError(f'has a "{key}" that is no string (it is {_KINDS[type(value)]})')
        if not value.strip():
            raise BadRowError(f'has an empty "{key}"')
        return value

    def optional_text(self, key: str) -> str | None:
        """Return the text of *key*, or None if it is absent, null or blank."""
        if key in self:
            return self.text(key)
        self.take(key)
        return None

    def unread(self, used: Collection[str], joined: bool = False) -> Iterator[str]:
        """Yield the names of unread fields that hold text, or numbers under the name of a training flag.

        A text that is also in *used* is not lost with its field.
        With *joined*, small texts were joined: a text that occurs anywhere within one of *used* is not lost either, and
        fields are named at any depth.
        """
        for key, value in self.values.items():
            if key in self._read:
                continue
            name = f"{self._path}{shorten_name(key)}"
            if FLAG_NAME.search(key) and _is_flag(value):
                yield name
            elif joined:
                yield from (where for where, text in _texts_by_name(value, name) if not _is_used(text, used, joined))
            elif any(not _is_used(text, used, joined) for _, text in _texts_by_name(value, name)):
                yield name
        for inner in self._inner:
            yield from inner.unread(used, joined)


def _is_flag(value: Any) -> bool:
    """Return whether *value* is a number, true or false, or a list of such."""
    return any(map(_is_flag, value)) if isinstance(value, list) else isinstance(value, bool | int | float)


def _texts_by_name(value: Any, name: str) -> Iterator[tuple[str, str]]:
    """Yield (name of its field, text) of every text in *value* that is not blank, at any depth."""
    if isinstance(value, str):
        if value.strip():
            yield name, value
    elif isinstance(value, list):
        for one in value:
            yield from _texts_by_name(one, f"{name}[]")
    elif isinstance(value, dict):
        for key, one in value.items():
            if key not in SPEAKERS:
                yield from _texts_by_name(one, f"{name}.{shorten_name(key)}")


def _is_used(text: str, used: Collection[str], joined: bool) -> bool:
    stripped = text.strip()
    return stripped in used or (joined and any(stripped in one for one in used))
