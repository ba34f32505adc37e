"""Represent the parts of a report as values: text, tables and charts, each in both languages.

To add something to a report, make a `Section` of these and put it into `ReportOptions(sections=...)`: the report gives
it a heading, an entry in its contents, both languages, and layouts for paper and small screens. All text is shown as
text, whatever it contains; a chart is a Vega-Lite specification without external data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from bitnet_bench.comparison.results import MARGIN
from bitnet_bench.runs.run import LoadedRun, Notice
from bitnet_bench.wording import Language, Text, plain_text

Spec = dict[str, Any]
"""A Vega-Lite specification."""
NOTHING = plain_text("")


@dataclass(frozen=True)
class Paragraph:
    """One or more sentences. hint: how to read something. warning: what to beware of."""

    text: Text
    kind: Literal["text", "hint", "warning"] = "text"


@dataclass(frozen=True)
class Cell:
    """The content of one table cell, with small print below it; *kind* sets its look.

    measured, modelled and missing are the sources of a number; found and refused are kinds of verdicts.
    """

    text: Text
    small: tuple[Text, ...] = ()
    kind: Literal["plain", "measured", "modelled", "missing", "strong", "quiet", "warning", "code"] = "plain"
    sort: float | str | None = None
    """What a sortable table sorts the cell by; None sorts it last."""


@dataclass(frozen=True)
class Row:
    """A row of a table, whose first cell names it; a run's letter may precede the name."""

    cells: tuple[Cell, ...]
    kind: Literal["plain", "total"] = "plain"


@dataclass(frozen=True)
class Table:
    """Rows under headings; on a small screen each row is a card, which shows the columns *keys* until it is opened."""

    headings: tuple[Text, ...]
    rows: tuple[Row, ...]
    caption: Text = NOTHING
    keys: tuple[int, ...] = ()
    """Columns that a closed card shows, beside the first; () if all cards are open."""
    labels: tuple[Text, ...] = ()
    """Shorter headings for cards; () for the headings themselves."""
    notes: tuple[Text, ...] = ()
    """Small print below each heading; () if there is none."""
    sortable: bool = False
    """Whether a reader can sort the rows by a column (`board.js`), the first of which then stays in sight."""
    rising: tuple[int, ...] = ()
    """Columns of a sortable table whose least value is the best."""

    @property
    def card_labels(self) -> tuple[Text, ...]:
        """Return the headings that cards show."""
        return self.labels or self.headings


@dataclass(frozen=True)
class Chart:
    """A drawing with its title, and a description for readers who cannot see it."""

    title: Text
    description: Text
    specs: Mapping[str, Spec]
    """Specification for each language."""


@dataclass(frozen=True)
class Switch:
    """Charts of which one is shown at a time, each under the name of its button."""

    title: Text
    charts: tuple[tuple[Text, Chart], ...]


@dataclass(frozen=True)
class Group:
    """Blocks that are collapsed under a line."""

    title: Text
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Facts:
    """Labels with their values."""

    items: tuple[tuple[Text, Cell], ...]


Block = Paragraph | Table | Chart | Switch | Group | Facts


@dataclass(frozen=True)
class Section:
    """A part of a report under a heading; *anchor* is its name in links."""

    anchor: str
    title: Text
    blocks: Sequence[Block] = field(default_factory=tuple)


@dataclass(frozen=True)
class ReportOptions:
    """Options of a report."""

    language: Language = "ko"
    """Language that is shown first; the page contains both."""
    margin: float = MARGIN
    """Difference in points of a score that is too small to matter."""
    samples: int = 20_000
    """Maximum number of rows that are shown; all of them are compared."""
    unread: tuple[Notice, ...] = ()
    """Notices on runs that could not be read."""
    sections: tuple[Section, ...] = ()
    """Sections that callers add."""
    keep_paths: bool = False
    """Whether paths are shown whole; else `bitnet_bench.shared_paths` shortens them, because a report is shared."""
    across_machines: bool = False
    """Whether costs of different machines are compared."""


class Report(Protocol):
    """Renders a report on runs."""

    def render(self, runs: Sequence[LoadedRun], options: ReportOptions | None = None) -> str:
        """Return a document on *runs*."""
