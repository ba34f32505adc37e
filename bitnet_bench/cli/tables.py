"""Print progress on standard error and tables on standard output, and format values with units."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from bitnet_bench.cli.sentences import find_width
from bitnet_bench.cli.terminal import SHOWN_BARS, escape_controls, protect_streams, unprotect
from bitnet_bench.wording.translation import translate, translate_lines

if TYPE_CHECKING:
    from rich.table import Table

    from bitnet_bench.cli.fitting_table import FittingTable
    from bitnet_bench.protocols import Progress

DASH = "—"
LOG_EVERY_S = 10.0
WIDTH_OF_FILES = 160
"""Columns of a table that is written to a file, if its words fit."""


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """Show a progress bar; if standard error is not a terminal, print a line every ten seconds and at the end."""
    if not sys.stderr.isatty():
        yield _LineProgress(title)
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    from bitnet_bench.cli.progress_columns import make_columns

    # while it is shown, rich takes over both streams and would carry out codes in what is printed
    with Bar(*make_columns(), console=Console(file=unprotect(sys.stderr))) as bar, protect_streams():
        task = bar.add_task(escape_cell(title), total=None, note="")
        SHOWN_BARS.append(bar)
        try:
            yield lambda done, total, note="": bar.update(
                task, completed=done, total=total if total > 1 or done else None, note=escape_cell(note)
            )
        finally:
            SHOWN_BARS.remove(bar)


class _LineProgress:
    """Progress for a log file: how much is done, and the remaining time at the pace so far.

    The pace is measured since the first call, so work done before this process, or counted in seconds, does not count.
    """

    def __init__(self, title: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._title, self._clock = translate(title), clock
        self._last = self._began = clock()
        self._first: tuple[float, int] | None = None
        self._total: int | None = None
        self._says_begun = False

    def __call__(self, done: int, total: int, note: str = "") -> None:
        now = self._clock()
        if total == 1 and not done:  # something whose parts are not counted
            print(f"{self._title} ...", file=sys.stderr, flush=True)
            self._says_begun = True
            return
        if self._says_begun and total == 1 and not note:
            return
        if total != self._total:  # another part of the job, such as training after tokenizing
            self._total, self._first, self._began = total, None, now if self._total is not None else self._began
        self._first = self._first or (now, done)
        if done < total and now - self._last < LOG_EVERY_S:
            return
        self._last = now
        since, before = self._first if self._first[1] < done else (self._began, 0)
        left = f", {format_duration((now - since) / (done - before) * (total - done))} left" if 0 < done < total else ""
        said = f"{self._title}: {done}/{total}{translate(left)} {translate(note)}"
        print(said.rstrip(), file=sys.stderr, flush=True)


def show_phase(title: str) -> AbstractContextManager[None]:
    """Show on the terminal that *title* is being done, whose parts are not counted."""
    from bitnet_bench.protocols import show_phase  # imports pydantic, which --help is quick without

    return show_phase(progress_bar, title)


def format_duration(seconds: float) -> str:
    """Return seconds as s, min or h."""
    if seconds >= 5400:
        return f"{seconds / 3600:,.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def show(table: Table) -> None:
    """Print a table so that it fits the terminal; where lines may be of any length, it is as wide as its words need."""
    from rich.console import Console

    from bitnet_bench.cli.fitting_table import measure_table

    width = find_width(sys.stdout) or max(WIDTH_OF_FILES, measure_table(table.columns))
    Console(file=unprotect(sys.stdout), width=width).print(table, crop=False)


def make_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    numbers_from: int = 1,
    *,
    keys: int = 1,
    optional: Sequence[str] = (),
    unbroken: Sequence[str] = (),
    elsewhere: str = "--json",
) -> FittingTable:
    """Return a table whose columns from *numbers_from* on are right-aligned; these and *unbroken* do not wrap.

    The first *keys* columns say what a row is about. Where a terminal is too narrow, the *optional* columns are left
    out, the first named first; the option *elsewhere* of the command shows them.
    """
    from bitnet_bench.cli.fitting_table import FittingTable

    made = FittingTable(escape_cell(title), columns, keys, optional, elsewhere)
    for i, column in enumerate(columns):
        is_number = i >= numbers_from
        made.add_column(
            escape_cell(column), justify="right" if is_number else "left", no_wrap=is_number or column in unbroken
        )
    for row in rows:
        made.add_row(*map(escape_cell, row))
    return made


def escape_cell(text: str) -> str:
    """Return *text* for rich, in the language of the command line.

    It has no control characters, and `pip install 'x[y]'` is not read as markup.
    """
    from rich.markup import escape

    return escape(escape_controls(translate_lines(text)))


def format_milliseconds(seconds: float) -> str:
    """Return seconds as ms."""
    return f"{1e3 * seconds:.3g} ms"


def format_mebibytes(size: float) -> str:
    """Return bytes as MiB (2^20)."""
    return f"{size / 2**20:.2f} MiB"


def format_gigabytes(size: float) -> str:
    """Return bytes as GB (10^9), or as MB if there is less than one GB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def format_or_dash(value: float | None, form: str) -> str:
    """Return *value* in the format *form*, or a dash if it is None."""
    return DASH if value is None else form.format(value)
