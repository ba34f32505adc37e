"""Hold back the end of a streamed text until it is whole: half characters, and letters of a syllable."""

from __future__ import annotations

import re
from collections.abc import Iterator

UNFINISHED = re.compile(
    "(?:[\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff]+"  # conjoining jamo, to which more may come
    "|\ufffd+"  # bytes of a character whose others are not there yet
    "|\r)\\Z"  # the first half of a line's end
)


class HeldText:
    """Passes on the text that further pieces cannot change, without white space at its beginning."""

    def __init__(self) -> None:
        self._held = ""
        self._has_begun = False

    def add(self, piece: str) -> Iterator[str]:
        """Yield what is whole of the text up to *piece*, if anything is."""
        text = self._held + piece
        if not self._has_begun:
            text = text.lstrip()
            self._has_begun = bool(text)
        found = UNFINISHED.search(text)
        end = found.start() if found else len(text)
        self._held = text[end:]
        if end:
            yield text[:end]

    def finish(self) -> Iterator[str]:
        """Yield the rest, whole or not."""
        if self._held:
            yield self._held
        self._held = ""
