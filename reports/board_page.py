"""Render a leaderboard as one HTML file that needs no network and no second file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bitnet_bench.reports.assets import ASSETS_DIR, read_chart_library, read_page_script, read_stylesheet
from bitnet_bench.reports.board_chart import board_cost_section
from bitnet_bench.reports.board_tables import (
    condition_table,
    list_excluded_tasks,
    provenance_table,
    ranking_table,
    suite_table,
    twin_table,
)
from bitnet_bench.reports.board_view import BoardView, format_score, name_mean
from bitnet_bench.reports.cost_section import make_machine_warning
from bitnet_bench.reports.html_page import ChartRegistry, render_page
from bitnet_bench.reports.pairs import pair_section
from bitnet_bench.reports.sections import Block, Chart, Group, Paragraph, Section, Switch, Table
from bitnet_bench.runs.run import Notice
from bitnet_bench.shared_paths import share
from bitnet_bench.wording import LANGUAGES, Count, Language, Text, get_text, join_texts, load_catalogue, plain_text
from bitnet_bench.wording.names import format_suite

NO_SAMPLES: dict[str, Any] = {"doc": [], "runs": []}
"""The page has no samples; the script that it shares with a report looks for them."""


@dataclass(frozen=True)
class BoardPage:
    """The content of the template."""

    language: Language
    headline: Text
    lead: tuple[Text, ...]
    table: Table
    caveats: tuple[Text, ...]
    notices: tuple[Notice, ...]
    sections: tuple[Section, ...]


def render_board(view: BoardView, language: Language = "ko", keep_paths: bool = False) -> str:
    """Return the text of the file; paths of this machine are shortened unless *keep_paths*."""
    page = _make_page(view, language)
    drawn = [read_chart_library()] if any(has_chart(section.blocks) for section in page.sections) else []
    scripts = [*drawn, _read_asset("board.js"), read_page_script()]
    return render_page(
        "board.html.j2",
        page,
        "board.title",
        style=read_stylesheet() + _read_asset("board.css"),
        scripts=scripts,
        keep_paths=keep_paths,
        make_data=lambda charts: _make_script_data(charts, keep_paths),
    )


def has_chart(blocks: Iterable[Block]) -> bool:
    """Return whether there is a chart among *blocks*, for which the page needs a library."""
    return any(
        isinstance(block, Chart | Switch) or (isinstance(block, Group) and has_chart(block.blocks)) for block in blocks
    )


def _make_page(view: BoardView, language: Language) -> BoardPage:
    suites = tuple(
        Section(f"suite-{number}", format_suite(suite), (suite_table(view, suite),))
        for number, suite in enumerate(view.suites)
    )
    sections = (*suites, *filter(None, (twin_section(view), board_cost_section(view))), *_list_sources(view))
    return BoardPage(
        language,
        make_headline(view),
        make_lead(view),
        ranking_table(view),
        make_caveats(view),
        tuple(view.notices),
        sections,
    )


def make_headline(view: BoardView) -> Text:
    """Return who is first, and who cannot be told from it."""
    counts = {
        "runs": get_text("board.runs", count=Count(len(view.board.runs))),
        "tasks": get_text("tasks", count=Count(len({column.task for column in view.board.columns}))),
    }
    mean = view.main_mean
    ranked = [score for score in mean.scores if score.rank] if mean else []
    if mean is None or not ranked:
        return get_text("board.headline.none", **counts)
    first = ranked[0]
    named = {**counts, "what": name_mean(mean), "run": view.runs[first.run].name, "score": format_score(first)}
    tied = [score for score in ranked[1:] if score.rank and score.rank[0] == 1]
    key = "alone" if len(ranked) == 1 else "tied" if tied else "first"
    return get_text(f"board.headline.{key}", **named, count=Count(len(tied)))


def make_lead(view: BoardView) -> tuple[Text, ...]:
    """Return what the reader chose, if anything."""
    board = view.board
    chosen = [
        get_text(f"board.filter.{kind}") + plain_text(f" {', '.join(names)}")
        for kind, names in (("suites", board.suites), ("tasks", board.tasks), ("categories", board.categories))
        if names
    ]
    return (get_text("board.chosen", what=join_texts(chosen, "; ")),) if chosen else ()


def make_caveats(view: BoardView) -> tuple[Text, ...]:
    """Return the rules of the ranking: comparability, ties, means."""
    last = "categories" if view.board.categories else "means"
    said = [get_text(f"board.rule.{name}") for name in ("comparable", "ranks", last)]
    excluded = list_excluded_tasks(view.board.means)
    if excluded:
        said.append(get_text("board.rule.excluded", tasks=join_texts(excluded)))
    if view.has_several_machines:
        said.append(make_machine_warning(view.runs.values()).text)
    return tuple(said)


def twin_section(view: BoardView) -> Section | None:
    """Return ternary runs beside their float twins; None if there are none, or if they are not compared."""
    pairs = view.board.twins
    if not pairs or view.board.categories:
        return None
    blocks: list[Block] = [twin_table(view, pairs), Paragraph(get_text("board.twins.hint"), "hint")]
    for pair in pairs:
        if pair.comparison:
            title = view.label(pair.ternary) + plain_text(" − ") + view.label(pair.twin)
            runs = view.runs[pair.ternary], view.runs[pair.twin]
            blocks.append(Group(title, tuple(pair_section([(runs, pair.comparison)]).blocks)))
    return Section("twins", get_text("board.twins.title"), tuple(blocks))


def _list_sources(view: BoardView) -> tuple[Section, ...]:
    """Return the sections that say under which conditions scores were made, and where runs come from."""
    conditions = (Paragraph(get_text("board.conditions.hint"), "hint"), condition_table(view))
    return (
        Section("conditions", get_text("board.conditions.title"), conditions),
        Section("runs", get_text("board.runs.title"), (provenance_table(view),)),
    )


def _make_script_data(charts: ChartRegistry, keep_paths: bool) -> dict[str, Any]:
    catalogue = load_catalogue()
    words = {key: said for key, said in catalogue.items() if key.startswith("page.")}
    words["page.title"] = catalogue["board.title"]
    return {
        "charts": charts.specs if keep_paths else share(charts.specs),
        "samples": NO_SAMPLES,
        "words": {language: {key: said.in_language(language) for key, said in words.items()} for language in LANGUAGES},
    }


def _read_asset(name: str) -> str:
    return (ASSETS_DIR / name).read_text(encoding="utf-8")
