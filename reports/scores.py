"""Lay out scores: a row per task and metric, a cell per run, and the signatures behind them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bitnet_bench.records import Score
from bitnet_bench.reports.figures import DASH, number, points, span
from bitnet_bench.reports.runs import NamedRun
from bitnet_bench.statistics import NORMAL_95, interval


@dataclass(frozen=True)
class ScoreCell:
    """A score as it is shown; *note* says why there is no score or no interval."""

    run: NamedRun
    value: str
    margin: str
    span: str
    note: str


@dataclass(frozen=True)
class ScoreRow:
    """One metric of one task over all runs."""

    task: str
    metric: str
    primary: bool
    n: str
    chance: str
    majority: str
    cells: tuple[ScoreCell, ...]


@dataclass(frozen=True)
class SignatureRow:
    """What exactly a score is; *runs* are the letters of the runs that share it."""

    task: str
    metric: str
    signature: str
    runs: str


@dataclass(frozen=True)
class ScoreTable:
    """All scores. *conflicts* names tasks whose signatures differ between runs."""

    rows: tuple[ScoreRow, ...]
    signatures: tuple[SignatureRow, ...]
    conflicts: tuple[str, ...]


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


def mean_of_errors(errors: Sequence[float | None]) -> float | None:
    """Return the standard error of a mean of independent estimates, sqrt(sum e^2) / k; None if one is missing."""
    known = [error for error in errors if error is not None]
    if not known or len(known) < len(errors):
        return None
    return math.sqrt(sum(error**2 for error in known)) / len(known)


def score_interval(score: Score) -> tuple[float, float] | None:
    """Return the 95 % interval of a score inside its metric's limits; None without a standard error."""
    return interval(score.value, score.stderr, *score.limits)


def score_table(runs: Sequence[NamedRun]) -> ScoreTable:
    """Return the scores of *runs*, primary metrics first."""
    keys = list(dict.fromkeys(key for run in runs for key in run.scores))
    rows = sorted((_row(key, runs) for key in keys), key=lambda row: not row.primary)
    signatures = tuple(signature for row in rows for signature in _signatures((row.task, row.metric), runs))
    seen = [(signature.task, signature.metric) for signature in signatures]
    conflicts = dict.fromkeys(f"{task} ({metric})" for task, metric in seen if seen.count((task, metric)) > 1)
    return ScoreTable(tuple(rows), signatures, tuple(conflicts))


def _row(key: tuple[str, str], runs: Sequence[NamedRun]) -> ScoreRow:
    having = [(run, run.scores[key]) for run in runs if key in run.scores]
    return ScoreRow(
        task=key[0],
        metric=key[1] + (" ↓" if any(score.lower_is_better for _, score in having) else ""),
        primary=any(score.primary for _, score in having),
        n=_common((run.key, f"{score.n:,}") for run, score in having),
        chance=_common((run.key, number(score.chance)) for run, score in having if score.chance is not None),
        majority=_common((run.key, points(score.majority)) for run, score in having if score.majority is not None),
        cells=tuple(_cell(run, run.scores.get(key)) for run in runs),
    )


def _common(values: Iterable[tuple[str, str]]) -> str:
    """Return the value that all runs share, or each run's letter with its own; a dash if there are none."""
    pairs = list(values)
    if len({value for _, value in pairs}) <= 1:
        return pairs[0][1] if pairs else DASH
    return " · ".join(f"{key} {value}" for key, value in pairs)


def _cell(run: NamedRun, score: Score | None) -> ScoreCell:
    if score is None:
        return ScoreCell(run, DASH, "", "", "이 과제를 채점하지 않음")
    if score.stderr is None:
        return ScoreCell(run, _shown(score, score.value), DASH, "", "표준오차가 정의되지 않음")
    note = "모든 예제의 결과가 같아 구간이 실제보다 좁음" if score.stderr == 0 else ""
    low, high = score_interval(score) or (score.value, score.value)
    limits = span((low, high)) if score.limits[1] else f"{_shown(score, low)} ~ {_shown(score, high)}"
    return ScoreCell(run, _shown(score, score.value), _shown(score, NORMAL_95 * score.stderr), limits, note)


def _shown(score: Score, value: float) -> str:
    """Return *value* with one decimal, or with three where the metric is no percentage but a small number."""
    return points(value) if score.limits[1] else f"{value:.3f}"


def _signatures(key: tuple[str, str], runs: Sequence[NamedRun]) -> Iterable[SignatureRow]:
    sharing: dict[str, list[str]] = {}
    for run in runs:
        if key in run.scores:
            sharing.setdefault(run.scores[key].signature, []).append(run.key)
    for signature, letters in sharing.items():
        yield SignatureRow(key[0], key[1], signature, " ".join(letters))
