"""Write a leaderboard as Markdown, in one language."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bitnet_bench.escaping import escape_markdown
from bitnet_bench.reports.board_page import make_caveats, make_headline, make_lead
from bitnet_bench.reports.board_tables import condition_table, provenance_table, ranking_table, suite_table, twin_table
from bitnet_bench.reports.board_view import BoardView
from bitnet_bench.reports.sections import Cell, Table
from bitnet_bench.reports.visible import make_visible
from bitnet_bench.shared_paths import shorten_paths
from bitnet_bench.wording import Language, Text, get_text
from bitnet_bench.wording.names import format_suite


def format_board(view: BoardView, language: Language = "ko", keep_paths: bool = False) -> str:
    """Return the ranking, a table for each suite, twins, conditions and sources as Markdown."""
    writer = _Writer(language, keep_paths)
    lines = [f"# {writer.line(get_text('board.title'))}", "", writer.line(make_headline(view), starts=True), ""]
    for sentence in make_lead(view):
        lines += [writer.line(sentence, starts=True), ""]
    lines += [*writer.table(ranking_table(view)), ""]
    lines += [*(f"- {writer.line(rule)}" for rule in make_caveats(view)), ""]
    for suite in view.suites:
        lines += [f"## {writer.line(format_suite(suite))}", "", *writer.table(suite_table(view, suite)), ""]
    tables = [("board.conditions.title", condition_table(view)), ("board.runs.title", provenance_table(view))]
    if view.board.twins and not view.board.categories:
        tables.insert(0, ("board.twins.title", twin_table(view, view.board.twins)))
    for title, table in tables:
        lines += [f"## {writer.line(get_text(title))}", "", *writer.table(table), ""]
    if view.notices:
        lines += [f"## {writer.line(get_text('notices.title'))}", ""]
        lines += [f"- {writer.words(notice.where)}: {writer.line(notice.what)}" for notice in view.notices]
        lines.append("")
    return "\n".join(lines)


class _Writer:
    """Writes texts and tables in one language, with paths shortened unless they are to be kept."""

    def __init__(self, language: Language, keep_paths: bool) -> None:
        self._language, self._keep_paths = language, keep_paths

    def words(self, text: str, starts: bool = False) -> str:
        """Return text of any origin on one line, with nothing in it that Markdown would read."""
        return escape_markdown(make_visible(text if self._keep_paths else shorten_paths(text)), starts_line=starts)

    def line(self, text: Text, starts: bool = False) -> str:
        """Return a text of the catalogue on one line."""
        return self.words(text.in_language(self._language), starts)

    def table(self, table: Table) -> Iterable[str]:
        """Yield the lines of a table; small print follows a cell in the same cell."""
        notes = table.notes or [None] * len(table.headings)
        heads = [
            self._join([heading, *([note] if note and note.ko else [])])
            for heading, note in zip(table.headings, notes, strict=True)
        ]
        yield _format_row(heads)
        yield _format_row(["---"] * len(heads))
        for row in table.rows:
            yield _format_row([self._cell(cell) for cell in row.cells])

    def _cell(self, cell: Cell) -> str:
        return self._join([cell.text, *cell.small])

    def _join(self, texts: Sequence[Text]) -> str:
        return "<br>".join(self.line(text) for text in texts)


def _format_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
