"""Write --help in Korean: translate its texts where they are formatted, and wrap them by the width that they take.

Typer writes a help text through the formatter of a command's context. Its own one counts a Korean syllable, which takes
two columns of a terminal, as one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import typer

from bitnet_bench.cli.sentences import measure_width, wrap_lines
from bitnet_bench.wording.translation import translate_to_korean

HelpFormatter: Any = typer.Context.formatter_class
EXTRAS = re.compile(r"^(.*?)(?:^|  )\[([^][]*(?:\[[^]]*\][^][]*)*)\]$", re.DOTALL)
"""An option's help, and in brackets its default, its range and whether it is required."""


def translate_help(command: Any) -> None:
    """Make *command* and the commands below it write their help in Korean."""
    command.context_class = KoreanContext
    if command.help and not command.short_help:  # the listing of a group cuts a long first sentence
        command.short_help = translate_paragraph(command.help.partition("\n\n")[0])
    for below in getattr(command, "commands", {}).values():
        translate_help(below)


class KoreanFormatter(HelpFormatter):  # type: ignore[misc]
    """Formatter of help texts that translates what it is given."""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """Write the line of usage."""
        super().write_usage(prog, args, prefix or f"{translate_to_korean('Usage:')} ")

    def write_heading(self, heading: str) -> None:
        """Write the heading of a section."""
        super().write_heading(translate_to_korean(heading))

    def write_text(self, text: str) -> None:
        """Write paragraphs."""
        paragraphs = [translate_paragraph(one) for one in text.split("\n\n")]
        width = max(self.width - self.current_indent, 11)
        self.write(_indent("\n\n".join("\n".join(wrap_words(one, width)) for one in paragraphs), self.current_indent))
        self.write("\n")

    def write_dl(self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """Write a list of names, each with a text beside it, or below it where the name is long."""
        first = min(max(measure_width(name) for name, _ in rows), col_max) + col_spacing
        width = max(self.width - first - self.current_indent, 10)
        for name, text in rows:
            lines = wrap_words(translate_option_help(text), width)
            self.write(f"{'':>{self.current_indent}}{name}")
            fits = measure_width(name) <= first - col_spacing
            if lines and fits:
                self.write(f"{'':>{first - measure_width(name)}}{lines.pop(0)}")
            self.write("\n")
            for line in lines:
                self.write(f"{'':>{first + self.current_indent}}{line}\n")


class KoreanContext(typer.Context):
    """Context of a command whose help is Korean."""

    formatter_class = KoreanFormatter


def translate_paragraph(text: str) -> str:
    """Return a paragraph in Korean, on one line."""
    return translate_to_korean(" ".join(text.split()))


def translate_option_help(text: str) -> str:
    """Return the help of an option in Korean, with what Typer adds to it in brackets."""
    whole = translate_paragraph(text)
    found = EXTRAS.match(text)
    if whole != " ".join(text.split()) or not found:
        return whole
    extras = "; ".join(map(translate_to_korean, found[2].split("; ")))
    return f"{translate_paragraph(found[1])}  [{extras}]".strip()


def wrap_words(text: str, width: int) -> list[str]:
    """Return *text* in lines of *width* columns, broken between words; a longer word has a line of its own."""
    return wrap_lines(" ".join(text.split()), width).split("\n") if text.strip() else []


def _indent(text: str, columns: int) -> str:
    return "\n".join(f"{'':>{columns}}{line}" if line else "" for line in text.split("\n"))
