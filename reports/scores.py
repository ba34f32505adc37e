"""Lay out scores: a row per task and metric, a cell per run, chance beside them, and the signatures behind them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bitnet_bench.reports.charts import score_chart
from bitnet_bench.reports.figures import DASH, missing, number, points, span
from bitnet_bench.reports.named_runs import NamedRun
from bitnet_bench.reports.sections import Block, Cell, Group, Paragraph, Row, Section, Table
from bitnet_bench.runs.records import Score
from bitnet_bench.statistics import NORMAL_95, interval
from bitnet_bench.statistics.several import mean_of_errors
from bitnet_bench.wording import Said, plain, say


@dataclass(frozen=True)
class Mean:
    """The mean of primary scores over *tasks* tasks."""

    value: float
    stderr: float | None
    tasks: int


def primary_mean(run: NamedRun) -> Mean | None:
    """Return the mean of the primary scores of which more is better; its error takes tasks as independent."""
    scores = [score for score in run.primary.values() if not score.lower_is_better]
    if not scores:
        return None
    return Mean(sum(s.value for s in scores) / len(scores), mean_of_errors([s.stderr for s in scores]), len(scores))


def score_interval(score: Score) -> tuple[float, float] | None:
    """Return the 95 % interval of a score inside its metric's limits; None without a standard error."""
    return interval(score.value, score.stderr, *score.limits)


def score_section(runs: Sequence[NamedRun]) -> Section:
    """Return the section of scores, primary metrics first."""
    keys = list(dict.fromkeys(key for run in runs for key in run.scores))
    if not keys:
        return Section("scores", say("scores.title"), (Paragraph(say("scores.none")),))
    primary = [key for key in keys if any(key in run.scores and run.scores[key].primary for run in runs)]
    others = [key for key in keys if key not in primary]
    blocks: list[Block] = [*score_chart(runs), _table(primary, runs), Paragraph(say("scores.hint"), "hint")]
    blocks += [Paragraph(conflict, "warning") for conflict in _conflicts(keys, runs)]
    if others:
        blocks.append(Group(say("scores.others", count=len(others)), (_table(others, runs),)))
    signatures = tuple(_signature_rows(keys, runs))
    headings = tuple(say(f"column.{key}") for key in ("task", "metric", "signature", "runs"))
    blocks.append(Group(say("scores.signatures", count=len(signatures)), (Table(headings, signatures),)))
    return Section("scores", say("scores.title"), tuple(blocks))


def _table(keys: Sequence[tuple[str, str]], runs: Sequence[NamedRun]) -> Table:
    headings = [say(f"column.{key}") for key in ("task", "metric", "n", "chance", "majority")]
    return Table((*headings, *(run.label for run in runs)), tuple(_row(key, runs) for key in keys))


def _row(key: tuple[str, str], runs: Sequence[NamedRun]) -> Row:
    having = [(run, run.scores[key]) for run in runs if key in run.scores]
    down = " ↓" if any(score.lower_is_better for _, score in having) else ""
    return Row(
        (
            Cell(plain(key[0]), (), "strong"),
            Cell(plain(key[1] + down)),
            Cell(plain(_common((run.key, f"{score.n:,}") for run, score in having))),
            Cell(plain(_common((r.key, number(s.chance)) for r, s in having if s.chance is not None)), (), "quiet"),
            Cell(plain(_common((r.key, points(s.majority)) for r, s in having if s.majority is not None)), (), "quiet"),
            *(_cell(run.scores.get(key)) for run in runs),
        )
    )


def _common(values: Iterable[tuple[str, str]]) -> str:
    """Return the value that all runs share, or each run's letter with its own; a dash if there are none."""
    pairs = list(values)
    if len({value for _, value in pairs}) <= 1:
        return pairs[0][1] if pairs else DASH
    return " · ".join(f"{key} {value}" for key, value in pairs)


def _cell(score: Score | None) -> Cell:
    if score is None:
        return missing(say("scores.not-scored"))
    limits = score_interval(score)
    if score.stderr is None or limits is None:
        return Cell(plain(shown(score, score.value)), (say("scores.no-error"),), "strong")
    small = [span(shown(score, limits[0]), shown(score, limits[1]))]
    if score.stderr == 0:
        small.append(say("scores.all-equal"))
    margin = shown(score, NORMAL_95 * score.stderr)
    return Cell(plain(f"{shown(score, score.value)} ± {margin}"), tuple(small), "strong")


def shown(score: Score, value: float) -> str:
    """Return *value* with one decimal, or with three where the metric is no percentage but a small number."""
    return points(value) if score.limits[1] else f"{value:.3f}"


def _signatures(key: tuple[str, str], runs: Sequence[NamedRun]) -> dict[str, list[str]]:
    """Return the signatures of a score, each with the letters of the runs that share it."""
    sharing: dict[str, list[str]] = {}
    for run in runs:
        if key in run.scores:
            sharing.setdefault(run.scores[key].signature, []).append(run.key)
    return sharing


def _signature_rows(keys: Sequence[tuple[str, str]], runs: Sequence[NamedRun]) -> Iterable[Row]:
    for task, metric in keys:
        for signature, letters in _signatures((task, metric), runs).items():
            yield Row(
                (
                    Cell(plain(task), (), "strong"),
                    Cell(plain(metric)),
                    Cell(plain(signature), (), "code"),
                    Cell(plain(" ".join(letters))),
                )
            )


def _conflicts(keys: Sequence[tuple[str, str]], runs: Sequence[NamedRun]) -> Iterable[Said]:
    named = [f"{task} ({metric})" for task, metric in keys if len(_signatures((task, metric), runs)) > 1]
    if named:
        yield say("scores.conflicts", tasks=", ".join(named))
