"""Read runs, make a leaderboard of them, and write it as HTML or Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitnet_bench.comparison.board import make_board, select_scores
from bitnet_bench.comparison.board_twins import compare_twins, join_twins
from bitnet_bench.comparison.board_values import BoardTwins
from bitnet_bench.errors import BenchError, UsageError
from bitnet_bench.files import write_whole
from bitnet_bench.protocols import Progress, no_progress
from bitnet_bench.reports.board_tables import order_rows
from bitnet_bench.reports.board_view import BoardView
from bitnet_bench.reports.named_runs import NamedRun, make_letter, name_runs
from bitnet_bench.runs.gathering import gather_runs
from bitnet_bench.runs.jobs import BoardOptions
from bitnet_bench.runs.reading import read_run
from bitnet_bench.runs.run import LoadedRun, Notice
from bitnet_bench.shared_paths import share
from bitnet_bench.wording import Count, Language, Text, get_text, plain_text
from bitnet_bench.wording.sentences import translate_sentence

ENDINGS = (".html", ".md")
MAX_PLACES_NAMED = 3
"""Number of runs that a notice names; the others are counted."""


def make_leaderboard(
    named: Sequence[str | Path],
    options: BoardOptions | None = None,
    *,
    progress: Progress = no_progress,
) -> BoardView:
    """Return the leaderboard of the runs that *named* stands for (`runs.gathering.gather_runs`).

    Runs that cannot be read, or have no score, are in its notices. BenchError if no run is left, and UsageError for a
    name that nothing has.
    """
    options = options or BoardOptions()
    folders, notices = gather_runs(named)
    found, unread = _read_runs(folders)
    notices += unread
    if not found:
        raise _explain_nothing(notices)
    return make_view(found, options, notices, progress)


def make_view(
    found: Sequence[tuple[Path, LoadedRun]],
    options: BoardOptions,
    notices: Sequence[Notice] = (),
    progress: Progress = no_progress,
) -> BoardView:
    """Return the leaderboard of runs that were read, each with its folder; *notices* are on others."""
    runs = {run.key: run for run in name_runs([run for _, run in found], options.across_machines)}
    places = {key: next(folder for folder, loaded in found if loaded is run.results) for key, run in runs.items()}
    if not any(run.record.scores for run in runs.values()):
        raise BenchError(f"{_name_first(places.values())} no score.", "Score them: `bitnet-bench evaluate --out DIR`.")
    chosen = select_scores({key: run.record for key, run in runs.items()}, options)
    given = {key: _choose_scores(run, chosen) for key, run in runs.items() if key in chosen}
    letters = _choose_letters(given, options)
    shown = {letters[key]: replace(given[key], key=letters[key]) for key in letters}
    folders_of = {letters[key]: places[key] for key in letters}
    records = {key: run.record for key, run in shown.items()}
    joined = join_twins(folders_of, records)
    loaded = {key: replace(run.results, record=_rename(run)) for key, run in shown.items()}
    if options.categories:  # examples do not say in all records which category they belong to
        twins = [BoardTwins(ternary=ternary, twin=twin, test="none") for ternary, twin in joined.items()]
    else:
        twins = compare_twins(loaded, joined, options.margin, paired=options.paired, progress=progress)
    board = make_board(records, {key: str(folder) for key, folder in folders_of.items()}, twins, options)
    lacking = [Notice(str(places[key]), get_text("board.no-score")) for key in runs if key not in chosen]
    own = [notice for key, run in shown.items() for notice in _gather_notices(folders_of[key], run.results.notices)]
    return BoardView(board, shown, summarize_notices([*notices, *lacking, *own]))


def _choose_letters(runs: Mapping[str, NamedRun], options: BoardOptions) -> dict[str, str]:
    """Return a new letter for each run, in the order in which the ranking lists them."""
    board = make_board({key: run.record for key, run in runs.items()}, dict.fromkeys(runs, ""), [], options)
    view = BoardView(board, runs)
    return {key: make_letter(i) for i, key in enumerate(order_rows(view, view.main_mean, board.columns))}


def _gather_notices(folder: Path, notices: Iterable[Notice]) -> list[Notice]:
    """Return the notices on a run; one that several of its tasks have is about its folder."""
    counted = Counter(notice.what for notice in notices)
    return [Notice(str(folder), notice.what) if counted[notice.what] > 1 else notice for notice in notices]


def _read_runs(folders: Iterable[Path]) -> tuple[list[tuple[Path, LoadedRun]], list[Notice]]:
    found, unread = [], []
    for folder in folders:
        try:
            found.append((folder, read_run(folder, lenient=True)))
        except BenchError as error:
            why = translate_sentence(error.problem)
            unread.append(Notice(str(folder), get_text("board.unreadable", why=why)))
    return found, unread


def _explain_nothing(notices: Sequence[Notice]) -> BenchError:
    said = [f"{notice.where} {notice.what.en}." for notice in notices[:MAX_PLACES_NAMED]]
    return BenchError(
        "There is no run that can be read.", " ".join((*said, "`bitnet-bench evaluate --out DIR` writes one."))
    )


def _name_first(places: Iterable[Path]) -> str:
    names = list(map(str, places))
    return f"{names[0]} has" if len(names) == 1 else f"{names[0]} and {len(names) - 1} other runs have"


def _choose_scores(run: NamedRun, chosen: Mapping[str, Any]) -> NamedRun:
    """Return *run* with the chosen scores alone."""
    return replace(run, results=replace(run.results, record=chosen[run.key]))


def _rename(run: NamedRun) -> Any:
    """Return the record of *run* under its distinct name, by which comparisons call it."""
    return run.record.model_copy(update={"name": run.name})


def summarize_notices(notices: Iterable[Notice]) -> list[Notice]:
    """Return each notice once, with the places that it is about: a hundred runs may lack the same."""
    places: dict[Text, list[str]] = {}
    for notice in notices:
        places.setdefault(notice.what, []).append(notice.where)
    summarized = []
    for what, where in places.items():
        distinct = list(dict.fromkeys(where))
        more = len(distinct) - MAX_PLACES_NAMED
        named = ", ".join(distinct[:MAX_PLACES_NAMED])
        told = what + plain_text(" ") + get_text("board.more-places", count=Count(more)) if more > 0 else what
        summarized.append(Notice(named, told))
    return summarized


def write_leaderboard(view: BoardView, out: Path, language: Language = "ko", keep_paths: bool = False) -> Path:
    """Write *view* to *out*, as HTML or Markdown by its ending, and return *out*; UsageError for another ending."""
    write_whole(out, find_renderer(out)(view, language, keep_paths))
    return out


def find_renderer(out: Path) -> Callable[[BoardView, Language, bool], str]:
    """Return what renders a leaderboard for the ending of *out*; UsageError if nothing does."""
    if out.suffix.lower() not in ENDINGS:
        raise UsageError(f"{out} ends neither in .html nor in .md.", "Such as `out=board.html` or `out=board.md`.")
    from bitnet_bench.reports.board_markdown import format_board
    from bitnet_bench.reports.board_page import render_board

    return render_board if out.suffix.lower() == ".html" else format_board


def dump_board(view: BoardView, keep_paths: bool = False) -> dict[str, Any]:
    """Return a leaderboard as JSON takes it, with what is wrong with the runs."""
    found = view.board.model_dump(mode="json")
    found["notices"] = [{"where": one.where, "what": one.what.en} for one in view.notices]
    shared: dict[str, Any] = found if keep_paths else share(found)
    return shared
