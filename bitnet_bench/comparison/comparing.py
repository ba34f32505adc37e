"""Compare two runs task by task: the test that suits the metric, corrected over tasks, and one verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bitnet_bench.comparison.comparability import run_obstacles, task_obstacles
from bitnet_bench.comparison.results import (
    MARGIN,
    Comparison,
    Difference,
    EffectSize,
    MeanDifference,
    Refused,
    Verdict,
    Words,
)
from bitnet_bench.errors import BenchError
from bitnet_bench.metrics import Metric, metric
from bitnet_bench.runs.records import Example, Score
from bitnet_bench.runs.run import Results
from bitnet_bench.statistics import NORMAL_95
from bitnet_bench.statistics.paired import Paired, bootstrap_pairs, mean_pairs
from bitnet_bench.statistics.several import holm, mean_of_errors
from bitnet_bench.wording import Said

ALPHA = 0.05


@dataclass(frozen=True)
class Found:
    """What the examples of one task say, before the other tasks are known."""

    score: Score
    other: Score
    paired: Paired
    equivalence_p: float | None
    flipped_wrong: int
    flipped_right: int
    n: int


def compare(a: Results, b: Results, margin: float = MARGIN, metric_name: str | None = None) -> Comparison:
    """Compare run *a* with run *b*: their primary metrics, or *metric_name* wherever both have it.

    Tasks that are no pairs are in `refused` with what differs.
    """
    found: dict[str, Found | list[Said]] = {}
    for task in shared_tasks(a, b):
        found[task] = task_difference(a, b, task, margin, metric_name)
    return assembled(a, b, found, margin)


def shared_tasks(a: Results, b: Results) -> list[str]:
    """Return the tasks that either run has scored, in order."""
    return list(dict.fromkeys(score.task for run in (a, b) for score in run.record.scores))


def task_difference(
    a: Results, b: Results, task: str, margin: float, metric_name: str | None = None
) -> Found | list[Said]:
    """Return what the examples of *task* say, or what keeps them from being pairs."""
    obstacles = run_obstacles(a.record, b.record)
    if obstacles:
        return obstacles
    name = metric_name or _primary(a, b, task)
    rows = (a.examples.get(task, ()), b.examples.get(task, ()))
    return task_obstacles(a, b, task, name, rows) or _found(a, b, task, name, rows, margin)


def _primary(a: Results, b: Results, task: str) -> str:
    return next(s.metric for run in (a, b) for s in run.record.scores if s.task == task and s.primary)


def _found(
    a: Results, b: Results, task: str, name: str, rows: tuple[Sequence[Example], Sequence[Example]], margin: float
) -> Found:
    ours = sorted(rows[0], key=lambda e: e.doc_id)
    theirs = sorted(rows[1], key=lambda e: e.doc_id)
    score, other = (next(s for s in r.record.scores if (s.task, s.metric) == (task, name)) for r in (a, b))
    paired = _paired(score, ours, theirs)
    right, beside = (np.array([e.correct for e in examples]) for examples in (ours, theirs))
    return Found(
        score,
        other,
        paired,
        paired.equivalence_p(margin) if score.limits[1] == 100.0 else None,
        int(((right < 1.0) & (beside >= 1.0)).sum()),
        int(((right >= 1.0) & (beside < 1.0)).sum()),
        len(ours),
    )


def _paired(score: Score, ours: Sequence[Example], theirs: Sequence[Example]) -> Paired:
    """Return the comparison of the metric behind *score*, or of the examples' own figures where it is not ours."""
    known = _ours(score)
    if known is None:
        right, beside = (np.array([e.correct for e in rows], dtype=float) for rows in (ours, theirs))
        return mean_pairs(right, beside)
    a, b = known.numbers(ours), known.numbers(theirs)
    if _is_mean(known):
        return mean_pairs(a, b)
    largest = score.limits[1] - score.limits[0] if score.limits[1] is not None else 0.0
    return bootstrap_pairs((a, b), (known.weighted, known.weighted), largest=largest)


def _ours(score: Score) -> Metric | None:
    """Return the metric of *score* if it is one of this package, and this package still computes the same."""
    try:
        found = metric(score.metric)
    except BenchError:
        return None
    return found if found.signature() == score.signature else None


def _is_mean(known: Metric) -> bool:
    from bitnet_bench.metrics.mean import MeanMetric

    return isinstance(known, MeanMetric)


def assembled(a: Results, b: Results, found: dict[str, Found | list[Said]], margin: float) -> Comparison:
    """Return the comparison, its p-values adjusted over all tasks that are pairs."""
    pairs = {task: one for task, one in found.items() if isinstance(one, Found)}
    refused = {task: one for task, one in found.items() if not isinstance(one, Found)}
    different = holm([one.paired.p for one in pairs.values()])
    equal = iter(holm([one.equivalence_p for one in pairs.values() if one.equivalence_p is not None]))
    differences = tuple(
        _difference(task, one, p, None if one.equivalence_p is None else next(equal))
        for (task, one), p in zip(pairs.items(), different, strict=True)
    )
    return Comparison(
        a=a.record.name,
        b=b.record.name,
        margin=margin,
        differences=differences,
        refused=tuple(
            Refused(task=task, differs=tuple(Words(ko=s.ko, en=s.en) for s in said)) for task, said in refused.items()
        ),
        mean=mean_difference([d for d in differences if d.equivalence_p is not None], margin),
    )


def _difference(task: str, found: Found, p: float, equivalence_p: float | None) -> Difference:
    paired, effect = found.paired, found.paired.effect
    low, high = paired.interval()
    return Difference(
        task=task,
        metric=found.score.metric,
        n=found.n,
        a=found.score.value,
        b=found.other.value,
        difference=paired.difference,
        stderr=paired.stderr,
        low=low,
        high=high,
        test=paired.test,  # type: ignore[arg-type]  # checked by the record
        p=paired.p,
        p_holm=p,
        equivalence_p=equivalence_p,
        effect=EffectSize(kind=effect.kind, value=effect.value, low=effect.interval[0], high=effect.interval[1])
        if effect
        else None,
        lower_is_better=found.score.lower_is_better,
        flipped_wrong=found.flipped_wrong,
        flipped_right=found.flipped_right,
        verdict=verdict(paired.difference, p, equivalence_p, found.score.lower_is_better),
    )


def mean_difference(differences: Iterable[Difference], margin: float) -> MeanDifference | None:
    """Return the mean of *differences* in points, tasks taken as independent; None if there are none."""
    found = list(differences)
    error = mean_of_errors([d.stderr for d in found])
    if error is None:
        return None
    value = math.fsum(d.difference for d in found) / len(found)
    p = math.erfc(abs(value) / error / math.sqrt(2))
    equivalence_p = 0.5 * math.erfc((margin - abs(value)) / error / math.sqrt(2))
    return MeanDifference(
        tasks=len(found),
        n=sum(d.n for d in found),
        difference=value,
        stderr=error,
        low=value - NORMAL_95 * error,
        high=value + NORMAL_95 * error,
        p=p,
        equivalence_p=equivalence_p,
        verdict=verdict(value, p, equivalence_p),
    )


def verdict(difference: float, p: float, equivalence_p: float | None, lower_is_better: bool = False) -> Verdict:
    """Decide between a difference, equality within the margin, and knowing too little: the only place that does."""
    small = equivalence_p is not None and equivalence_p < ALPHA
    if p >= ALPHA:
        return "equal" if small else "undecided"
    if (difference > 0) != lower_is_better:
        return "slightly-better" if small else "better"
    return "slightly-worse" if small else "worse"
