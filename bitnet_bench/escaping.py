"""Escape text of any origin for the formats in which it is shared: Markdown and CSV."""

from __future__ import annotations

import re
from typing import Any

MARKDOWN_SIGNS = re.compile(r"[\\`*\[\]|~]|<(?=[A-Za-z/!?])|&(?=#?\w+;)")
"""Signs that begin a span, a link, a tag or an entity; a `<` before a number is only that."""
BLOCK_START = re.compile(r"\s*(?:[#>+=-]|\d+(?=[.)]))")
"""What makes the beginning of a line a heading, a quotation, a list or a rule."""
LINE_ENDS = re.compile(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+")
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Beginnings by which a spreadsheet takes a cell for a formula."""


def escape_markdown(text: str, starts_line: bool = False) -> str:
    """Return *text* as one line of Markdown that shows it as it is; *starts_line* if nothing stands before it."""
    escaped = MARKDOWN_SIGNS.sub(lambda found: f"\\{found[0]}", LINE_ENDS.sub(" ", text))
    if starts_line and (start := BLOCK_START.match(escaped)):
        digits = start[0].strip().isdigit()
        place = start.end() if digits else start.end() - 1
        escaped = f"{escaped[:place]}\\{escaped[place:]}".lstrip()
    return escaped


def make_code_span(text: str) -> str:
    """Return *text* as a span of code, in which Markdown has no escapes: a backtick in it becomes an apostrophe."""
    return f"`{LINE_ENDS.sub(' ', text).replace('`', chr(39))}`"


def guard_csv_cell(value: Any) -> Any:
    """Return a cell that no spreadsheet runs: text that begins like a formula gets an apostrophe, numbers stay."""
    if not isinstance(value, str):
        return value
    text = value.replace("\r\n", "\n").replace("\r", "\n")
    return f"'{text}" if value.startswith(FORMULA_STARTS) else text
