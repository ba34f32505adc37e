"""Fit a table into the width of a terminal: leave out columns, and never break a word.

Columns that a table calls optional are left out, in the order in which it names them, until the words of the others
fit; a line below says which. If they still do not fit, the table is continued below itself, with its first columns
repeated, and a row that no width can hold is written as a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Column, Table
from rich.text import Text

from bitnet_bench.cli.sentences import measure_width, wrap_lines
from bitnet_bench.wording.translation import translate, translate_lines

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

GAP = 2
"""Characters between columns."""
MAX_LINES = (2, 4, None)
"""Lines of a cell that are tried in turn: an optional column is left out rather than more of them."""
LONGEST_HEADER = 16
"""Characters of a header that stays on one line."""


class FittingTable(Table):
    """A table that fits into the width at which it is printed."""

    def __init__(self, title: str, names: Sequence[str], keys: int, optional: Sequence[str], elsewhere: str) -> None:
        super().__init__(
            title=title or None,
            title_justify="left",
            title_style="bold",
            caption_justify="left",
            caption_style="dim",
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        self.names = tuple(names)
        """Names of the columns, whatever their headers say."""
        self.keys = keys
        """Number of columns that say what a row is about."""
        self.optional = tuple(
            len(names) - 1 - self.names[::-1].index(name) for name in optional
        )  # a run may be called n
        """Places of the columns that may be left out, the least important first."""
        self.elsewhere = elsewhere
        """Option of the command that prints every column."""

    def paint(self, name: str, row: int, style: str) -> None:
        """Colour the cell of a row in the column *name*, where it is printed in colours at all."""
        column = self.columns[self.names.index(name)]
        column._cells[row] = Text.from_markup(str(column._cells[row]), style=style)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the table at the width of *options*."""
        width = options.max_width
        parts, hidden = choose_columns(self.columns, self.keys, self.optional, width)
        for i, part in enumerate(parts):
            if i:
                yield Text()
            if measure_table(part) > width:
                yield from self._list_rows(part, width)
            else:
                yield from self._render_part(part, width, console, options, is_first=not i)
        if hidden:
            named = ", ".join(str(column.header) for column in hidden)
            note = f"Not shown at this width: {named}. A wider terminal or {self.elsewhere} shows all columns."
            yield Text.from_markup(translate(note), style="dim")
        if self.caption:
            yield Text.from_markup(translate_lines(str(self.caption)), style="dim")

    def _render_part(
        self, part: Sequence[Column], width: int, console: Console, options: ConsoleOptions, is_first: bool
    ) -> RenderResult:
        made = Table(
            title=self.title if is_first else None,
            title_justify="left",
            title_style="bold",
            box=self.box,
            show_edge=False,
            pad_edge=False,
            padding=self.padding,
            show_header=any(str(column.header) for column in part),
        )
        for i, (column, wide) in enumerate(zip(part, share_width(part, width), strict=True)):
            cells: list[Any] = [_wrap_cell(cell, wide) for cell in column._cells]
            header = _wrap_cell(column.header, wide)
            made.columns.append(replace(column, header=header, _cells=cells, width=wide, _index=i))
        made.rows = self.rows
        yield from made.__rich_console__(console, options)

    def _list_rows(self, part: Sequence[Column], width: int) -> RenderResult:
        """Yield each row as lines of a header and a cell; only a word that is longer than a line goes beyond it."""
        if self.title:
            yield Text.from_markup(str(self.title), style="bold")
        for row in range(len(self.rows)):
            for column in part:
                header, cell = _as_text(column.header).plain, _as_text(column._cells[row])
                lines = wrap_lines(f"{header}: {cell.plain}" if header else cell.plain, width).split("\n")
                yield Text("\n  ".join(lines), style=cell.style, no_wrap=True, overflow="ignore")
            yield Text()


def choose_columns(
    columns: Sequence[Column], keys: int, optional: Sequence[int], width: int
) -> tuple[list[list[Column]], list[Column]]:
    """Return the columns that fit into *width*, in parts below each other, and those left out."""
    for lines in MAX_LINES:
        kept, hidden = list(columns), []
        for place in optional:
            if measure_table(kept, lines) <= width:
                break
            hidden.append(columns[place])
            kept = [one for one in kept if one is not columns[place]]
        if measure_table(kept, lines) <= width:
            return [kept], hidden
    if len(kept) <= keys + 1:
        return [kept], hidden
    parts = [kept[: keys + 1]]
    for column in kept[keys + 1 :]:
        if measure_table([*parts[-1], column]) <= width:
            parts[-1].append(column)
        else:
            parts.append([*kept[:keys], column])
    return parts, hidden


def measure_table(columns: Sequence[Column], lines: int | None = None) -> int:
    """Return the least width at which no word of *columns* breaks; a path breaks after a slash.

    With *lines*, a path does not break either, and no cell takes more lines than that.
    """
    return sum(least_width(column, lines) for column in columns) + GAP * (len(columns) - 1)


def least_width(column: Column, lines: int | None = None) -> int:
    """Return the least width of a column, as `measure_table` sums it up."""
    cells, header = [_as_text(cell).plain for cell in column._cells], _as_text(column.header).plain
    if column.no_wrap:
        found = max(map(_widest_line, cells), default=1)
    else:
        found = max((longest_word(cell if lines else cell.replace("/", "/ ")) for cell in cells), default=1)
    found = max(found, longest_word(header), 1)
    if lines is None:
        return found
    found = max(found, min(measure_width(header), LONGEST_HEADER))
    return max([found, *(_width_of_lines(cell, found, lines) for cell in cells if not column.no_wrap)])


def _width_of_lines(cell: str, width: int, lines: int) -> int:
    """Return the least width from *width* on at which *cell* takes at most *lines*, not counting its own line ends."""
    lines += cell.count("\n")
    while wrap_lines(cell, width).count("\n") >= lines:
        width += 1
    return width


def share_width(columns: Sequence[Column], width: int) -> list[int]:
    """Return a width for each column: what its cells need, or less for the widest ones, but no broken word."""
    lines = next((lines for lines in MAX_LINES if measure_table(columns, lines) <= width), None)
    least = [least_width(column, lines) for column in columns]
    wide = [
        max(small, *(_widest_line(_as_text(cell).plain) for cell in (column.header, *column._cells)))
        for small, column in zip(least, columns, strict=True)
    ]
    for _ in range(sum(wide) + GAP * (len(columns) - 1) - width):
        widest = max((i for i in range(len(wide)) if wide[i] > least[i]), key=lambda i: wide[i])
        wide[widest] -= 1
    return wide


def longest_word(text: str) -> int:
    """Return the cells that the longest word of *text* takes; wide characters take two."""
    return max(map(measure_width, text.split()), default=0)


def _widest_line(text: str) -> int:
    return max(map(measure_width, text.splitlines()), default=0)


def _wrap_cell(cell: object, width: int) -> Text:
    """Return *cell* in lines of at most *width*, which end between words or, in a long path, after a slash."""
    text = _as_text(cell)
    lines = wrap_lines(text.plain, width).split("\n")
    return Text("\n".join(_break_path(line, width) for line in lines), style=text.style)


def _break_path(line: str, width: int) -> str:
    if measure_width(line) <= width:
        return line
    return wrap_lines(line.replace("/", "/ "), width).replace("/ ", "/")


def _as_text(cell: object) -> Text:
    return cell if isinstance(cell, Text) else Text.from_markup(str(cell))
