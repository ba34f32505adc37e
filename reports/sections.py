"""Parts of a report as values: text, tables and charts, each said in both languages.

Who has something to add to a report makes a `Section` of these and puts it into `ReportOptions(sections=...)`: the
report gives it a heading, an entry in its contents, both languages, a place on paper and on a small screen. All text is
shown as text, whatever it holds; a chart is a Vega-Lite specification without data from elsewhere.
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
    """A sentence or more. hint: how to read something. warning: what to beware of."""

    text: Text
    kind: Literal["text", "hint", "warning"] = "text"


@dataclass(frozen=True)
class Cell:
    """What one cell of a table shows, with small print below it; *kind* sets its look.

    measured, modelled and missing say where a number comes from, found and refused what a verdict is.
    """

    text: Text
    small: tuple[Text, ...] = ()
    kind: Literal["plain", "measured", "modelled", "missing", "strong", "quiet", "warning", "code"] = "plain"


@dataclass(frozen=True)
class Row:
    """A row of a table, whose first cell names it; a run's letter may stand before the name."""

    cells: tuple[Cell, ...]
    kind: Literal["plain", "total"] = "plain"


@dataclass(frozen=True)
class Table:
    """Rows under headings; on a small screen each row is a card."""

    headings: tuple[Text, ...]
    rows: tuple[Row, ...]
    caption: Text = NOTHING


@dataclass(frozen=True)
class Chart:
    """A drawing with its title, and what it shows in words for who cannot see it."""

    title: Text
    description: Text
    specs: Mapping[str, Spec]
    """By language."""


@dataclass(frozen=True)
class Group:
    """Blocks that are folded away under a line."""

    title: Text
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Facts:
    """Labels with their values."""

    items: tuple[tuple[Text, Cell], ...]


Block = Paragraph | Table | Chart | Group | Facts


@dataclass(frozen=True)
class Section:
    """A part of a report under a heading; *anchor* is its name in links."""

    anchor: str
    title: Text
    blocks: Sequence[Block] = field(default_factory=tuple)


@dataclass(frozen=True)
class ReportOptions:
    """What a reader chooses about a report."""

    language: Language = "ko"
    """The one that is shown first; the page holds both."""
    margin: float = MARGIN
    """Points of a score that are too few to matter."""
    samples: int = 20_000
    """At most so many rows are shown; all of them are compared."""
    unread: tuple[Notice, ...] = ()
    """Runs that could not be read."""
    sections: tuple[Section, ...] = ()
    """What others have to add."""


class Report(Protocol):
    """Shows runs to a person."""

    def render(self, runs: Sequence[LoadedRun], options: ReportOptions | None = None) -> str:
        """Return a document about *runs*."""
