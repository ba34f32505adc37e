"""Find characters that a reader does not see but a model learns: zero-width, damaged and control characters."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Literal

CharacterKind = Literal["invisible", "damaged", "control"]
_FILLERS = "\u115f\u1160\u3164\uffa0"
"""Hangul fillers: letters in Unicode, displayed as a space or with no width."""
_EMOJI = r"\u2190-\u2bff\U0001f000-\U0001faff"
_EMOJI_JOINED = re.compile(rf"(?<=[\ufe0f{_EMOJI}])\u200d(?=[{_EMOJI}])")
_EMOJI_TAGS = re.compile("[\U000e0020-\U000e007f]")


def find_characters(text: str) -> Iterator[tuple[CharacterKind, str]]:
    """Yield (kind, description of the characters with count and name) for *text*; joiners within emoji do not count."""
    if not _pattern().search(text):
        return
    counts = Counter(_pattern().findall(_EMOJI_TAGS.sub("", _EMOJI_JOINED.sub("", text))))
    kinds: tuple[CharacterKind, ...] = ("invisible", "damaged", "control")
    for kind in kinds:
        named = [f"{n} × {_name(c)}" for c, n in counts.items() if _kind(c) == kind]
        if named:
            yield kind, ", ".join(named)


def is_blank(text: str) -> bool:
    """Return whether *text* holds nothing to see: white space and characters without width only."""
    return all(character.isspace() or _kind(character) for character in text)


def _name(character: str) -> str:
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def _kind(character: str) -> CharacterKind | None:
    category = unicodedata.category(character)
    if character in "\t\n\r":
        return None
    if category in ("Cc", "Zl", "Zp"):
        return "control"
    if category in ("Co", "Cn") or character == "\ufffd":
        return "damaged" if category != "Cn" or ord(character) & 0xFFFE == 0xFFFE else None
    return "invisible" if category == "Cf" or character in _FILLERS else None


@cache
def _pattern() -> re.Pattern[str]:
    """Return a pattern that matches one such character; runs of characters are written as ranges."""
    ranges: list[list[int]] = []
    for code in range(0x110000):
        if not _kind(chr(code)):
            continue
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    return re.compile("[" + "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges) + "]")
