"""Make every character of foreign text visible, so that it cannot hide or reorder the text around it."""

from __future__ import annotations

import re
import sys
import unicodedata
from functools import cache
from itertools import groupby

REPLACEMENT_CHAR = "\ufffd"
ZERO_WIDTH_JOINERS = "\u200c\u200d"
"""Zero-width (non-)joiners, which are kept: they shape emoji and some scripts, and move nothing."""
HIDING_CATEGORIES = ("Cc", "Cs", "Cf", "Zl", "Zp")


def make_visible(text: str) -> str:
    """Return *text* with controls as U+FFFD, and bidi and other invisible format characters as ⟨U+XXXX⟩."""
    return _compile_hidden_pattern().sub(_replace_hidden, text.replace("\r\n", "\n"))


@cache
def _compile_hidden_pattern() -> re.Pattern[str]:
    """Return the pattern of hidden characters, built once from Unicode's table so that ordinary text passes quickly."""
    hiding = [
        point
        for point in range(sys.maxunicode + 1)
        if unicodedata.category(chr(point)) in HIDING_CATEGORIES and chr(point) not in "\n\t" + ZERO_WIDTH_JOINERS
    ]
    runs = [[point for _, point in group] for _, group in groupby(enumerate(hiding), lambda pair: pair[1] - pair[0])]
    return re.compile("[" + "".join(f"\\U{run[0]:08x}-\\U{run[-1]:08x}" for run in runs) + "]")


def _replace_hidden(match: re.Match[str]) -> str:
    character = match.group()
    return REPLACEMENT_CHAR if unicodedata.category(character) in ("Cc", "Cs") else f"⟨U+{ord(character):04X}⟩"
