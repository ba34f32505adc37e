"""Lay out a leaderboard as tables: the ranking, a table for each suite, twins, conditions, and where runs come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bitnet_bench.comparison.board_twins import pair_scores, select_points
from bitnet_bench.comparison.board_values import BoardColumn, BoardMean, BoardScore, BoardTwins
from bitnet_bench.comparison.results import Sentence
from bitnet_bench.comparison.score_conditions import format_settings
from bitnet_bench.comparison.words import format_difference, format_interval, format_p, format_verdict
from bitnet_bench.reports.board_view import (
    BoardView,
    describe_test,
    format_rank,
    format_score,
    name_column,
    name_mean,
    shorten_machine,
    text_of,
)
from bitnet_bench.reports.cost_section import find_main_cost
from bitnet_bench.reports.figures import DASH, find_value, format_number, make_figure_cell, make_missing_cell
from bitnet_bench.reports.sections import NOTHING, Cell, Row, Table
from bitnet_bench.wording import Count, Text, get_text, join_texts, plain_text
from bitnet_bench.wording.names import format_metric, format_suite, format_task_name

COSTS = ("peak_bytes", "decode_tokens_per_s")
SHOWN_DATA_CHARS = 12
MAX_RANKED_COLUMNS = 6
"""Number of columns that the ranking has where there is no mean."""


def ranking_table(view: BoardView) -> Table:
    """Return a row for each run: its rank and means, or the first columns if there is no mean, and what it costs."""
    main = view.main_mean
    shown = [] if main is None else [main, *(mean for mean in view.board.means if mean.scores and mean is not main)]
    columns = view.board.columns[:MAX_RANKED_COLUMNS] if main is None else ()
    headings = [
        get_text("column.run"),
        *([get_text("board.rank"), get_text("board.mean-of", what=name_mean(main))] if main else []),
        *map(name_mean, shown[1:]),
        *map(name_column, columns),
        *(get_text(f"metric.{name}") for name in COSTS),
    ]
    notes = [NOTHING, *([NOTHING] if main else []), *map(_note_mean, shown), *map(_note_column, columns)]
    by_run = [{score.run: score for score in column.scores} for column in columns]
    rows = tuple(
        Row(
            (
                _run_cell(view, key, _find_reasons(main, key)),
                *([_rank_cell(main, key), _mean_cell(main, key)] if main else []),
                *(_mean_cell(mean, key, with_rank=True) for mean in shown[1:]),
                *(_score_cell(found.get(key), column) for found, column in zip(by_run, columns, strict=True)),
                *_cost_cells(view, key),
            )
        )
        for key in order_rows(view, main, view.board.columns)
    )
    memory = len(headings) - len(COSTS)
    return Table(
        tuple(headings),
        rows,
        keys=(1, 2),
        notes=(*notes, *[NOTHING] * len(COSTS)),
        sortable=len(rows) > 1,
        rising=(1, memory) if main else (*_list_rising(columns, 1), memory),
    )


def _note_mean(mean: BoardMean) -> Text:
    return get_text("tasks", count=Count(len(mean.tasks)))


def order_rows(view: BoardView, mean: BoardMean | None, columns: Sequence[BoardColumn]) -> list[str]:
    """Return the runs of *columns*: those with a mean as it ranks them, then the others as the columns rank them."""
    ranked = mean.scores if mean else ()
    there = {score.run for column in columns for score in column.scores}
    first = [score.run for score in ranked if not score.differs]
    rest = [score.run for column in columns for score in column.scores]
    last = [score.run for score in ranked if score.differs]
    order = [*first, *(key for key in rest if key not in last), *last]
    return [key for key in dict.fromkeys(order) if key in there and key in view.runs]


def suite_table(view: BoardView, suite: str) -> Table:
    """Return a row for each run with a score on *suite*, and a column for each task."""
    columns, mean = view.columns_of(suite), view.mean_of(suite)
    has_mean = mean is not None and len(mean.tasks) > 1
    by_run: list[dict[str, BoardScore]] = [{score.run: score for score in column.scores} for column in columns]
    headings = [get_text("column.run"), *map(name_task_in_suite, columns)]
    notes = [NOTHING, *map(_note_column, columns)]
    if mean is not None and has_mean:
        headings[1:1] = [get_text("board.rank"), get_text("column.mean")]
        notes[1:1] = [NOTHING, _note_mean(mean)]
    rows = []
    for key in order_rows(view, mean if has_mean else None, columns):
        cells = [_score_cell(found.get(key), column) for found, column in zip(by_run, columns, strict=True)]
        means = [_rank_cell(mean, key), _mean_cell(mean, key)] if has_mean else []
        reasons = _collect_reasons(key, by_run, columns)
        rows.append(Row((_run_cell(view, key, reasons), *means, *cells)))
    return Table(
        tuple(headings),
        tuple(rows),
        caption=get_text("board.table.categories" if view.board.categories else "board.table"),
        keys=(1, 2) if has_mean else tuple(range(1, min(3, len(headings)))),
        notes=tuple(notes),
        sortable=len(rows) > 1,
        rising=(*([1] if has_mean else []), *_list_rising(columns, 3 if has_mean else 1)),
    )


def _list_rising(columns: Sequence[BoardColumn], offset: int) -> list[int]:
    """Return the places of columns of which less is better."""
    return [offset + i for i, column in enumerate(columns) if column.lower_is_better]


def name_task_in_suite(column: BoardColumn) -> Text:
    """Return the name of a column without the suite's, which stands above it."""
    key = column.task.partition(":")[0]
    whole, suite = name_column(column), format_suite(key)
    names = (whole.ko.removeprefix(f"{suite.ko} "), whole.en.removeprefix(f"{suite.en} "))
    return Text(*(name.removeprefix(f"{key}:") for name in names))


def _note_column(column: BoardColumn) -> Text:
    parts = [format_metric(column.metric) + plain_text(" ↓" if column.lower_is_better else "")]
    if column.n is not None:
        parts.append(plain_text(f"n {column.n:,}"))
    if column.chance:
        parts.append(get_text("board.chance", value=format_number(column.chance)))
    return join_texts(parts, " · ")


def _run_cell(view: BoardView, key: str, reasons: Sequence[Text]) -> Cell:
    said = [get_text("board.not-ranked-because", why=join_texts(list(reasons), "; "))] if reasons else []
    return Cell(view.label(key), (*view.describe(key), *said), "strong", sort=view.runs[key].name)


def _find_reasons(mean: BoardMean | None, key: str) -> list[Text]:
    score = _find_score(mean, key)
    return [text_of(one) for one in score.differs] if score else []


def _collect_reasons(
    key: str, by_run: Sequence[Mapping[str, BoardScore]], columns: Sequence[BoardColumn]
) -> list[Text]:
    """Return why *key* is not ranked in columns, each reason once, with its tasks if it is not that of all."""
    tasks: dict[Sentence, list[BoardColumn]] = {}
    scored = [column for found, column in zip(by_run, columns, strict=True) if key in found]
    for found, column in zip(by_run, columns, strict=True):
        for reason in found[key].differs if key in found else ():
            tasks.setdefault(reason, []).append(column)
    return [
        text_of(reason)
        if len(found) == len(scored)
        else join_texts([name_task_in_suite(column) for column in found]) + plain_text(": ") + text_of(reason)
        for reason, found in tasks.items()
    ]


def _find_score(mean: BoardMean | None, key: str) -> BoardScore | None:
    return next((score for score in mean.scores if score.run == key), None) if mean else None


def _rank_cell(mean: BoardMean | None, key: str) -> Cell:
    score = _find_score(mean, key)
    if score and score.differs:
        return Cell(get_text("board.rank.none"), (), "quiet")
    if score is None or score.rank is None:
        return Cell(plain_text(DASH), (), "missing")
    return Cell(plain_text(format_rank(score.rank)), (), "strong", sort=make_rank_order(score.rank))


def make_rank_order(rank: tuple[int, int]) -> float:
    """Return a number that sorts by the best possible rank, then by the worst."""
    return rank[0] + rank[1] / 1e6


def _mean_cell(mean: BoardMean | None, key: str, with_rank: bool = False) -> Cell:
    if mean is None:
        return Cell(plain_text(DASH), (), "missing")
    score = _find_score(mean, key)
    if score is None:
        lacking = next((one.lacks for one in mean.missing if one.run == key), mean.tasks)
        there = len(mean.tasks) - len(lacking)
        return make_missing_cell(get_text("board.some-tasks", n=there, total=Count(len(mean.tasks))))
    small = _small_rank(score) if with_rank else ()
    return Cell(format_score(score), small, "quiet" if score.differs else "strong", sort=score.value)


def _small_rank(score: BoardScore) -> tuple[Text, ...]:
    if score.differs:
        return (get_text("board.not-ranked"),)
    if score.rank is None:
        return (get_text("scores.no-error"),) if score.stderr is None and score.n is not None else ()
    return (get_text("board.rank-is", rank=format_rank(score.rank)),)


def _score_cell(score: BoardScore | None, column: BoardColumn) -> Cell:
    if score is None:
        return Cell(plain_text(DASH), (), "missing")
    shown = format_score(score, 1 if column.in_points else 3)
    small = list(_small_rank(score))
    if score.n is not None and score.n != column.n:
        small.append(plain_text(f"n {score.n:,}"))
    return Cell(shown, tuple(small), "quiet" if score.differs else "plain", sort=score.value)


def _cost_cells(view: BoardView, key: str) -> list[Cell]:
    run = view.runs[key]
    cost = find_main_cost(run, machine=view.main_machine)
    if cost is None:
        why = (get_text("costs.other-machine"),) if run.costs else ()
        return [Cell(plain_text(DASH), why, "missing") for _ in COSTS]
    cells = []
    where = (plain_text(shorten_machine(run)),) if view.has_several_machines else ()
    for name in COSTS:
        found = cost.metrics.get(name)
        cell = make_figure_cell(found)
        small = where if cell.kind == "measured" else cell.small
        cells.append(Cell(cell.text, small, cell.kind, sort=find_value(found)))
    return cells


def twin_table(view: BoardView, pairs: Sequence[BoardTwins]) -> Table:
    """Return a row for each pair: both means, and their difference."""
    names = ("twins", "ternary", "twin", "difference", "interval", "verdict", "p", "tasks")
    return Table(
        tuple(get_text(f"board.column.{name}") for name in names),
        tuple(_twin_row(view, pair) for pair in pairs),
        keys=(3, 5),
        sortable=len(pairs) > 1,
        rising=(6,),
    )


def _twin_row(view: BoardView, pair: BoardTwins) -> Row:
    label = Cell(view.label(pair.ternary), (view.label(pair.twin),), "strong", sort=view.runs[pair.ternary].name)
    if pair.mean is None:
        why = [text_of(one) for one in pair.differs] or [get_text("board.no-shared-task")]
        dashes = [Cell(plain_text(DASH), (), "missing")] * 7
        dashes[4] = Cell(get_text("verdict.refused"), (join_texts(why, "; "),), "warning")
        return Row((label, *dashes))
    mean = pair.mean
    is_open = mean.verdict == "undecided"
    ours, theirs = _find_pair_means(view, pair)
    return Row(
        (
            label,
            Cell(plain_text(ours)),
            Cell(plain_text(theirs)),
            Cell(plain_text(format_difference(mean)), (), "strong", sort=mean.difference),
            Cell(format_interval(mean)),
            Cell(format_verdict(mean.verdict, view.board.margin), (), "quiet" if is_open else "strong"),
            Cell(plain_text(format_p(mean.p)), (describe_test(pair),), sort=mean.p),
            Cell(get_text("tasks", count=Count(mean.tasks)), _count_refused(pair)),
        )
    )


def _count_refused(pair: BoardTwins) -> tuple[Text, ...]:
    refused = len(pair.comparison.refused) if pair.comparison else 0
    return (get_text("board.refused", count=Count(refused)),) if refused else ()


def _find_pair_means(view: BoardView, pair: BoardTwins) -> tuple[str, str]:
    """Return the means of both runs over the tasks of their difference."""
    if pair.comparison:
        chosen = [d for d in pair.comparison.differences if d.equivalence_p is not None]
        means = [sum(values) / len(chosen) for values in ([d.a for d in chosen], [d.b for d in chosen])]
    else:
        shared = select_points(pair_scores(view.runs[pair.ternary].record, view.runs[pair.twin].record))
        means = [sum(scores[side].value for scores in shared) / len(shared) for side in (0, 1)]
    return f"{means[0]:.1f}", f"{means[1]:.1f}"


def condition_table(view: BoardView) -> Table:
    """Return what the ranked runs of each column share."""
    names = ("task", "metric", "n", "ranked", "settings", "data", "signature")
    return Table(
        tuple(get_text(f"board.column.{name}") for name in names),
        tuple(_condition_row(column) for column in view.board.columns),
        keys=(3,),
    )


def _condition_row(column: BoardColumn) -> Row:
    ranked = sum(not score.differs for score in column.scores)
    settings = format_settings(column.settings)
    return Row(
        (
            Cell(name_column(column), (), "strong"),
            Cell(format_metric(column.metric)),
            Cell(plain_text(DASH if column.n is None else f"{column.n:,}")),
            Cell(get_text("board.ranked-of", n=ranked, total=len(column.scores))),
            Cell(join_texts(settings, " · ") if settings else get_text("board.default-settings"), (), "quiet"),
            Cell(plain_text((column.data or DASH)[:SHOWN_DATA_CHARS]), (), "code"),
            Cell(plain_text(column.signature), (), "code"),
        )
    )


def provenance_table(view: BoardView) -> Table:
    """Return where each run comes from."""
    names = ("run", "folder", "model", "weights", "version", "time", "machine")
    rows = []
    for run in view.board.runs:
        cells = (
            run.folder,
            run.model,
            run.weights or DASH,
            run.version or DASH,
            run.time[:16].replace("T", " "),
            run.machine,
        )
        kinds = ("code", "code", "code", "plain", "plain", "quiet")
        cells_of = (Cell(plain_text(text), (), kind) for text, kind in zip(cells, kinds, strict=True))  # type: ignore[arg-type]
        rows.append(Row((Cell(view.label(run.key), (), "strong"), *cells_of)))
    return Table(tuple(get_text(f"board.column.{name}") for name in names), tuple(rows), keys=(3, 5))


def list_excluded_tasks(means: Iterable[BoardMean]) -> list[Text]:
    """Return the tasks that are in no mean, because their metric is not in points."""
    return [format_task_name(task) for task in dict.fromkeys(task for mean in means for task in mean.left_out)]
