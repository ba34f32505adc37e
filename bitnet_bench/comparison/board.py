"""Make a leaderboard of runs: what is ranked with what, which ranks are certain, and which means there are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from bitnet_bench.comparison.board_values import (
    SHOWN_DIGEST_CHARS,
    Board,
    BoardColumn,
    BoardMean,
    BoardRun,
    BoardScore,
    BoardTwins,
    MissingMean,
)
from bitnet_bench.comparison.results import Sentence
from bitnet_bench.comparison.score_conditions import (
    ScoreConditions,
    explain_difference,
    list_conditions,
    read_conditions,
)
from bitnet_bench.errors import BenchError, UsageError, did_you_mean
from bitnet_bench.runs.jobs import BoardOptions
from bitnet_bench.runs.records import RunRecord, Score
from bitnet_bench.statistics import interval
from bitnet_bench.statistics.ranks import rank_intervals
from bitnet_bench.statistics.several import combine_stderrs

Records = Mapping[str, RunRecord]
"""Records by the key of their run."""


def make_board(
    records: Records, folders: Mapping[str, str], twins: Sequence[BoardTwins], options: BoardOptions
) -> Board:
    """Return the leaderboard of *records*, which are those with a selected score (`select_scores`)."""
    columns = make_columns(records, options)
    return Board(
        suites=options.suites,
        tasks=options.tasks,
        categories=options.categories,
        margin=options.margin,
        runs=tuple(_describe_run(key, record, folders[key]) for key, record in records.items()),
        columns=columns,
        means=() if options.categories else make_means(records, columns),
        twins=tuple(twins),
    )


def _describe_run(key: str, record: RunRecord, folder: str) -> BoardRun:
    checkpoint, here = record.checkpoint, record.environment
    read_as = f" ({checkpoint.read_as})" if checkpoint.read_as else ""
    return BoardRun(
        key=key,
        name=record.name,
        folder=folder,
        model=checkpoint.source,
        weights=None if checkpoint.is_served else checkpoint.sha256[:SHOWN_DIGEST_CHARS] + read_as,
        parameters=checkpoint.parameters,
        ternary=checkpoint.is_ternary,
        precision=record.precision,
        backend=record.backend,
        settings=record.settings,
        version=here.packages.get("bitnet-bench"),
        machine=", ".join(filter(None, (here.cpu, here.gpu))),
        time=here.time,
    )


def select_scores(records: Records, options: BoardOptions) -> dict[str, RunRecord]:
    """Return the records that have a selected score, with these alone.

    UsageError with the nearest name for a suite, a task or a category that no run has; BenchError if no score is left.
    """
    _check_names("suite", options.suites, (s.task.partition(":")[0] for r in records.values() for s in r.scores))
    tasks = {score.task for record in records.values() for score in record.scores}
    _check_names("task", options.tasks, tasks | {task.partition(":")[2] for task in tasks})
    parts = {part for record in records.values() for score in record.scores if score.primary for part in score.parts}
    _check_names("category", options.categories, parts | {part.partition("=")[2] for part in parts})
    found = {}
    for key, record in records.items():
        scores = tuple(score for score in record.scores if is_selected(score, options))
        if scores:
            found[key] = record.model_copy(update={"scores": scores})
    if not found:
        raise BenchError(
            "No run has a score on what was chosen.",
            "Choose fewer of `suite`, `task` and `category`, or score runs with `bitnet-bench evaluate`.",
        )
    return found


def _check_names(kind: str, given: Iterable[str], there: Iterable[str]) -> None:
    known = sorted({name for name in there if name})
    for name in given:
        if name not in known:
            names = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
            hint = f"{did_you_mean(name, known)} There are: {names}." if known else "The runs have none."
            raise UsageError(f"No run has the {kind} {name!r}.", hint.strip())


def is_selected(score: Score, options: BoardOptions) -> bool:
    """Return whether the leaderboard shows *score*: a primary one of the chosen suites, tasks and categories."""
    suite, _, name = score.task.partition(":")
    return (
        score.primary
        and (not options.suites or suite in options.suites)
        and (not options.tasks or score.task in options.tasks or name in options.tasks)
        and (not options.categories or any(find_part(score, name) for name in options.categories))
    )


def find_part(score: Score, category: str) -> str | None:
    """Return the part of *score* that is called *category*, or KIND=*category* such as `subject=law`."""
    return next((part for part in score.parts if category in (part, part.partition("=")[2])), None)


def make_columns(records: Records, options: BoardOptions) -> tuple[BoardColumn, ...]:
    """Return a column for each task, or for each chosen category of each task, suite by suite."""
    tasks = list(dict.fromkeys(score.task for record in records.values() for score in record.scores))
    suites = list(dict.fromkeys(task.partition(":")[0] for task in tasks))
    columns = []
    for task in sorted(tasks, key=lambda task: suites.index(task.partition(":")[0])):
        scores = {key: score for key, record in records.items() for score in record.scores if score.task == task}
        for category in options.categories or (None,):
            shown = {key: score for key, score in scores.items() if category is None or find_part(score, category)}
            if shown:
                columns.append(_make_column(records, shown, category))
    return tuple(columns)


def _make_column(records: Records, scores: Mapping[str, Score], category: str | None) -> BoardColumn:
    conditions = {key: read_conditions(records[key], score) for key, score in scores.items()}
    chosen = choose_conditions(conditions.values())
    same = [key for key, one in conditions.items() if one == chosen]
    ranked = same if chosen.is_known else same[:1]
    first = ranked[0]
    reference = scores[first]
    lower = reference.lower_is_better
    ours = [_make_score(key, scores[key], category) for key in ranked]
    others = [
        _make_score(key, scores[key], category).model_copy(
            update={"differs": _explain((records[key], scores[key]), (records[first], reference))}
        )
        for key in scores
        if key not in ranked
    ]
    return BoardColumn(
        task=reference.task,
        category=category,
        metric=reference.metric,
        lower_is_better=lower,
        in_points=reference.limits[1] == 100.0 and not lower,
        chance=reference.chance if category is None else None,
        n=_choose_part(reference, category).n or None,
        data=chosen.data,
        signature=reference.signature,
        settings=list_conditions(records[first].settings),
        scores=(*_rank(ours, lower), *_sort_by_value(others, lower)),
    )


def choose_conditions(found: Iterable[ScoreConditions]) -> ScoreConditions:
    """Return the conditions that most scores share; of as many, those with more examples, then the first.

    Conditions whose rows are not known come last.
    """
    counted = Counter(found)
    return max(counted, key=lambda one: (one.is_known, counted[one], one.n))


def _explain(ours: tuple[RunRecord, Score], ranked: tuple[RunRecord, Score]) -> tuple[Sentence, ...]:
    return tuple(Sentence(ko=one.ko, en=one.en) for one in explain_difference(ours, ranked))


def _make_score(key: str, score: Score, category: str | None) -> BoardScore:
    shown = _choose_part(score, category)
    if not shown.n:
        return BoardScore(run=key, value=shown.value, stderr=None, low=None, high=None, n=None)
    low, high = shown.interval or (None, None)
    return BoardScore(run=key, value=shown.value, stderr=shown.stderr_for_means, low=low, high=high, n=shown.n)


def _choose_part(score: Score, category: str | None) -> Score:
    """Return *score*, or what it is on *category*, with 0 rows and no error if their number is not recorded."""
    part = None if category is None else find_part(score, category)
    if part is None:
        return score
    error, count = score.part_errors.get(part), score.part_counts.get(part, 0)
    return score.model_copy(update={"value": score.parts[part], "stderr": error, "n": count})


def _rank(scores: Sequence[BoardScore], lower: bool) -> list[BoardScore]:
    """Return scores with their ranks, best first; one without a standard error has none."""
    tested = [score for score in scores if score.stderr is not None]
    ranks = rank_intervals([one.value for one in tested], [one.stderr or 0.0 for one in tested], lower)
    by_run = {score.run: rank for score, rank in zip(tested, ranks, strict=True)}
    ranked = [score.model_copy(update={"rank": by_run.get(score.run)}) for score in scores]
    return _sort_by_value(ranked, lower)


def _sort_by_value(scores: Iterable[BoardScore], lower: bool) -> list[BoardScore]:
    return sorted(scores, key=lambda one: one.value if lower else -one.value)


def make_means(records: Records, columns: Sequence[BoardColumn]) -> tuple[BoardMean, ...]:
    """Return the mean of each suite, after that of all tasks if there are several suites."""
    suites = list(dict.fromkeys(column.task.partition(":")[0] for column in columns))
    chosen: list[str | None] = [None, *suites] if len(suites) > 1 else list(suites)
    return tuple(
        _make_mean(records, suite, [one for one in columns if suite in (None, one.task.partition(":")[0])])
        for suite in chosen
    )


def _make_mean(records: Records, suite: str | None, columns: Sequence[BoardColumn]) -> BoardMean:
    counted = [column for column in columns if column.in_points]
    tasks = tuple(column.task for column in counted)
    by_task = {column.task: {score.run: score for score in column.scores} for column in counted}
    whole, missing = {}, []
    for key in dict.fromkeys(score.run for column in columns for score in column.scores):
        lacks = tuple(task for task in tasks if key not in by_task[task])
        if lacks:
            missing.append(MissingMean(run=key, lacks=lacks))
        elif tasks:
            whole[key] = [by_task[task][key] for task in tasks]
    return BoardMean(
        suite=suite,
        tasks=tasks,
        left_out=tuple(column.task for column in columns if not column.in_points),
        scores=_rank_means(records, whole, tasks),
        missing=tuple(missing),
    )


def _rank_means(
    records: Records, whole: Mapping[str, Sequence[BoardScore]], tasks: Sequence[str]
) -> tuple[BoardScore, ...]:
    """Return the means, ranked where all tasks were scored under the conditions that most runs share."""
    if not whole:
        return ()
    primary = {key: {score.task: score for score in records[key].scores} for key in whole}
    conditions = {key: tuple(read_conditions(records[key], primary[key][task]) for task in tasks) for key in whole}
    counted = Counter(conditions.values())
    chosen = max(counted, key=lambda one: (all(c.is_known for c in one), counted[one], sum(c.n for c in one)))
    first = next(key for key, one in conditions.items() if one == chosen)
    is_known = all(one.is_known for one in chosen)
    ranked, others = [], []
    for key, scores in whole.items():
        if conditions[key] == chosen and (is_known or key == first):
            ranked.append(_compute_mean(key, scores))
        else:
            said = [
                one
                for task in tasks
                for one in _explain((records[key], primary[key][task]), (records[first], primary[first][task]))
            ]
            others.append(_compute_mean(key, scores).model_copy(update={"differs": tuple(dict.fromkeys(said))}))
    return (*_rank(ranked, lower=False), *_sort_by_value(others, lower=False))


def _compute_mean(key: str, scores: Sequence[BoardScore]) -> BoardScore:
    """Return the plain mean; its standard error treats tasks as independent."""
    value = math.fsum(score.value for score in scores) / len(scores)
    stderr = combine_stderrs([score.stderr for score in scores])
    low, high = interval(value, stderr) or (None, None)
    n = sum(score.n or 0 for score in scores)
    return BoardScore(run=key, value=value, stderr=stderr, low=low, high=high, n=n)
