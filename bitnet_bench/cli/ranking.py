"""The command that ranks any number of runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitnet_bench.cli.job_options import Fields, with_fields
from bitnet_bench.cli.options import Json, Margin
from bitnet_bench.cli.output import print_json
from bitnet_bench.cli.sentences import print_open, print_text
from bitnet_bench.cli.tables import make_table, progress_bar, show
from bitnet_bench.runs.choices import MARGIN
from bitnet_bench.wording import Language
from bitnet_bench.wording.translation import LANGUAGE

if TYPE_CHECKING:
    from bitnet_bench.reports.board_view import BoardView

MAX_RANKS_SHOWN = 20
"""Number of runs whose ranks the terminal shows; the page has all."""


@with_fields
def leaderboard(
    runs: Annotated[list[str], typer.Argument(help="Run folders, folders that hold some, or patterns such as 'r/*'.")],
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="The file to write, .html or .md; repeatable [default: board.html, with --json none].",
            show_default=False,
        ),
    ] = None,
    lang: Annotated[Language, typer.Option(help="Language of Markdown, and the page's first; a page switches.")] = "ko",
    margin: Margin = MARGIN,
    as_json: Json = False,
    *,
    options: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:BoardOptions")],
    sharing: Annotated[dict[str, Any], Fields("bitnet_bench.runs.jobs:Sharing")],
) -> None:
    """Rank any number of runs, with the ranks that are certain.

    Each score with its interval; runs that are not comparable apart, with the reason; ternary runs beside their twins;
    quality against memory and speed. docs/reports.md explains the ranks. Runs that cannot be read are named and left
    out.
    """
    from bitnet_bench.reports.write_board import dump_board, find_renderer, make_leaderboard, write_leaderboard
    from bitnet_bench.runs.jobs import BoardOptions

    files = out or ([] if as_json else [Path("board.html")])
    for file in files:
        find_renderer(file)
    with progress_bar("compare twins") as progress:
        view = make_leaderboard(runs, BoardOptions(**options, margin=margin), progress=progress)
    for notice in view.notices:
        print_text(f"{notice.where}: {notice.what.in_language(LANGUAGE.get())}", sys.stderr)
    for file in files:
        write_leaderboard(view, file, lang, sharing["keep_paths"])
    if as_json:
        print_json(dump_board(view, sharing["keep_paths"]))
        return
    show_ranking(view)
    for file in files:
        print_text(f"Leaderboard: {file}")
        if file.suffix.lower() == ".html":
            print_open(file)


def show_ranking(view: BoardView) -> None:
    """Print who is first, and the ranks and means of the first runs."""
    from bitnet_bench.reports.board_page import make_headline
    from bitnet_bench.reports.board_tables import ranking_table

    language = LANGUAGE.get()
    print_text(make_headline(view).in_language(language))
    table = ranking_table(view)
    rows = [[cell.text.in_language(language) for cell in row.cells] for row in table.rows[:MAX_RANKS_SHOWN]]
    columns = [heading.in_language(language) for heading in table.headings]
    show(make_table("Ranking", columns, rows, optional=columns[:2:-1]))
    if len(table.rows) > MAX_RANKS_SHOWN:
        print_text(f"Runs that are in the file alone: {len(table.rows) - MAX_RANKS_SHOWN}.")
