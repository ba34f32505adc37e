"""Compare two runs task by task: a test that suits the metric, corrected over tasks, and one verdict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bitnet_bench.comparison.comparability import find_run_mismatches, find_task_mismatches
from bitnet_bench.comparison.results import (
    MARGIN,
    Comparison,
    Difference,
    EffectSize,
    MeanDifference,
    RefusedTask,
    Sentence,
    Verdict,
)
from bitnet_bench.errors import BenchError
from bitnet_bench.metrics import Metric, load_metric
from bitnet_bench.runs.example_table import list_values, sort_by_document
from bitnet_bench.runs.records import Example, Score
from bitnet_bench.runs.run import LoadedRun
from bitnet_bench.statistics import NORMAL_95
from bitnet_bench.statistics.paired import PairedTest, make_bootstrap_pairs, make_pairs
from bitnet_bench.statistics.several import combine_stderrs, holm
from bitnet_bench.wording import Text

SIGNIFICANCE_LEVEL = 0.05


@dataclass(frozen=True)
class TaskComparison:
    """The result on the examples of one task, before it is corrected for the other tasks."""

    score: Score
    other: Score
    paired: PairedTest
    equivalence_p: float | None
    flipped_wrong: int
    flipped_right: int
    n: int


def compare(a: LoadedRun, b: LoadedRun, margin: float = MARGIN, metric_name: str | None = None) -> Comparison:
    """Compare run *a* with run *b*: their primary metrics, or *metric_name* where both have it.

    Tasks that are not pairs are in `refused` with what differs.
    """
    found: dict[str, TaskComparison | list[Text]] = {}
    for task in list_scored_tasks(a, b):
        found[task] = compare_task(a, b, task, margin, metric_name)
    return assemble_comparison(a, b, found, margin)


def list_scored_tasks(a: LoadedRun, b: LoadedRun) -> list[str]:
    """Return the tasks that either run has scored, in order."""
    return list(dict.fromkeys(score.task for run in (a, b) for score in run.record.scores))


def compare_task(
    a: LoadedRun, b: LoadedRun, task: str, margin: float, metric_name: str | None = None
) -> TaskComparison | list[Text]:
    """Return the comparison of the examples of *task*, or why they are not pairs."""
    obstacles = find_run_mismatches(a.record, b.record)
    if obstacles:
        return obstacles
    name = metric_name or _find_primary_metric(a, b, task)
    rows = (a.examples.get(task, ()), b.examples.get(task, ()))
    return find_task_mismatches(a, b, task, name, rows) or _compare_examples(a, b, task, name, rows, margin)


def _find_primary_metric(a: LoadedRun, b: LoadedRun, task: str) -> str:
    scores = [score for run in (a, b) for score in run.record.scores if score.task == task]
    return next((score.metric for score in scores if score.primary), scores[0].metric)


def _compare_examples(
    a: LoadedRun, b: LoadedRun, task: str, name: str, rows: tuple[Sequence[Example], Sequence[Example]], margin: float
) -> TaskComparison:
    ours, theirs = map(sort_by_document, rows)
    score, other = (next(s for s in r.record.scores if (s.task, s.metric) == (task, name)) for r in (a, b))
    paired = _pair_examples(score, ours, theirs)
    right, beside = (np.array(list_values(examples, "correct")) for examples in (ours, theirs))
    return TaskComparison(
        score,
        other,
        paired,
        paired.equivalence_p(margin) if score.limits[1] == 100.0 else None,
        int(((right < 1.0) & (beside >= 1.0)).sum()),
        int(((right >= 1.0) & (beside < 1.0)).sum()),
        len(ours),
    )


def _pair_examples(score: Score, ours: Sequence[Example], theirs: Sequence[Example]) -> PairedTest:
    """Return the paired test for *score*'s metric, or for the examples' own figures if it is not of this package."""
    known = _find_own_metric(score, len(ours[0].answers) if ours else 0)
    if known is None:
        right, beside = (np.array(list_values(rows, "correct"), dtype=float) for rows in (ours, theirs))
        return make_pairs(right, beside)
    a, b = known.example_statistics(ours), known.example_statistics(theirs)
    if _is_mean(known):
        return make_pairs(a, b)
    largest = score.limits[1] - score.limits[0] if score.limits[1] is not None else 0.0
    return make_bootstrap_pairs((a, b), (known.score_resamples, known.score_resamples), largest=largest)


def _find_own_metric(score: Score, answers: int) -> Metric | None:
    """Return the metric of *score*, over *answers* answers to each row, if this package has it so signed."""
    try:
        found = load_metric(score.metric, answers)
    except BenchError:
        return None
    return found if found.signature() == score.signature else None


def _is_mean(known: Metric) -> bool:
    from bitnet_bench.metrics.mean import MeanMetric

    return isinstance(known, MeanMetric)


def assemble_comparison(
    a: LoadedRun, b: LoadedRun, found: dict[str, TaskComparison | list[Text]], margin: float
) -> Comparison:
    """Return the comparison, with p-values adjusted over all tasks that are pairs."""
    pairs = {task: one for task, one in found.items() if isinstance(one, TaskComparison)}
    refused = {task: one for task, one in found.items() if not isinstance(one, TaskComparison)}
    different = holm([one.paired.p for one in pairs.values()])
    equal = iter(holm([one.equivalence_p for one in pairs.values() if one.equivalence_p is not None]))
    differences = tuple(
        _make_difference(task, one, p, None if one.equivalence_p is None else next(equal))
        for (task, one), p in zip(pairs.items(), different, strict=True)
    )
    return Comparison(
        a=a.record.name,
        b=b.record.name,
        margin=margin,
        differences=differences,
        refused=tuple(
            RefusedTask(task=task, differs=tuple(Sentence(ko=s.ko, en=s.en) for s in said))
            for task, said in refused.items()
        ),
        mean=make_mean_difference([d for d in differences if d.equivalence_p is not None], margin),
    )


def _make_difference(task: str, found: TaskComparison, p: float, equivalence_p: float | None) -> Difference:
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
        verdict=decide_verdict(paired.difference, p, equivalence_p, found.score.lower_is_better),
    )


def make_mean_difference(differences: Iterable[Difference], margin: float) -> MeanDifference | None:
    """Return the mean of *differences* in points, treating tasks as independent; None if there are none."""
    found = list(differences)
    error = combine_stderrs([d.stderr for d in found])
    if error is None:
        return None
    value = math.fsum(d.difference for d in found) / len(found)
    return judge_mean(value, error, tasks=len(found), n=sum(d.n for d in found), margin=margin)


def judge_mean(value: float, error: float, *, tasks: int, n: int, margin: float) -> MeanDifference:
    """Return the mean difference *value* with its interval and verdict, by its standard *error* (above 0)."""
    p = math.erfc(abs(value) / error / math.sqrt(2))
    equivalence_p = 0.5 * math.erfc((margin - abs(value)) / error / math.sqrt(2))
    return MeanDifference(
        tasks=tasks,
        n=n,
        difference=value,
        stderr=error,
        low=value - NORMAL_95 * error,
        high=value + NORMAL_95 * error,
        p=p,
        equivalence_p=equivalence_p,
        verdict=decide_verdict(value, p, equivalence_p),
    )


def decide_verdict(difference: float, p: float, equivalence_p: float | None, lower_is_better: bool = False) -> Verdict:
    """Return the verdict: a difference, equality within the margin, or undecided; nothing else decides it."""
    small = equivalence_p is not None and equivalence_p < SIGNIFICANCE_LEVEL
    if p >= SIGNIFICANCE_LEVEL:
        return "equal" if small else "undecided"
    if (difference > 0) != lower_is_better:
        return "slightly-better" if small else "better"
    return "slightly-worse" if small else "worse"
