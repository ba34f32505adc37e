"""Print text of any origin safely: nothing that a file or a model holds may steer the terminal or end the program.

`protect_streams` puts a filter in front of standard output and standard error, so that prints, logs, warnings, errors
and what libraries print all go through it. Only rich's own colours are written past it, with `unprotect`.
"""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

import typer

from bitnet_bench.questions import ASK
from bitnet_bench.wording.translation import translate_lines

CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without newline and tab, DEL, C1
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that reorder text
    "\u2028\u2029\ud800-\udfff]"  # other line ends, and halves of characters
)
BAR = re.compile(r"\r([^\r\n]*)(\r?)")
"""What a progress bar of a library writes: it begins its line again, and may leave it empty."""
LONGEST_SHORT_CODE = 0xFF
PLAIN_CHARACTERS = {
    "−": "-",
    "–": "-",
    "—": "-",
    "±": "+/-",
    "×": "x",
    "→": "->",
    "…": "...",
    "·": "-",
    "≤": "<=",
    "≥": ">=",
    "≠": "!=",
    "‘": "'",
    "’": "'",
    "“": '"',
    "”": '"',
    "↔": "<->",
    "↓": "v",
}
"""Characters of our own tables and sentences in ASCII, for terminals that lack them."""
ERROR_HANDLER = "bitnet_bench.plain"
SHOWN_BARS: list[Any] = []
"""Progress bars of rich that are on the terminal now."""


def escape_controls(text: str) -> str:
    r"""Return *text* with control characters visible, such as \x1b for escape; newlines and tabs stay."""
    return CONTROLS.sub(_spell, text.replace("\r\n", "\n"))


def escape_json_controls(text: str, encoding: str) -> str:
    r"""Return JSON *text* with controls, and what *encoding* lacks, as \u escapes: its value is the same."""
    text = CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    try:
        text.encode(encoding)
        return text
    except (UnicodeEncodeError, LookupError):
        return "".join(character if character.isascii() else _spell_in_json(character) for character in text)


def _spell_in_json(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _spell(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code <= LONGEST_SHORT_CODE else f"\\u{code:04x}"


def _replace_unencodable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return what stands for characters that an encoding lacks: a plain form, else their code."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    plain = [PLAIN_CHARACTERS.get(one) or one.encode("ascii", "backslashreplace").decode() for one in lacking]
    return "".join(plain), error.end


class CursorLine:
    """Knows what stands on the line of the cursor, so that a carriage return overwrites nothing but a progress bar."""

    def __init__(self) -> None:
        self._holds_text = False

    def escape(self, text: str) -> str:
        """Return *text* without controls, but for the carriage returns of a bar on a line without other text."""
        bar = BAR.fullmatch(text)
        if bar and not self._holds_text:
            return f"\r{escape_controls(bar[1])}{bar[2]}"
        if text:
            self._holds_text = not text.endswith("\n")
        return escape_controls(text)


class SafeStream:
    """A text stream that makes control characters visible in what is written to it.

    Its binary buffer is not offered: click would write to that directly.
    """

    def __init__(self, stream: TextIO, line: CursorLine | None = None) -> None:
        self.unprotected = stream
        self._line = line or CursorLine()

    def write(self, text: str) -> int:
        """Write *text* without control characters, in the language of the command line."""
        self.unprotected.write(self._line.escape(translate_lines(text)))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of *lines*."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "unprotected"):
            raise AttributeError(name)
        return getattr(self.unprotected, name)


def unprotect(stream: TextIO) -> TextIO:
    """Return the stream behind the filter, for text whose own parts were escaped before it was coloured."""
    return stream.unprotected if isinstance(stream, SafeStream) else stream


@contextmanager
def protect_streams() -> Iterator[None]:
    """Filter what is written to standard output and standard error; what their encoding lacks is replaced."""
    codecs.register_error(ERROR_HANDLER, _replace_unencodable)
    before = sys.stdout, sys.stderr
    for stream in before:
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors=ERROR_HANDLER)
    line = CursorLine()  # both streams may be one terminal
    safe = tuple(cast(TextIO, SafeStream(stream, line)) for stream in before)
    sys.stdout, sys.stderr = safe
    try:
        yield
    finally:
        if (sys.stdout, sys.stderr) == safe:
            sys.stdout, sys.stderr = before


def allow_questions() -> None:
    """Let packages below ask whoever sits at the terminal."""
    ASK.set(_ask)


def _ask(question: str) -> bool:
    with pause_progress():
        return typer.confirm(question, err=True)


@contextmanager
def pause_progress() -> Iterator[None]:
    """Take progress bars off the terminal meanwhile: they would write over a question, and it could not be read."""
    shown, streams = list(SHOWN_BARS), (sys.stdout, sys.stderr)
    for bar in reversed(shown):  # each gives back the streams that it took over
        bar.stop()
    yield
    for bar in shown:
        bar.start()
    sys.stdout, sys.stderr = streams  # a bar that starts takes them over without the filter
