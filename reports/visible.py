"""Make every character of foreign text visible, so that it cannot hide or reorder what stands around it."""

from __future__ import annotations

import unicodedata

REPLACEMENT = "\ufffd"
JOINERS = "\u200c\u200d"
"""Zero-width (non-)joiners shape emoji and some scripts; they move nothing."""


def visible(text: str) -> str:
    """Return *text* with controls as U+FFFD, and bidi and other invisible format characters as ⟨U+XXXX⟩."""
    return "".join(map(_visible_character, text.replace("\r\n", "\n")))


def _visible_character(character: str) -> str:
    if character in "\n\t" or character in JOINERS:
        return character
    category = unicodedata.category(character)
    if category in ("Cc", "Cs"):
        return REPLACEMENT
    if category in ("Cf", "Zl", "Zp"):
        return f"⟨U+{ord(character):04X}⟩"
    return character
