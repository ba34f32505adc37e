"""Print sentences for a person: whole words at the end of a line, and colours where a terminal shows them.

Warnings, errors and what usually comes next go to standard error, so that standard output holds results only.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TextIO

import typer

from bitnet_bench.cli.option_names import name_options
from bitnet_bench.cli.terminal import escape_controls, unprotect
from bitnet_bench.wording.translation import translate_lines

LEAST_WIDTH = 20
"""A narrower width than this is none that a person reads."""
SUITE = "kobest"
"""Suite that a next command names."""


def find_width(stream: TextIO) -> int | None:
    """Return the columns of *stream*: $COLUMNS, else those of its terminal; None if lines may be of any length."""
    try:
        given = int(os.environ.get("COLUMNS", ""))
    except ValueError:
        given = 0
    if given >= LEAST_WIDTH:
        return given
    if not stream.isatty():
        return None
    try:
        found = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # a stream without a file, or a terminal that does not say
        found = shutil.get_terminal_size().columns
    return max(found, LEAST_WIDTH)


def shows_colours(stream: TextIO) -> bool:
    """Return whether *stream* is a terminal with colours; https://no-color.org turns them off."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def print_text(text: str, stream: TextIO | None = None) -> None:
    """Print sentences, on standard output without *stream*; lines of a terminal end between words."""
    stream = stream or sys.stdout
    whole = wrap_lines(translate_lines(text), find_width(stream))
    print(escape_controls(whole), file=unprotect(stream))  # past the filter, which would translate parts of sentences


def print_error(text: str) -> None:
    """Print what failed, and below it the hint, on standard error."""
    _print_labelled("Error:", "red", text)


def print_warning(text: str) -> None:
    """Print a warning on standard error."""
    _print_labelled("Warning:", "yellow", name_options(text))


def print_outcome(text: str, passed: bool) -> None:
    """Print a sentence that says whether a check passed, on standard error, in green or red."""
    whole = wrap_lines(translate_lines(text), find_width(sys.stderr))
    print(paint(whole, "green" if passed else "red", sys.stderr), file=unprotect(sys.stderr), flush=True)


def print_next(*words: str | Path) -> None:
    """Print the command of this program that usually follows, on standard error."""
    sys.stdout.flush()  # so that it comes last if both streams go to one file
    _print_labelled("Next:", "cyan", shlex.join(("bitnet-bench", *map(str, words))), is_command=True)


def print_evaluation(models: Iterable[str | Path], *more: str) -> None:
    """Print the command that scores *models*, on standard error."""
    print_next("evaluate", *(word for model in models for word in ("--model", model)), "--suite", SUITE, *more)


def print_open(page: Path) -> None:
    """Print the command that opens *page* in a browser, on standard error."""
    sys.stdout.flush()
    _print_labelled("Open:", "cyan", shlex.join(("python", "-m", "webbrowser", str(page))), is_command=True)


def _print_labelled(label: str, colour: str, text: str, is_command: bool = False) -> None:
    whole = translate_lines(f"{label} {text}")
    label = whole.partition(" ")[0]
    width = find_width(sys.stderr)
    whole = wrap_command(whole, width) if is_command else wrap_lines(whole, width)
    rest = escape_controls(whole.removeprefix(label))
    print(f"{paint(label, colour, sys.stderr)}{rest}", file=unprotect(sys.stderr), flush=True)


def paint(text: str, colour: str, stream: TextIO) -> str:
    """Return *text* in a colour if *stream* shows colours, to be printed with `unprotect`; its controls are escaped."""
    safe = escape_controls(text)
    return typer.style(safe, fg=colour, bold=True) if shows_colours(stream) else safe


def wrap_lines(text: str, width: int | None) -> str:
    """Return *text* in lines of at most *width* cells that end between words; a longer word has a line of its own.

    What a line is indented by, its continuation is as well.
    """
    if width is None:
        return text
    return "\n".join(line for given in text.split("\n") for line in _wrap_line(given, width))


def _wrap_line(text: str, width: int) -> list[str]:
    indent = text[: len(text) - len(text.lstrip(" "))]
    lines: list[str] = []
    used = width
    for word in text.split(" ") if not indent else text.lstrip(" ").split(" "):
        size = measure_width(word)
        if not lines or used + 1 + size > width:
            lines.append(indent + word)
            used = len(indent) + size
        else:
            lines[-1] += f" {word}"
            used += 1 + size
    return lines


def wrap_command(text: str, width: int | None) -> str:
    r"""Return a command in lines that end in \ where an option begins, so that it can be copied as it stands."""
    if width is None or measure_width(text) <= width:
        return text
    parts = text.replace(" --", "\n--").split("\n")
    lines = parts[:1]
    for part in parts[1:]:
        if measure_width(lines[-1]) + measure_width(part) + 3 <= width:
            lines[-1] += f" {part}"
        else:
            lines[-1] += " \\"
            lines.append(f"    {part}")
    return "\n".join(lines)


@cache
def measure_width(word: str) -> int:
    """Return the cells that *word* takes in a terminal, where a Hangul syllable takes two."""
    if word.isascii():
        return len(word)
    from rich.cells import cell_len

    return cell_len(word)


class WarningHandler(logging.Handler):
    """Prints log lines of a warning or worse as sentences, with the options of the command in place of fields."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print *record* on standard error."""
        try:
            text = name_options(self.format(record))
            print_error(text) if record.levelno >= logging.ERROR else print_warning(text)
        except Exception:  # as every handler of the standard library does
            self.handleError(record)
